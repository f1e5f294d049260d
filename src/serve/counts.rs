//! The counters of sockets. `app` defines their names in `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counts {
    ($($(#[$doc:meta])* $field:ident),* $(,)?) => {
        /// The counters of a worker, or of all connections. Their sums are read for metrics.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $field: SharedCounter,)*
        }

        /// The sums of the counters of all workers and connections.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct ServerCounts {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl ServerCounts {
            /// Adds the counters of a worker, or of the connections.
            pub(crate) fn add(&mut self, counters: &Counters) {
                $(self.$field += counters.$field.0.load(Ordering::Relaxed);)*
            }
        }
    };
}

counts! {
    /// Responses that were sent.
    answered,
    /// Messages without a response: too short, responses themselves, or dropped by a plugin.
    unanswered,
    /// UDP packets dropped because their source cannot be a client: port 0, or an unspecified, multicast or broadcast
    /// address.
    bad_source,
    /// UDP responses that could not be sent.
    send_failed,
    /// Reads that failed.
    receive_failed,
    /// Panics of plugins; the client got SERVFAIL.
    panics,
    /// Pending queries.
    later,
    /// Pending queries, and requests that had come in part, which were ended at once because another got their permit.
    overloads,
    /// TCP connections accepted.
    connections,
    /// Connections closed at a limit, for another connection.
    connections_evicted,
    /// Connections refused at a limit.
    connections_refused,
    /// TCP connections closed by a timeout.
    connections_timed_out,
    /// Calls of `accept` that failed.
    accept_failed,
}

/// A number that only increases, added to by several threads.
#[derive(Debug, Default)]
pub(crate) struct SharedCounter(AtomicU64);

impl SharedCounter {
    /// Adds a number. On x86 and ARM this is one uncontended instruction, and it is called once for a batch.
    pub(crate) fn add(&self, more: u64) {
        if more > 0 {
            self.0.fetch_add(more, Ordering::Relaxed);
        }
    }
}
