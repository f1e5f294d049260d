//! Sends spans to a collector. No query waits for it: spans over the limit of the backlog are dropped, the oldest
//! first, and while the collector is away none are recorded.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::config::{CollectorKind, TraceConfig};
use super::encode::TracedService;
use super::span::TraceSpan;
use crate::net::TlsClient;

/// The time for a request, with its connection (zipkin-go `defaultTimeout`).
const TIMEOUT: Duration = Duration::from_secs(5);
/// The delay after a failed request; it doubles.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// The longest delay after a failed request.
const MAX_DELAY: Duration = Duration::from_secs(10);
/// The most bytes of a response that are read.
const MAX_RESPONSE: usize = 64 * 1024;

/// The spans that wait for a collector.
pub(super) struct Backlog {
    /// Locked by each traced query for a moment, and by the task to take a batch.
    spans: Mutex<VecDeque<TraceSpan>>,
    max: usize,
    batch: usize,
    /// The collector is there, as far as is known. Written by the task, read by each traced query.
    is_open: AtomicBool,
    /// Spans of all blocks that were dropped.
    dropped: Arc<AtomicU64>,
    ready: Notify,
    full: Notify,
}

impl Backlog {
    pub(super) fn new(config: &TraceConfig, dropped: Arc<AtomicU64>) -> Backlog {
        Backlog {
            spans: Mutex::default(),
            max: config.backlog,
            batch: config.batch,
            is_open: AtomicBool::new(true),
            dropped,
            ready: Notify::new(),
            full: Notify::new(),
        }
    }

    /// Returns whether spans are sent.
    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// Adds the spans of a query. The oldest spans over the limit are dropped.
    pub(super) fn push(&self, spans: Vec<TraceSpan>) {
        let mut waiting = self.spans.lock();
        let was_empty = waiting.is_empty();
        waiting.extend(spans);
        let excess = waiting.len().saturating_sub(self.max);
        waiting.drain(..excess);
        let is_full = waiting.len() >= self.batch;
        drop(waiting);
        self.dropped.fetch_add(excess as u64, Ordering::Relaxed);
        if was_empty {
            self.ready.notify_one();
        }
        if is_full {
            self.full.notify_one();
        }
    }

    /// Returns the number of spans that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.spans.lock().len()
    }

    fn take(&self) -> Vec<TraceSpan> {
        let mut waiting = self.spans.lock();
        let count = waiting.len().min(self.batch);
        waiting.drain(..count).collect()
    }
}

/// Sends the spans of a backlog.
pub(super) struct Reporter {
    pub(super) service: TracedService,
    pub(super) url: Uri,
    pub(super) interval: Duration,
}

impl Reporter {
    /// Sends until the order to stop, and then what is left.
    pub(super) async fn run(&self, backlog: &Backlog, mut stop: watch::Receiver<bool>) {
        let mut connection = None;
        let mut delay = FIRST_DELAY;
        let mut is_stopping = false;
        loop {
            let spans = backlog.take();
            if spans.is_empty() {
                if is_stopping {
                    return;
                }
                tokio::select! {
                    () = stopped(&mut stop) => is_stopping = true,
                    () = backlog.ready.notified() => tokio::select! {
                        () = stopped(&mut stop) => is_stopping = true,
                        () = backlog.full.notified() => {}
                        () = sleep(self.interval) => {}
                    },
                }
                continue;
            }
            let sent = timeout(TIMEOUT, self.send(&mut connection, &spans)).await;
            match sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(()) => {
                    if !backlog.is_open.swap(true, Ordering::Relaxed) {
                        tracing::info!(plugin = "trace", "spans are sent to {} again", self.url);
                    }
                    delay = FIRST_DELAY;
                }
                Err(error) => {
                    connection = None;
                    backlog.dropped.fetch_add(spans.len() as u64, Ordering::Relaxed);
                    if backlog.is_open.swap(false, Ordering::Relaxed) {
                        tracing::warn!(plugin = "trace", "failed to send spans to {}: {error}", self.url);
                    }
                    if is_stopping {
                        return;
                    }
                    tokio::select! {
                        () = stopped(&mut stop) => return,
                        () = sleep(delay) => {}
                    }
                    delay = (delay * 2).min(MAX_DELAY);
                    // The next query is an attempt.
                    let lost = std::mem::take(&mut *backlog.spans.lock()).len();
                    backlog.dropped.fetch_add(lost as u64, Ordering::Relaxed);
                    backlog.is_open.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    /// Sends spans over the open connection, or a new one.
    async fn send(&self, open: &mut Option<SendRequest<Full<Bytes>>>, spans: &[TraceSpan]) -> io::Result<()> {
        let body = Bytes::from(self.service.encode(spans));
        if let Some(connection) = open
            && connection.ready().await.is_err()
        {
            *open = None;
        }
        let connection = match open {
            Some(connection) => connection,
            None => open.insert(self.connect().await?),
        };
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::post(path)
            .header(HOST, authority)
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_LENGTH, body.len());
        if self.service.kind == CollectorKind::Datadog {
            let count = spans.iter().filter(|span| span.is_query).count();
            request = request.header("X-Datadog-Trace-Count", count).header("Datadog-Meta-Lang", "rust");
        }
        let request = request.body(Full::new(body)).map_err(io::Error::other)?;
        let response = connection.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        // The connection is used again once the response is read.
        let body = http_body_util::Limited::new(response.into_body(), MAX_RESPONSE).collect().await;
        if body.is_err() {
            *open = None;
        }
        if status.is_success() { Ok(()) } else { Err(io::Error::other(format!("HTTP status {status}"))) }
    }

    async fn connect(&self) -> io::Result<SendRequest<Full<Bytes>>> {
        let is_tls = self.url.scheme() == Some(&http::uri::Scheme::HTTPS);
        let host = self.url.host().unwrap_or_default();
        let port = self.url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let address = format!("{host}:{port}");
        let stream = TcpStream::connect(&address).await?;
        if !is_tls {
            return start(TokioIo::new(stream)).await;
        }
        let prepared = tokio::task::spawn_blocking(move || TlsClient::new(&address, true)).await;
        let TlsClient { config, name } = prepared.map_err(io::Error::other)??;
        start(TokioIo::new(TlsConnector::from(config).connect(name, stream).await?)).await
    }
}

/// Starts HTTP on a connection.
async fn start<T>(stream: T) -> io::Result<SendRequest<Full<Bytes>>>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(stream).await.map_err(io::Error::other)?;
    // It ends when the sender is dropped, or with an error that the sender gets too.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// Waits for the order to stop, or until it cannot be given any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone.
    let _ = stop.wait_for(|stops| *stops).await;
}
