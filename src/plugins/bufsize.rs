//! *bufsize*: lowers the UDP size that a client offers, so that answers need not be fragmented.

use crate::chain::{Exchange, Later, Plugin, Step};

/// The size without an argument, of DNS flag day 2020.
pub const DEFAULT: u16 = 1_232;

/// The plugin.
pub struct Bufsize {
    /// The most octets of a UDP answer, 512–4096.
    pub size: u16,
}

impl Plugin for Bufsize {
    fn name(&self) -> &'static str {
        "bufsize"
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> Option<Later> {
        exchange.reply().max_udp = Some(self.size);
        None
    }
}
