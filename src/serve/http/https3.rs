//! DNS over HTTP/3: requests as in DNS over HTTPS, each on a stream of QUIC, by h3.

use std::sync::Arc;

use h3::server::{Connection, RequestResolver, RequestStream};
use h3_quinn::BidiStream;
use http::{Method, StatusCode};
use hyper::body::{Buf, Bytes};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::chain::Client;
use crate::serve::Phase;
use crate::serve::http::doh;
use crate::serve::quic::endpoint::{Host, ROOM, Stopping, code};
use crate::serve::request::{self, Held, Room};
use crate::serve::tcp::limits::{Activity, ConnectionPermit};
use crate::serve::udp::mmsg::MAX_QUESTION;

/// RFC 9114 8.1.
const NO_ERROR: u32 = 0x100;
const EXCESSIVE_LOAD: u32 = 0x107;

type Stream = RequestStream<BidiStream<Bytes>, Bytes>;

/// Serves a connection until it ends.
pub(crate) async fn serve(
    host: Arc<Host>, quic: quinn::Connection, permit: ConnectionPermit, mut phase: watch::Receiver<Phase>,
) {
    let client = host.client(&quic);
    let room = Room::new(ROOM, Some(host.acceptor.room.clone()));
    let mut builder = h3::server::builder();
    builder.max_field_section_size(doh::HEAD as u64);
    let time = host.service.settings().timeouts.read;
    let building = builder.build(h3_quinn::Connection::new(quic.clone()));
    let Some(mut connection) = host.acceptor.handshake(&permit, building, time, &phase).await else { return };
    let connection: &mut Connection<h3_quinn::Connection, Bytes> = &mut connection;
    let mut requests = JoinSet::new();
    // Whatever the phase is now is news.
    phase.mark_changed();
    let mut stopping = Stopping::default();
    while !stopping.is_over(requests.is_empty()) {
        tokio::select! {
            biased;
            changed = phase.changed() => match *phase.borrow_and_update() {
                Phase::Serving if changed.is_ok() => {}
                Phase::Ending if changed.is_ok() => stopping.begin(),
                _ => return,
            },
            () = permit.activity.evicted() => return quic.close(code(EXCESSIVE_LOAD), b"too many connections"),
            Some(_) = requests.join_next() => {}
            accepted = connection.accept(), if stopping.accepts() => match accepted {
                Ok(Some(resolver)) => {
                    let (client, activity) = (client, permit.activity.clone());
                    let request = Request { host: host.clone(), client, room: room.clone(), activity };
                    requests.spawn(request.answer(resolver));
                }
                Ok(None) | Err(_) => return,
            },
            () = stopping.next() => stopping.is_quiet(),
        }
    }
    quic.close(code(NO_ERROR), b"");
}

/// A request and who makes it.
struct Request {
    host: Arc<Host>,
    client: Client,
    room: Arc<Room>,
    activity: Arc<Activity>,
}

impl Request {
    /// Answers it.
    async fn answer(self, resolver: RequestResolver<h3_quinn::Connection, Bytes>) {
        let timeouts = self.host.service.settings().timeouts;
        let Ok(Ok((request, mut stream))) = timeout(timeouts.read, resolver.resolve_request()).await else { return };
        let found = match doh::query(request.method(), request.uri(), request.headers()) {
            Ok(query) => self.find(query, &mut stream).await,
            Err(status) => Err(status),
        };
        let (response, content) = match found {
            Ok((message, held)) => (doh::answer(&message), Some((message, held))),
            Err(status) => (doh::refusal(status), None),
        };
        self.host.service.replies.count(response.status().as_u16());
        let has_body = request.method() != Method::HEAD;
        let sent = async {
            stream.send_response(response).await?;
            if let Some((message, _)) = content.as_ref().filter(|_| has_body) {
                stream.send_data(Bytes::copy_from_slice(message)).await?;
            }
            stream.finish().await
        };
        // What goes wrong with a stream is its client's business.
        let _ = timeout(timeouts.write, sent).await;
    }

    /// The answer and the room that it takes; else the status that says why there is none.
    async fn find(&self, query: doh::Query, stream: &mut Stream) -> Result<(Box<[u8]>, Held), StatusCode> {
        let Host { service, acceptor, .. } = &*self.host;
        let mut held = self.room.take(0).ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
        let packet = match query {
            doh::Query::Here(packet) => packet,
            doh::Query::Body => {
                let time = service.settings().timeouts.read;
                timeout(time, read_body(stream, &mut held)).await.map_err(|_| StatusCode::REQUEST_TIMEOUT)??
            }
        };
        if !doh::is_query(&packet) {
            return Err(StatusCode::BAD_REQUEST);
        }
        if !held.resize(packet.len()) {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        let _busy = self.activity.query();
        let answer = request::answer(&packet, self.client, service, &acceptor.shared).await;
        let answer = answer.ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
        match held.resize(answer.len()) {
            true => Ok((answer, held)),
            false => Err(StatusCode::SERVICE_UNAVAILABLE),
        }
    }
}

/// Reads the body of a request. What has come of it is held, and no more.
async fn read_body(stream: &mut Stream, held: &mut Held) -> Result<Vec<u8>, StatusCode> {
    let mut octets = Vec::new();
    while let Some(mut piece) = stream.recv_data().await.map_err(|_| StatusCode::BAD_REQUEST)? {
        if octets.len() + piece.remaining() > MAX_QUESTION {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        let piece = piece.copy_to_bytes(piece.remaining());
        octets.extend_from_slice(&piece);
        if !held.resize(octets.len()) {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
    }
    Ok(octets)
}
