//! DNS over HTTPS (RFC 8484): HTTP/2 and HTTP/1.1 on TLS, by hyper.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::chain::Client;
use crate::serve::http::doh;
use crate::serve::request::{self, Held, Room};
use crate::serve::tcp::accept::Acceptor;
use crate::serve::tcp::limits::ConnectionPermit;
use crate::serve::udp::mmsg::MAX_QUESTION;
use crate::serve::{LEAVE_TIME, Phase, Service};

/// What is handed to HTTP at once of an answer: so much may lie there that the client does not take.
const CHUNK: usize = 4 * 1024;
/// What one connection may have on its way in and out, in octets.
const ROOM: usize = 1 << 20;
/// What of requests is taken before it has been looked at, for a connection, in octets.
const WINDOW: u32 = 128 * 1024;
/// How long a client may have requests open without any progress, at least.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves a connection until it ends, or takes too long.
pub(crate) async fn serve(
    socket: TcpStream, client: Client, service: Arc<Service>, acceptor: Arc<Acceptor>, permit: ConnectionPermit,
    phase: watch::Receiver<Phase>,
) {
    let Some(credentials) = service.credentials() else {
        return serve_on(socket, client, service, acceptor, permit, phase).await;
    };
    let (accepting, time) = (TlsAcceptor::from(credentials.now()).accept(socket), service.settings().timeouts.read);
    if let Some(stream) = acceptor.handshake(&permit, accepting, time, &phase).await {
        serve_on(stream, client, service, acceptor, permit, phase).await;
    }
}

async fn serve_on(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, client: Client, service: Arc<Service>,
    acceptor: Arc<Acceptor>, permit: ConnectionPermit, mut phase: watch::Receiver<Phase>,
) {
    let settings = *service.settings().as_ref();
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(settings.timeouts.read).max_buf_size(doh::HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.streams)
        .max_header_list_size(doh::HEAD as u32)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW / 2)
        .max_send_buf_size(CHUNK);
    let guest = Arc::new(Guest {
        client,
        service,
        life: Mutex::new(Life { since: Instant::now(), asked: 0, open: 0 }),
        room: Room::new(ROOM, Some(acceptor.room.clone())),
        acceptor,
        permit,
    });
    let answering = guest.clone();
    let service = service_fn(move |request| {
        let visit = Visit::begin(&answering);
        async move { Ok::<_, Infallible>(visit.answer(request).await) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut timer = pin!(tokio::time::sleep_until(guest.deadline().into()));
    // The server stops: a client that has no request open is left soon.
    let mut is_stopping = false;
    loop {
        tokio::select! {
            // What goes wrong with a connection is its client's business.
            _ = connection.as_mut() => return,
            changed = phase.changed() => match *phase.borrow_and_update() {
                Phase::Serving if changed.is_ok() => {}
                Phase::Ending if changed.is_ok() => {
                    connection.as_mut().graceful_shutdown();
                    is_stopping = true;
                    timer.as_mut().reset((Instant::now() + LEAVE_TIME).into());
                }
                _ => return,
            },
            () = guest.permit.activity.evicted() => return,
            () = timer.as_mut() => {
                let is_left = is_stopping && guest.life.lock().open == 0;
                let deadline = if is_stopping { Instant::now() + LEAVE_TIME } else { guest.deadline() };
                if is_left || guest.deadline() <= Instant::now() {
                    if guest.life.lock().open > 0 {
                        guest.acceptor.shared.counters.connections_timed_out.add(1);
                    }
                    return;
                }
                timer.as_mut().reset(deadline.into());
            }
        }
    }
}

/// The client of a connection.
struct Guest {
    client: Client,
    service: Arc<Service>,
    acceptor: Arc<Acceptor>,
    permit: ConnectionPermit,
    room: Arc<Room>,
    life: Mutex<Life>,
}

/// What a connection is doing.
struct Life {
    /// When a request last came or an answer was taken.
    since: Instant,
    /// Requests that have come.
    asked: u64,
    /// Requests whose answers have not been taken.
    open: usize,
}

impl Guest {
    /// When the client has had its time.
    fn deadline(&self) -> Instant {
        let timeouts = self.service.settings().timeouts;
        let life = self.life.lock();
        life.since
            + match (life.asked, life.open) {
                (0, _) => timeouts.read,
                (_, 0) => timeouts.idle,
                _ => timeouts.idle.max(PROGRESS_TIMEOUT),
            }
    }

    /// Notes that a request has come or an answer has been taken.
    fn change(&self, change: impl Fn(&mut Life)) {
        let life = &mut *self.life.lock();
        life.since = Instant::now();
        change(life);
    }
}

/// A request until its answer has been taken.
struct Visit(Arc<Guest>);

impl Visit {
    fn begin(guest: &Arc<Guest>) -> Visit {
        guest.change(|life| (life.asked, life.open) = (life.asked + 1, life.open + 1));
        Visit(guest.clone())
    }

    /// Answers a request.
    async fn answer(self, request: Request<Incoming>) -> Response<Answer> {
        let service = self.0.service.clone();
        let (response, content) = match self.find(request).await {
            Ok((message, held)) => (doh::answer(&message), Some((message, held))),
            Err(status) => (doh::refusal(status), None),
        };
        service.replies.count(response.status().as_u16());
        let (octets, held) = content.map_or((Bytes::new(), None), |(message, held)| (message.into(), Some(held)));
        response.map(|()| Answer { octets, _held: held, _visit: self })
    }

    /// The answer to a request and the room that it takes; else the status that says why there is none.
    async fn find(&self, request: Request<Incoming>) -> Result<(Box<[u8]>, Held), StatusCode> {
        let Guest { client, service, room, acceptor, permit, .. } = &*self.0;
        let mut held = room.take(0).ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
        let packet = match doh::query(request.method(), request.uri(), request.headers())? {
            doh::Query::Here(packet) => packet,
            doh::Query::Body => {
                let time = service.settings().timeouts.read;
                let body = tokio::time::timeout(time, read_body(request.into_body(), &mut held)).await;
                body.map_err(|_| StatusCode::REQUEST_TIMEOUT)??
            }
        };
        // What is no query at all gets no message in answer.
        if !doh::is_query(&packet) {
            return Err(StatusCode::BAD_REQUEST);
        }
        if !held.resize(packet.len()) {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        let _busy = permit.activity.query();
        let answer = request::answer(&packet, *client, service, &acceptor.shared).await;
        let answer = answer.ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
        match held.resize(answer.len()) {
            true => Ok((answer, held)),
            false => Err(StatusCode::SERVICE_UNAVAILABLE),
        }
    }
}

/// Reads a body. What has come of it is held, and no more.
async fn read_body(mut body: Incoming, held: &mut Held) -> Result<Vec<u8>, StatusCode> {
    let mut octets = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|_| StatusCode::BAD_REQUEST)?.into_data() else { continue };
        if octets.len() + piece.len() > MAX_QUESTION {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        octets.extend_from_slice(&piece);
        if !held.resize(octets.len()) {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
    }
    Ok(octets)
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.change(|life| life.open = life.open.saturating_sub(1));
    }
}

/// The body of an answer, handed out in pieces.
struct Answer {
    octets: Bytes,
    _held: Option<Held>,
    _visit: Visit,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.octets.is_empty() {
            return Poll::Ready(None);
        }
        let len = self.octets.len().min(CHUNK);
        Poll::Ready(Some(Ok(Frame::data(self.octets.split_to(len)))))
    }

    fn is_end_stream(&self) -> bool {
        self.octets.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.octets.len() as u64)
    }
}
