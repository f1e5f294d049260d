//! Upstreams for tests: some record the calls of their drivers, others are servers of HTTP/2.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{
    BoxFuture, Dispatcher, DropReason, Error, Group, GroupCounters, GroupRules, ShedReason, Upstream, UpstreamDriver,
    UpstreamTransport,
};
use crate::wire::Rcode;

/// The calls of upstreams and of their group.
#[derive(Default)]
pub struct Notes {
    /// Answers: the upstream's number in the group, and how long the answer took.
    pub answered: Vec<(usize, Duration)>,
    /// Failures: the upstream's number.
    pub failed: Vec<usize>,
    /// Datagrams that were dropped.
    pub dropped: Vec<DropReason>,
    /// Queries over *max_concurrent*.
    pub over_limit: usize,
    /// Queries that were shed.
    pub shed: Vec<ShedReason>,
    /// Exchanges over streams.
    pub exchanges: usize,
}

/// Records the calls of one upstream, or of the group.
pub struct Noted {
    /// The upstream's number in the group.
    pub number: usize,
    /// The record.
    pub notes: Arc<Mutex<Notes>>,
    /// The result of an exchange.
    pub exchange: fn(Vec<u8>) -> Result<Vec<u8>, Error>,
}

impl UpstreamDriver for Noted {
    fn exchange(&self, packet: Vec<u8>, _: IpAddr, _: Duration) -> BoxFuture<Result<Vec<u8>, Error>> {
        self.notes.lock().exchanges += 1;
        Box::pin(std::future::ready((self.exchange)(packet)))
    }

    fn record_answer(&self, _: Rcode, took: Duration) {
        self.notes.lock().answered.push((self.number, took));
    }

    fn record_failure(&self) {
        self.notes.lock().failed.push(self.number);
    }

    fn has_answered(&self) -> bool {
        !self.notes.lock().answered.is_empty()
    }

    fn record_socket(&self, _: bool) {}

    fn record_dropped(&self, reason: DropReason) {
        self.notes.lock().dropped.push(reason);
    }
}

impl GroupCounters for Noted {
    fn record_all_down(&self) {}

    fn record_over_limit(&self) {
        self.notes.lock().over_limit += 1;
    }

    fn record_shed(&self, reason: ShedReason) {
        self.notes.lock().shed.push(reason);
    }
}

/// Creates a group of upstreams at these addresses. Exchanges over streams fail.
pub fn group(addresses: &[SocketAddr], rules: GroupRules) -> (Arc<Group>, Arc<Mutex<Notes>>) {
    group_with(addresses, rules, Dispatcher::default(), |_| Err(Error::Full))
}

/// Creates a group of upstreams whose exchanges have this result.
pub fn group_with(
    addresses: &[SocketAddr], rules: GroupRules, dispatcher: Dispatcher,
    exchange: fn(Vec<u8>) -> Result<Vec<u8>, Error>,
) -> (Arc<Group>, Arc<Mutex<Notes>>) {
    let notes = Arc::new(Mutex::new(Notes::default()));
    let noted = |number| Box::new(Noted { number, notes: notes.clone(), exchange });
    let upstreams = addresses.iter().enumerate().map(|(number, &address)| {
        Arc::new(Upstream::new(address, UpstreamTransport::Dns, None, Arc::default(), noted(number)))
    });
    let group = Group::new(upstreams.collect(), rules, dispatcher, noted(0));
    (Arc::new(group), notes)
}

/// Makes an upstream of a group down or up.
pub fn set_down(group: &Group, number: usize, down: bool) {
    group.upstreams()[number].fails.store(if down { group.rules.max_fails + 1 } else { 0 }, Ordering::Relaxed);
}

/// A response of a server of HTTP/2, with its trailers.
pub type Http2Reply = (Response<Vec<u8>>, HeaderMap);

/// Starts a server of HTTP/2 on this runtime, with TLS if there is an acceptor. Returns its address, and the number of
/// connections so far. A request for which there is no response waits for ever.
pub fn http2_server(
    runtime: &tokio::runtime::Runtime, tls: Option<TlsAcceptor>,
    respond: impl Fn(Request<Vec<u8>>) -> Option<Http2Reply> + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    slow_http2_server(runtime, tls, move |request| std::future::ready(respond(request)))
}

/// Starts a server like [`http2_server`], whose responses may take time.
pub fn slow_http2_server<F: Future<Output = Option<Http2Reply>> + Send>(
    runtime: &tokio::runtime::Runtime, tls: Option<TlsAcceptor>,
    respond: impl Fn(Request<Vec<u8>>) -> F + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a socket");
    let address = listener.local_addr().expect("an address");
    let (respond, connections) = (Arc::new(respond), Arc::new(AtomicUsize::new(0)));
    let count = connections.clone();
    runtime.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            count.fetch_add(1, Ordering::Relaxed);
            let respond = respond.clone();
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let respond = respond.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes().to_vec();
                    let Some((response, trailers)) = respond(Request::from_parts(head, body)).await else {
                        return std::future::pending().await;
                    };
                    let trailers = std::future::ready((!trailers.is_empty()).then_some(Ok(trailers)));
                    Ok::<_, hyper::Error>(response.map(|body| Full::new(Bytes::from(body)).with_trailers(trailers)))
                }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            match &tls {
                None => drop(tokio::spawn(builder.serve_connection(TokioIo::new(stream), service))),
                Some(acceptor) => {
                    let Ok(stream) = acceptor.accept(stream).await else { continue };
                    drop(tokio::spawn(builder.serve_connection(TokioIo::new(stream), service)));
                }
            }
        }
    });
    (address, connections)
}

/// Returns a runtime with one thread of its own.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}
