//! The query of a request, whatever protocol has carried it: read within limits, and answered.

use std::sync::Arc;

use crate::net::memory::{MemoryLimit, MemoryPermit};
use crate::serve::request::Requester;
use crate::serve::tcp::limits::ConnectionActivity;
use crate::serve::udp::mmsg::MAX_QUESTION;
use crate::serve::{Service, Shared};
use crate::wire::header;

/// Why a request has no DNS message as response. Each protocol has statuses for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestRefusal {
    /// The query is longer than [`MAX_QUESTION`].
    TooLarge,
    /// There is no memory for the query or the response.
    Overload,
    /// The bytes are not a query.
    NoQuery,
    /// A plugin has dropped the query.
    NoResponse,
}

/// Returns whether a message is a query, by its header only.
pub fn is_query(packet: &[u8]) -> bool {
    header::accept(packet) == header::Accept::Parse
}

/// The query of a request while it is read, and the permit for its memory.
pub(crate) struct RequestMessage {
    bytes: Vec<u8>,
    held: MemoryPermit,
}

impl RequestMessage {
    /// Creates an empty message.
    pub(crate) fn new(memory: &Arc<MemoryLimit>) -> RequestMessage {
        RequestMessage { bytes: Vec::new(), held: memory.permit() }
    }

    /// Creates a message that has come whole, with the permit for at least its bytes.
    pub(crate) fn whole(bytes: Vec<u8>, held: MemoryPermit) -> RequestMessage {
        RequestMessage { bytes, held }
    }

    /// Adds bytes of the body, or returns the refusal.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<(), RequestRefusal> {
        if self.bytes.len() + piece.len() > MAX_QUESTION {
            return Err(RequestRefusal::TooLarge);
        }
        if !self.held.resize(self.bytes.len() + piece.len()) {
            return Err(RequestRefusal::Overload);
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    /// Answers the query. Returns the response and the permit for its memory, or the refusal. The connection counts as
    /// busy until then.
    pub(crate) async fn answer(
        mut self, requester: &Requester, service: &Arc<Service>, shared: &Shared, activity: &Arc<ConnectionActivity>,
    ) -> Result<(Box<[u8]>, MemoryPermit), RequestRefusal> {
        // Bytes that are not a query have no DNS message as response.
        if !is_query(&self.bytes) {
            return Err(RequestRefusal::NoQuery);
        }
        let busy = activity.start_query();
        let answer = service.answer_request(&self.bytes, requester, shared, None).await;
        drop(busy);
        let answer = answer.ok_or(RequestRefusal::NoResponse)?;
        if !self.held.resize(answer.len()) {
            return Err(RequestRefusal::Overload);
        }
        Ok((answer, self.held))
    }
}
