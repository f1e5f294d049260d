//! A limit on the memory for messages that are being read, and for messages that have not been read by the other side.
//! Each connection may have a share of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The maximum memory for queries and responses of all encrypted connections, in bytes.
pub const ALL_CONNECTIONS: usize = 64 << 20;
/// The maximum memory of a connection, in bytes.
pub const ONE_CONNECTION: usize = 1 << 20;

/// A limit on the memory of a connection, or of all connections.
#[derive(Debug)]
pub struct MemoryLimit {
    held: AtomicUsize,
    limit: usize,
    /// The limit of all connections.
    within: Option<Arc<MemoryLimit>>,
}

impl MemoryLimit {
    /// Creates the limit of all connections.
    pub fn of_all(limit: usize) -> Arc<MemoryLimit> {
        Arc::new(MemoryLimit { held: AtomicUsize::new(0), limit, within: None })
    }

    /// Creates the limit of a connection.
    pub fn of_one(limit: usize, within: Arc<MemoryLimit>) -> Arc<MemoryLimit> {
        Arc::new(MemoryLimit { held: AtomicUsize::new(0), limit, within: Some(within) })
    }

    /// Returns a permit for 0 bytes.
    pub fn permit(self: &Arc<Self>) -> MemoryPermit {
        MemoryPermit { limit: self.clone(), bytes: 0 }
    }

    fn add(&self, bytes: usize) -> bool {
        if self.held.fetch_add(bytes, Ordering::Relaxed) + bytes > self.limit {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        if self.within.as_ref().is_some_and(|within| !within.add(bytes)) {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        true
    }

    fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(within) = &self.within {
            within.release(bytes);
        }
    }
}

/// The right to use a number of bytes. It is released when this is dropped.
#[derive(Debug)]
pub struct MemoryPermit {
    limit: Arc<MemoryLimit>,
    bytes: usize,
}

impl MemoryPermit {
    /// Changes the number of bytes. Returns whether the limit allows it; if not, nothing changes.
    #[must_use]
    pub fn resize(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes && !self.limit.add(bytes - self.bytes) {
            return false;
        }
        if bytes < self.bytes {
            self.limit.release(self.bytes - bytes);
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        self.limit.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_limited_for_one_connection_and_for_all() {
        let all = MemoryLimit::of_all(100);
        let one = MemoryLimit::of_one(80, all.clone());
        let other = MemoryLimit::of_one(80, all.clone());
        let mut held = one.permit();
        let mut more = other.permit();
        assert!(held.resize(70));
        assert!(!one.permit().resize(20) && !more.resize(40));
        assert!(held.resize(20) && !held.resize(90));
        assert!(more.resize(80));
        drop((held, more));
        assert_eq!(all.held.load(Ordering::Relaxed), 0);
        assert_eq!(one.held.load(Ordering::Relaxed), 0);
    }
}
