//! What the sockets count. Their names in `/metrics` are given elsewhere.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counts {
    ($($(#[$doc:meta])* $field:ident),* $(,)?) => {
        /// What one worker has counted, or all TCP connections together. Read by whoever sums them up.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(super) struct Counters {
            $($(#[$doc])* pub(super) $field: Counter,)*
        }

        /// A sum over all workers and connections.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Counts {
            /// Adds what one has counted.
            pub(super) fn add(&mut self, counters: &Counters) {
                $(self.$field += counters.$field.0.load(Ordering::Relaxed);)*
            }
        }
    };
}

counts! {
    /// Answers given to the kernel.
    answered,
    /// Packets that were met with silence: too short, answers, or a plugin's wish.
    silent,
    /// UDP packets dropped because their source can be no client: port 0, no address, or many at once.
    bad_source,
    /// UDP answers that the kernel did not take.
    send_failed,
    /// Reads that failed.
    receive_failed,
    /// Plugins that panicked; the client got SERVFAIL.
    panics,
    /// Queries whose answer came later.
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

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Adds to it. On x86 and ARM this is one uncontended instruction, and it is done once for a batch.
    pub(super) fn add(&self, more: u64) {
        if more > 0 {
            self.0.fetch_add(more, Ordering::Relaxed);
        }
    }
}
