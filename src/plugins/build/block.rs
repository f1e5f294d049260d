//! A server block, as read from the Corefile.

use super::options::BlockOptions;
use super::setting::ReadDirective;
use crate::corefile::Scheme;
use crate::wire::NameBuf;

/// A server block, read.
#[derive(Clone, Debug)]
pub struct ServerBlock {
    /// The zones that it serves.
    pub keys: Vec<ZoneKey>,
    /// Its directives, in the order in which their plugins run.
    pub directives: Vec<ReadDirective>,
    /// What they say about listeners and the process.
    pub options: BlockOptions,
}

impl ServerBlock {
    /// Creates a block.
    pub fn new(keys: Vec<ZoneKey>, directives: Vec<ReadDirective>) -> ServerBlock {
        let mut options = BlockOptions::default();
        directives.iter().for_each(|directive| directive.configure(&mut options));
        ServerBlock { keys, directives, options }
    }

    /// Returns whether the block serves the same zones with the same directives.
    pub(super) fn is_same(&self, other: &ServerBlock) -> bool {
        self.keys == other.keys && self.directives == other.directives
    }
}

/// A zone on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneKey {
    /// The zone.
    pub zone: NameBuf,
    /// The port.
    pub port: u16,
    /// The transport.
    pub scheme: Scheme,
}
