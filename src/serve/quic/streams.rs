//! The number of streams that a client may have open on a connection of QUIC.

use quinn::Connection;

use crate::serve::Settings;

/// The maximum number of open streams of a connection, whatever is configured.
const MAX_STREAMS: u32 = 1_024;
/// The maximum number of open streams of a connection at its start.
const FIRST_STREAMS: u32 = 16;

/// The maximum number of streams that a client may have open on a connection. quinn allocates about 100 bytes for each
/// stream that the client may open, before it does, and releases them with the connection. So the limit starts low, and
/// doubles, up to the configured one, whenever half of it is used.
pub(crate) struct StreamLimit {
    current: u32,
    most: u32,
}

impl StreamLimit {
    /// Creates the limit of a new connection.
    pub(crate) fn new(settings: &Settings) -> StreamLimit {
        let most = settings.streams.unwrap_or(MAX_STREAMS).min(MAX_STREAMS);
        StreamLimit { current: most.min(FIRST_STREAMS), most }
    }

    /// Returns the limit.
    pub(crate) fn current(&self) -> u32 {
        self.current
    }

    /// Called when the client has opened a stream and has `open` ones.
    pub(crate) fn record_open(&mut self, open: usize, connection: &Connection) {
        if self.current < self.most && open >= self.current as usize / 2 {
            self.current = (self.current * 2).min(self.most);
            connection.set_max_concurrent_bi_streams(self.current.into());
        }
    }
}
