//! DNS over UDP: workers that read, answer and forward packets in batches.

pub(crate) mod forward;
mod late;
pub(crate) mod listener;
pub(crate) mod mailbox;
pub(crate) mod mmsg;
pub(crate) mod upstream_sockets;
pub(crate) mod worker;
