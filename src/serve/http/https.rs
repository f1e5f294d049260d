//! Connections of DNS over HTTPS (RFC 8484), by HTTP/2 and HTTP/1.1, and of gRPC, by HTTP/2, on TLS or TCP: by hyper.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, Response, StatusCode};
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

use super::message::{RequestMessage, RequestRefusal};
use super::{doh, grpc};
use crate::net::grpc::GrpcStatus;
use crate::net::memory::{self, MemoryLimit, MemoryPermit};
use crate::serve::request::Requester;
use crate::serve::tcp::acceptor::Acceptor;
use crate::serve::tcp::limits::ConnectionPermit;
use crate::serve::{LEAVE_TIME, ListenerKind, ListenerPhase, Service};

/// The number of bytes of a response that HTTP gets at once, and so the maximum that it buffers for a slow client.
const CHUNK: usize = 4 * 1024;
/// The maximum number of unread bytes of the requests of a connection.
const WINDOW: u32 = 128 * 1024;
/// The minimum time for which a client may have open requests without progress.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves a connection until it is closed, or a timeout expires.
pub(crate) async fn serve(
    socket: TcpStream, client: Requester, service: Arc<Service>, acceptor: Arc<Acceptor>, permit: ConnectionPermit,
    phase: watch::Receiver<ListenerPhase>,
) {
    let Some(credentials) = service.credentials() else {
        return serve_on(socket, client, service, acceptor, permit, phase).await;
    };
    let accepting = TlsAcceptor::from(credentials.now()).accept(socket);
    let time = service.settings().timeouts.read;
    if let Some(stream) = acceptor.handshake(&permit, accepting, time, &phase).await {
        serve_on(stream, client, service, acceptor, permit, phase).await;
    }
}

async fn serve_on(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, client: Requester, service: Arc<Service>,
    acceptor: Arc<Acceptor>, permit: ConnectionPermit, mut phase: watch::Receiver<ListenerPhase>,
) {
    let settings = service.settings();
    let mut builder = Builder::new(TokioExecutor::new());
    if service.kind() == ListenerKind::Grpc {
        builder = builder.http2_only();
    }
    builder.http1().timer(TokioTimer::new()).header_read_timeout(settings.timeouts.read).max_buf_size(doh::HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.streams)
        .max_header_list_size(doh::HEAD as u32)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW / 2)
        .max_send_buf_size(CHUNK);
    let http = Arc::new(HttpConnection {
        client,
        service,
        progress: Mutex::new(RequestProgress { last: Instant::now(), requests: 0, open: 0 }),
        memory: MemoryLimit::of_one(memory::ONE_CONNECTION, acceptor.memory.clone()),
        acceptor,
        permit,
    });
    let answering = http.clone();
    let service = service_fn(move |request| {
        let open = OpenRequest::begin(&answering);
        async move { Ok::<_, Infallible>(open.answer(request).await) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut timer = pin!(tokio::time::sleep_until(http.deadline().into()));
    // When the server stops, a connection without an open request is closed soon.
    let mut is_stopping = false;
    loop {
        tokio::select! {
            // An error of a connection concerns its client only.
            _ = connection.as_mut() => return,
            changed = phase.changed() => match *phase.borrow_and_update() {
                ListenerPhase::Serving if changed.is_ok() => {}
                ListenerPhase::Ending if changed.is_ok() => {
                    connection.as_mut().graceful_shutdown();
                    is_stopping = true;
                    timer.as_mut().reset((Instant::now() + LEAVE_TIME).into());
                }
                _ => return,
            },
            () = http.permit.activity.evicted() => return,
            () = timer.as_mut() => {
                let has_open = http.progress.lock().open > 0;
                if is_stopping && !has_open || http.deadline() <= Instant::now() {
                    if has_open {
                        http.acceptor.shared.counters.connections_timed_out.add(1);
                    }
                    return;
                }
                let deadline = if is_stopping { Instant::now() + LEAVE_TIME } else { http.deadline() };
                timer.as_mut().reset(deadline.into());
            }
        }
    }
}

/// The state of a connection that its requests share.
struct HttpConnection {
    client: Requester,
    service: Arc<Service>,
    acceptor: Arc<Acceptor>,
    permit: ConnectionPermit,
    memory: Arc<MemoryLimit>,
    /// Written when a request arrives and when its response was written; read by the connection's timer.
    progress: Mutex<RequestProgress>,
}

/// The progress of the requests of a connection.
struct RequestProgress {
    /// The last time when a request arrived or a response was written.
    last: Instant,
    /// The number of requests that have arrived.
    requests: u64,
    /// The number of requests whose responses were not completely written.
    open: usize,
}

impl HttpConnection {
    /// Returns the time at which the current timeout expires.
    fn deadline(&self) -> Instant {
        let timeouts = self.service.settings().timeouts;
        let progress = self.progress.lock();
        progress.last
            + match (progress.requests, progress.open) {
                (0, _) => timeouts.read,
                (_, 0) => timeouts.idle,
                _ => timeouts.idle.max(PROGRESS_TIMEOUT),
            }
    }

    /// Records that a request has arrived or a response was written.
    fn change(&self, change: impl Fn(&mut RequestProgress)) {
        let progress = &mut *self.progress.lock();
        progress.last = Instant::now();
        change(progress);
    }
}

/// A request until its response was written.
struct OpenRequest(Arc<HttpConnection>);

impl OpenRequest {
    fn begin(http: &Arc<HttpConnection>) -> OpenRequest {
        http.change(|progress| (progress.requests, progress.open) = (progress.requests + 1, progress.open + 1));
        OpenRequest(http.clone())
    }

    /// Answers a request.
    async fn answer(self, request: Request<Incoming>) -> Response<ResponseBody> {
        if self.0.service.kind() == ListenerKind::Grpc {
            return self.answer_grpc(request).await;
        }
        let (response, content) = match self.find_answer(request).await {
            Ok((answer, held)) => (doh::answer(&answer), Some((answer, held))),
            Err(status) => (doh::refusal(status), None),
        };
        self.0.service.count_reply(response.status().as_u16());
        let (bytes, held) = content.map_or((Bytes::new(), None), |(answer, held)| (answer.into(), Some(held)));
        response.map(|()| ResponseBody { bytes, trailers: None, _held: held, _open: self })
    }

    /// Returns the response to a request of DNS over HTTPS and the permit for its memory, or the status of the refusal.
    async fn find_answer(&self, request: Request<Incoming>) -> Result<(Box<[u8]>, MemoryPermit), StatusCode> {
        let HttpConnection { client, service, memory, acceptor, .. } = &*self.0;
        let requester = client.clone().with_span(request.headers());
        let mut message = RequestMessage::new(memory);
        match doh::query(request.method(), request.uri(), request.headers())? {
            doh::QueryPlace::Here(query) => message.push(&query)?,
            doh::QueryPlace::Body => {
                let reading = read_body(request.into_body(), &mut message);
                let time = service.settings().timeouts.read;
                acceptor.shared.read(client.client, time, reading).await.map_err(doh::unread)??;
            }
        }
        Ok(self.answer_message(message, &requester).await?)
    }

    /// Answers a request of gRPC.
    async fn answer_grpc(self, request: Request<Incoming>) -> Response<ResponseBody> {
        let found = match grpc::check(&request) {
            Ok(()) => self.find_grpc_answer(request).await.map_err(|status| (StatusCode::OK, status)),
            Err(refused) => Err(refused),
        };
        match found {
            Ok((answer, held)) => {
                let (head, body, trailers) = grpc::answer(&answer);
                let (bytes, trailers) = (body.into(), Some(trailers));
                head.map(|()| ResponseBody { bytes, trailers, _held: Some(held), _open: self })
            }
            Err((http, status)) => {
                let body = ResponseBody { bytes: Bytes::new(), trailers: None, _held: None, _open: self };
                grpc::refusal(http, &status).map(|()| body)
            }
        }
    }

    /// Returns the response to a request of gRPC and the permit for its memory, or the status of the refusal.
    async fn find_grpc_answer(&self, request: Request<Incoming>) -> Result<(Box<[u8]>, MemoryPermit), GrpcStatus> {
        let HttpConnection { client, service, memory, acceptor, .. } = &*self.0;
        let requester = client.clone().with_span(request.headers());
        let time = service.settings().timeouts.read;
        let reading = grpc::read(request.into_body(), memory);
        let message = acceptor.shared.read(client.client, time, reading).await.map_err(grpc::unread)??;
        Ok(self.answer_message(message, &requester).await?)
    }

    /// Answers the query of a request.
    async fn answer_message(
        &self, message: RequestMessage, requester: &Requester,
    ) -> Result<(Box<[u8]>, MemoryPermit), RequestRefusal> {
        let HttpConnection { service, acceptor, permit, .. } = &*self.0;
        message.answer(requester, service, &acceptor.shared, &permit.activity).await
    }
}

/// Reads a body.
async fn read_body(mut body: Incoming, message: &mut RequestMessage) -> Result<(), StatusCode> {
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame.map_err(|_| StatusCode::BAD_REQUEST)?.into_data() {
            message.push(&piece)?;
        }
    }
    Ok(())
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.change(|progress| progress.open = progress.open.saturating_sub(1));
    }
}

/// The body of a response, which HTTP gets in pieces.
struct ResponseBody {
    bytes: Bytes,
    /// The trailers, which only gRPC has.
    trailers: Option<HeaderMap>,
    _held: Option<MemoryPermit>,
    _open: OpenRequest,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let len = self.bytes.len().min(CHUNK);
        Poll::Ready(Some(Ok(Frame::data(self.bytes.split_to(len)))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.trailers {
            None => SizeHint::with_exact(self.bytes.len() as u64),
            // From an exact size the library would write `content-length`, which gRPC does not have.
            Some(_) => SizeHint::default(),
        }
    }
}
