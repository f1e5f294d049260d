//! Requests over HTTP and streams of QUIC: one packet, one response.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;

use super::pending::{self, PendingLimit};
use super::service::{Packet, Service};
use super::shared::Shared;
use crate::chain::{Answer, Client, State};
use crate::net::{ClientSpan, Tlvs};
use crate::wire::MAX_MESSAGE;

/// The client of a request or a stream, and what plugins may read about it.
#[derive(Clone)]
pub(crate) struct Requester {
    pub(crate) client: Client,
    /// The TLVs of the header of a proxy.
    pub(crate) tlvs: Option<Arc<Tlvs>>,
    /// The span that the header fields of the request name.
    pub(crate) span: Option<Arc<ClientSpan>>,
}

impl Requester {
    /// Returns the requester with the span that these header fields name.
    pub(crate) fn with_span(self, headers: &HeaderMap) -> Requester {
        Requester { span: ClientSpan::read(headers).map(Arc::new), ..self }
    }

    /// Adds what plugins may read to the state of the query.
    fn note(&self, state: &mut State) {
        if let Some(tlvs) = &self.tlvs {
            state.notes.add(tlvs.clone());
        }
        if let Some(span) = &self.span {
            state.notes.add(span.clone());
        }
    }
}

impl From<Client> for Requester {
    fn from(client: Client) -> Requester {
        Requester { client, tlvs: None, span: None }
    }
}

thread_local! {
    /// The buffers of a thread, for requests and streams.
    static SCRATCH: RefCell<Option<Box<AnswerBuffers>>> = const { RefCell::new(None) };
}

struct AnswerBuffers {
    state: State,
    out: [u8; MAX_MESSAGE],
}

impl Service {
    /// Answers the packet of a request or a stream. Returns `None` if there is no response. `limit` is the limit on
    /// pending queries of this listener, if it has one besides that of all listeners.
    pub(crate) async fn answer_request(
        self: &Arc<Self>, bytes: &[u8], requester: &Requester, shared: &Shared, limit: Option<&Arc<PendingLimit>>,
    ) -> Option<Box<[u8]>> {
        let counters = &shared.counters;
        let client = requester.client;
        let mut pending = None;
        let answer = SCRATCH.with_borrow_mut(|scratch| {
            let AnswerBuffers { state, out } = &mut **scratch
                .get_or_insert_with(|| Box::new(AnswerBuffers { state: State::default(), out: [0; MAX_MESSAGE] }));
            let packet = Packet { bytes, client, now: Instant::now(), counters };
            match self.answer_noted(&self.router(), packet, state, out, |state| requester.note(state)) {
                Answer::Send(len) => return Some(Box::from(&out[..len])),
                Answer::Drop => {}
                Answer::Pending(waiting) => pending = Some(waiting),
            }
            None
        });
        let answer = match pending {
            None => answer,
            Some(pending) => {
                let mut permit = shared.permit(client, limit, counters);
                // Boxed, so that requests that have come in part do not hold the memory for their answers already.
                Box::pin(pending::answer(pending, &mut permit, bytes.into(), MAX_MESSAGE, self.clone(), counters)).await
            }
        };
        let counter = if answer.is_some() { &counters.answered } else { &counters.unanswered };
        counter.add(1);
        answer
    }
}
