//! DNS over UDP: workers that read, answer and forward packets in batches.

pub(in crate::serve) mod forward;
pub(in crate::serve) mod mailbox;
pub(in crate::serve) mod mmsg;
pub(in crate::serve) mod upstream_sockets;
pub(in crate::serve) mod worker;
