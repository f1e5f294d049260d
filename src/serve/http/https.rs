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

use super::doh::{self, RequestMessage};
use crate::chain::Client;
use crate::net::Tlvs;
use crate::serve::memory::{self, MemoryLimit, MemoryPermit};
use crate::serve::tcp::acceptor::Acceptor;
use crate::serve::tcp::limits::ConnectionPermit;
use crate::serve::{LEAVE_TIME, ListenerPhase, Service};

/// The number of bytes of a response that HTTP gets at once, and so the maximum that it buffers for a slow client.
const CHUNK: usize = 4 * 1024;
/// The maximum number of unread bytes of the requests of a connection.
const WINDOW: u32 = 128 * 1024;
/// The minimum time for which a client may have open requests without progress.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(10);

/// A client, and the TLVs of the header of its proxy.
type ProxiedClient = (Client, Option<Arc<Tlvs>>);

/// Serves a connection until it is closed, or a timeout expires.
pub(crate) async fn serve(
    socket: TcpStream, client: ProxiedClient, service: Arc<Service>, acceptor: Arc<Acceptor>, permit: ConnectionPermit,
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
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, client: ProxiedClient, service: Arc<Service>,
    acceptor: Arc<Acceptor>, permit: ConnectionPermit, mut phase: watch::Receiver<ListenerPhase>,
) {
    let settings = service.settings();
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
    let (client, tlvs) = client;
    let http = Arc::new(HttpConnection {
        client,
        tlvs,
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
    client: Client,
    tlvs: Option<Arc<Tlvs>>,
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
        let service = self.0.service.clone();
        let (response, content) = match self.find_answer(request).await {
            Ok((answer, held)) => (doh::answer(&answer), Some((answer, held))),
            Err(status) => (doh::refusal(status), None),
        };
        service.count_reply(response.status().as_u16());
        let (bytes, held) = content.map_or((Bytes::new(), None), |(answer, held)| (answer.into(), Some(held)));
        response.map(|()| ResponseBody { bytes, _held: held, _open: self })
    }

    /// Returns the response to a request and the permit for its memory, or the status of the refusal.
    async fn find_answer(&self, request: Request<Incoming>) -> Result<(Box<[u8]>, MemoryPermit), StatusCode> {
        let HttpConnection { client, tlvs, service, memory, acceptor, permit, .. } = &*self.0;
        let mut message = RequestMessage::new(memory);
        match doh::query(request.method(), request.uri(), request.headers())? {
            doh::QueryPlace::Here(query) => message.push(&query)?,
            doh::QueryPlace::Body => {
                let reading = read_body(request.into_body(), &mut message);
                let time = service.settings().timeouts.read;
                acceptor.shared.read(*client, time, reading).await.map_err(doh::unread)??;
            }
        }
        message.answer((*client, tlvs.as_ref()), service, &acceptor.shared, &permit.activity).await
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
    _held: Option<MemoryPermit>,
    _open: OpenRequest,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        let len = self.bytes.len().min(CHUNK);
        Poll::Ready(Some(Ok(Frame::data(self.bytes.split_to(len)))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}
