//! What the sockets count. Names in `/metrics` are given in `app`.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counts {
    ($($(#[$doc:meta])* $field:ident),* $(,)?) => {
        /// What one worker has counted, or all connections together. Read to sum them up.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $field: SharedCounter,)*
        }

        /// A sum over all workers and connections.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct ServerCounts {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl ServerCounts {
            /// Adds what a worker, or the connections, have counted.
            pub(crate) fn add(&mut self, counters: &Counters) {
                $(self.$field += counters.$field.0.load(Ordering::Relaxed);)*
            }
        }
    };
}

counts! {
    /// Answers that the kernel took.
    answered,
    /// Packets without an answer: too short, responses, or dropped by a plugin.
    silent,
    /// UDP packets dropped because their source can be no client: port 0, no address, or many at once.
    bad_source,
    /// UDP answers that the kernel did not take.
    send_failed,
    /// Reads that failed.
    receive_failed,
    /// Panics of plugins; the client got SERVFAIL.
    panics,
    /// Pending queries.
    later,
    /// Pending queries that were answered at once because another took their permit.
    overloads,
    /// TCP connections accepted.
    connections,
    /// Connections closed at a limit to make room for another.
    connections_evicted,
    /// Connections closed at once, at a limit.
    connections_refused,
    /// TCP connections cut by a timeout.
    connections_timed_out,
    /// Calls of `accept` that failed.
    accept_failed,
}

/// A number that only increases, added to by several threads.
#[derive(Debug, Default)]
pub(crate) struct SharedCounter(AtomicU64);

impl SharedCounter {
    /// Adds to it. On x86 and ARM this is one uncontended instruction, and it is done once for a batch.
    pub(crate) fn add(&self, more: u64) {
        if more > 0 {
            self.0.fetch_add(more, Ordering::Relaxed);
        }
    }
}
