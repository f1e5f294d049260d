//! DNS over HTTP/3: requests as in DNS over HTTPS, each on a stream of QUIC, by h3.

use std::sync::Arc;

use h3::server::{Connection, RequestResolver, RequestStream};
use h3_quinn::BidiStream;
use http::{Method, StatusCode};
use hyper::body::{Buf, Bytes};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::doh;
use super::limited::{Limited, LimitedConnection};
use super::message::RequestMessage;
use crate::net::memory::{self, MemoryLimit, MemoryPermit};
use crate::serve::ListenerPhase;
use crate::serve::quic::listener::{QuicListener, Stopping, code};
use crate::serve::quic::streams::StreamLimit;
use crate::serve::request::Requester;
use crate::serve::tcp::limits::{ConnectionActivity, ConnectionPermit};

/// RFC 9114 8.1.
const NO_ERROR: u32 = 0x100;
const EXCESSIVE_LOAD: u32 = 0x107;

type H3Stream = RequestStream<Limited<BidiStream<Bytes>>, Bytes>;

/// Serves a connection until it is closed.
pub(crate) async fn serve(
    listener: Arc<QuicListener>, quic: quinn::Connection, requester: Requester, permit: ConnectionPermit,
    mut phase: watch::Receiver<ListenerPhase>,
) {
    let memory = MemoryLimit::of_one(memory::ONE_CONNECTION, listener.acceptor.memory.clone());
    let mut builder = h3::server::builder();
    builder.max_field_section_size(doh::HEAD as u64);
    let time = listener.service.settings().timeouts.read;
    let building = builder.build(LimitedConnection::new(quic.clone()));
    let Some(mut connection) = listener.acceptor.handshake(&permit, building, time, &phase).await else { return };
    let connection: &mut Connection<LimitedConnection, Bytes> = &mut connection;
    let mut requests = JoinSet::new();
    let mut streams = StreamLimit::new(&listener.service.settings());
    // The loop reads the phase once at its start.
    phase.mark_changed();
    let mut stopping = Stopping::default();
    while !stopping.is_over(requests.is_empty()) {
        tokio::select! {
            biased;
            changed = phase.changed() => match *phase.borrow_and_update() {
                ListenerPhase::Serving if changed.is_ok() => {}
                ListenerPhase::Ending if changed.is_ok() => stopping.begin(),
                _ => return,
            },
            () = permit.activity.evicted() => return quic.close(code(EXCESSIVE_LOAD), b"too many connections"),
            Some(_) = requests.join_next() => {}
            accepted = connection.accept(), if stopping.accepts() => match accepted {
                Ok(Some(resolver)) => {
                    let (listener, requester) = (listener.clone(), requester.clone());
                    let memory = memory.clone();
                    let activity = permit.activity.clone();
                    requests.spawn(Request { listener, requester, memory, activity }.answer(resolver));
                    streams.record_open(requests.len(), &quic);
                }
                Ok(None) | Err(_) => return,
            },
            () = stopping.wait() => stopping.set_quiet(),
        }
    }
    quic.close(code(NO_ERROR), b"");
}

/// A request and its client.
struct Request {
    listener: Arc<QuicListener>,
    requester: Requester,
    memory: Arc<MemoryLimit>,
    activity: Arc<ConnectionActivity>,
}

impl Request {
    /// Answers the request.
    async fn answer(self, resolver: RequestResolver<LimitedConnection, Bytes>) {
        let timeouts = self.listener.service.settings().timeouts;
        let resolving =
            self.listener.acceptor.shared.read(self.requester.client, timeouts.read, resolver.resolve_request());
        // What is dropped resets the stream.
        let Ok(Ok((request, mut stream))) = resolving.await else { return };
        let found = match doh::query(request.method(), request.uri(), request.headers()) {
            Ok(query) => {
                let requester = self.requester.clone().with_span(request.headers());
                self.find_answer(query, &requester, &mut stream).await
            }
            Err(status) => Err(status),
        };
        let (response, content) = match found {
            Ok((answer, held)) => (doh::answer(&answer), Some((answer, held))),
            Err(status) => (doh::refusal(status), None),
        };
        self.listener.service.count_reply(response.status().as_u16());
        let has_body = request.method() != Method::HEAD;
        let sent = async {
            stream.send_response(response).await?;
            if let Some((answer, _)) = content.as_ref().filter(|_| has_body) {
                stream.send_data(Bytes::copy_from_slice(answer)).await?;
            }
            stream.finish().await
        };
        // An error of a stream concerns its client only.
        let _ = timeout(timeouts.write, sent).await;
    }

    /// Returns the response and the permit for its memory, or the status of the refusal.
    async fn find_answer(
        &self, query: doh::QueryPlace, requester: &Requester, stream: &mut H3Stream,
    ) -> Result<(Box<[u8]>, MemoryPermit), StatusCode> {
        let QuicListener { service, acceptor, .. } = &*self.listener;
        let mut message = RequestMessage::new(&self.memory);
        match query {
            doh::QueryPlace::Here(query) => message.push(&query)?,
            doh::QueryPlace::Body => {
                let reading = read_body(stream, &mut message);
                let time = service.settings().timeouts.read;
                acceptor.shared.read(requester.client, time, reading).await.map_err(doh::unread)??;
            }
        }
        Ok(message.answer(requester, service, &acceptor.shared, &self.activity).await?)
    }
}

/// Reads a body.
async fn read_body(stream: &mut H3Stream, message: &mut RequestMessage) -> Result<(), StatusCode> {
    while let Some(mut piece) = stream.recv_data().await.map_err(|_| StatusCode::BAD_REQUEST)? {
        while piece.has_remaining() {
            let len = piece.chunk().len();
            message.push(piece.chunk())?;
            piece.advance(len);
        }
    }
    Ok(())
}
