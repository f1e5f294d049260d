//! Pages for operators and probes over HTTP/1: `/metrics`, `/health`, `/ready`, `/top` and `/`.
//!
//! A connection serves one request, as probes do anyway, so that few limits are needed: a head of [`HEAD_LIMIT`] bytes
//! within [`HEAD_TIMEOUT`], [`TIMEOUT`] for everything, and [`CONNECTIONS`] at a time. When there are more, the oldest
//! connection is closed, so that a client that holds connections open cannot block a probe. The pages of CoreDNS answer
//! every method, as Go's handlers do; the pages that this server adds answer GET and HEAD.

mod listen;
pub mod probe;
mod tls;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::net::{Credentials, split_address};

pub use listen::listen;
pub use tls::load as load_tls;

/// The maximum size of the head of a request in bytes.
const HEAD_LIMIT: usize = 16 * 1024;
/// The timeout for the head of a request; CoreDNS's `ReadTimeout`.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout for a connection.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum number of open connections of a listener.
const CONNECTIONS: usize = 128;
/// The pause after a failure to accept that may persist, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The content type of plain text.
const TEXT: &str = "text/plain; charset=utf-8";
/// The methods of the pages that this server adds.
const METHODS: &str = "GET, HEAD";

/// The pages that kubelet asks.
const PROBES: [&str; 2] = ["/health", "/ready"];
/// The number of threads that pages need: one writes a page, the other serves probes meanwhile.
pub const THREADS: usize = 2;
/// The turn to write a page that is not for probes.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The content of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageContent {
    /// 200, 400, 403, 404, 405 or 503.
    pub status: u16,
    /// The content type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl PageContent {
    /// Returns 200 with the body `OK`.
    pub fn ok() -> PageContent {
        PageContent { status: 200, content_type: TEXT, body: "OK".to_owned() }
    }

    /// Returns 503 with a reason.
    pub fn unavailable(reason: String) -> PageContent {
        PageContent { status: 503, content_type: TEXT, body: reason }
    }

    /// Returns 403 with who may see the page.
    pub fn forbidden(reason: &str) -> PageContent {
        PageContent { status: 403, content_type: TEXT, body: reason.to_owned() }
    }

    /// Returns 404, as Go's `http.NotFound`.
    fn not_found() -> PageContent {
        PageContent { status: 404, content_type: TEXT, body: "404 page not found\n".to_owned() }
    }

    /// Returns 405 with the methods of the pages that this server adds.
    fn method_not_allowed() -> PageContent {
        PageContent { status: 405, content_type: TEXT, body: format!("405 method not allowed: use {METHODS}\n") }
    }

    /// Returns 400 with what is wrong with the request.
    pub fn bad_request(error: String) -> PageContent {
        PageContent { status: 400, content_type: TEXT, body: error }
    }
}

/// A request for a page.
#[derive(Clone, Copy, Debug, Default)]
pub struct PageVisit<'a> {
    /// What is behind the `?` of the address, as sent.
    pub query: &'a str,
    /// The client is on this machine, or in the Pod, as `kubectl port-forward` is.
    pub is_local: bool,
}

impl<'a> PageVisit<'a> {
    /// Returns the names and values of the parameters, percent-decoded.
    pub fn parameters(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        form_urlencoded::parse(self.query.as_bytes())
    }
}

/// A page: a function that returns its current content.
pub type Page = Arc<dyn Fn(&PageVisit<'_>) -> PageContent + Send + Sync>;

/// Who defines how a page treats requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageOrigin {
    /// CoreDNS: every method gets the page, without headers beyond those of Go.
    CoreDns,
    /// This server, which adds the page: it is read by GET and HEAD, and no cache stores it.
    Added,
}

/// A page at its path.
#[derive(Clone)]
struct SitePage {
    path: &'static str,
    origin: PageOrigin,
    page: Page,
}

/// The pages of a listener, by path.
#[derive(Default)]
pub struct Site {
    /// Replaced as a whole by a reload, read for each request.
    pages: ArcSwap<Vec<SitePage>>,
}

impl Site {
    /// Adds a page, unless the path has one already.
    pub fn add(&mut self, path: &'static str, origin: PageOrigin, page: Page) {
        let mut pages = self.pages.load().to_vec();
        if pages.iter().all(|other| other.path != path) {
            pages.push(SitePage { path, origin, page });
        }
        self.pages.store(Arc::new(pages));
    }

    /// Replaces all pages by those of another site.
    pub fn replace(&self, other: Site) {
        self.pages.store(other.pages.into_inner());
    }

    /// Returns the response to a request.
    fn respond(&self, method: &Method, path: &str, visit: &PageVisit<'_>) -> Response<Full<Bytes>> {
        let pages = self.pages.load();
        let found = pages.iter().find(|page| page.path == path);
        let is_added = found.is_some_and(|page| page.origin == PageOrigin::Added);
        let is_allowed = !is_added || matches!(*method, Method::GET | Method::HEAD);
        let content = match found {
            Some(_) if !is_allowed => PageContent::method_not_allowed(),
            Some(found) => (found.page)(visit),
            None => PageContent::not_found(),
        };
        let mut response = Response::new(Full::new(Bytes::from(content.body)));
        *response.status_mut() = StatusCode::from_u16(content.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut header = |name, value| drop(response.headers_mut().insert(name, HeaderValue::from_static(value)));
        header(CONTENT_TYPE, content.content_type);
        if is_added || found.is_none() {
            header(X_CONTENT_TYPE_OPTIONS, "nosniff");
        }
        if is_added {
            // The page is about this moment, and has names that only this visitor may see.
            header(CACHE_CONTROL, "no-store");
        }
        if !is_allowed {
            header(ALLOW, METHODS);
        }
        response
    }
}

/// Serves a listener until it is aborted, over TLS if `tls` is given.
pub async fn serve(listener: TcpListener, site: Arc<Site>, tls: Option<Arc<Credentials>>) {
    // Oldest first.
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(address = ?listener.local_addr().ok(), %error, "HTTP accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let (site, tls) = (site.clone(), tls.clone());
        let is_local = client.ip().to_canonical().is_loopback();
        // Errors of a connection concern only its client.
        let task = tokio::spawn(async move {
            let _ = tokio::time::timeout(TIMEOUT, async {
                match tls {
                    None => drop(connection(stream, &site, is_local).await),
                    Some(tls) => {
                        if let Ok(stream) = TlsAcceptor::from(tls.now()).accept(stream).await {
                            drop(connection(stream, &site, is_local).await);
                        }
                    }
                }
            })
            .await;
        });
        open.push_back(task.abort_handle());
    }
}

/// Serves the one request of a connection, whatever it runs over. The caller limits how long it takes.
pub async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, site: &Site, is_local: bool) -> hyper::Result<()> {
    let service = service_fn(|request: Request<Incoming>| {
        // A page of another site that has the address of this one (DNS rebinding) names that site here.
        let host = request.headers().get(HOST).map_or(Some(""), |host| host.to_str().ok());
        let is_local = is_local && host.is_some_and(is_own_host);
        async move {
            // Pages that take long to write must not keep probes waiting: one is written at a time, and another thread
            // serves probes.
            let is_probe = PROBES.contains(&request.uri().path());
            let _turn = if is_probe { None } else { Some(TURN.lock().await) };
            let visit = PageVisit { query: request.uri().query().unwrap_or_default(), is_local };
            Ok::<_, Infallible>(site.respond(request.method(), request.uri().path(), &visit))
        }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LIMIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// Returns whether a `Host` header has an address or `localhost`, and not the name of a site.
fn is_own_host(host: &str) -> bool {
    split_address(host).is_some_and(|(name, _, _)| {
        name.is_empty() || name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
    })
}

/// Returns the address at which this machine reaches a listener.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        // A listener on every address includes this one.
        return SocketAddr::from(([127, 0, 0, 1], address.port()));
    }
    address
}

#[cfg(test)]
mod tests;
