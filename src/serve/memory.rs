//! A limit on the memory that encrypted transports hold for their clients: queries that come, and answers that clients
//! do not read. Each connection has a share of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What encrypted transports may hold of queries and answers, over all connections, in bytes.
pub(crate) const ALL_CONNECTIONS: usize = 64 << 20;
/// What one connection may hold, in bytes.
pub(crate) const ONE_CONNECTION: usize = 1 << 20;

/// A limit on bytes, of one connection or of all.
#[derive(Debug)]
pub(crate) struct MemoryLimit {
    held: AtomicUsize,
    limit: usize,
    /// The limit of all connections.
    within: Option<Arc<MemoryLimit>>,
}

impl MemoryLimit {
    /// The limit of all connections.
    pub(crate) fn of_all(limit: usize) -> Arc<MemoryLimit> {
        Arc::new(MemoryLimit { held: AtomicUsize::new(0), limit, within: None })
    }

    /// The limit of one connection.
    pub(crate) fn of_one(limit: usize, within: Arc<MemoryLimit>) -> Arc<MemoryLimit> {
        Arc::new(MemoryLimit { held: AtomicUsize::new(0), limit, within: Some(within) })
    }

    /// A permit for no bytes yet.
    pub(crate) fn permit(self: &Arc<Self>) -> MemoryPermit {
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

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(within) = &self.within {
            within.give_back(bytes);
        }
    }
}

/// Bytes that are held; given back when dropped.
#[derive(Debug)]
pub(crate) struct MemoryPermit {
    limit: Arc<MemoryLimit>,
    bytes: usize,
}

impl MemoryPermit {
    /// Holds this number of bytes instead. Says whether the limit allows it; if not, nothing changes.
    #[must_use]
    pub(crate) fn resize(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes && !self.limit.add(bytes - self.bytes) {
            return false;
        }
        if bytes < self.bytes {
            self.limit.give_back(self.bytes - bytes);
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        self.limit.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_limited_for_one_connection_and_for_all() {
        let all = MemoryLimit::of_all(100);
        let (one, other) = (MemoryLimit::of_one(80, all.clone()), MemoryLimit::of_one(80, all.clone()));
        let (mut held, mut more) = (one.permit(), other.permit());
        assert!(held.resize(70));
        assert!(!one.permit().resize(20) && !more.resize(40));
        assert!(held.resize(20) && !held.resize(90));
        assert!(more.resize(80));
        drop((held, more));
        assert_eq!(all.held.load(Ordering::Relaxed), 0);
        assert_eq!(one.held.load(Ordering::Relaxed), 0);
    }
}
