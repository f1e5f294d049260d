//! *nsid*: names this server to whom asks for it (RFC 5001).

use crate::chain::{Exchange, Later, Plugin, Step};

/// The option's code.
const NSID: u16 = 3;

/// The plugin.
pub struct Nsid {
    /// The identifier, at most [`MAX_LEN`] octets.
    pub data: Box<[u8]>,
}

/// The longest identifier: with it, the longest question and an OPT record still fit into the smallest UDP answer.
pub const MAX_LEN: usize = 512 - 12 - 259 - 11 - 4;

impl Plugin for Nsid {
    fn name(&self) -> &'static str {
        "nsid"
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> Option<Later> {
        if exchange.query.edns.is_some_and(|edns| edns.option(NSID).is_some()) {
            let data = exchange.reply().store(&self.data);
            exchange.reply().nsid = Some(data);
        }
        None
    }
}
