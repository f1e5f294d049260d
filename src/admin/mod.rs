//! Pages for operators and machines over HTTP/1: `/metrics`, `/health`, `/ready`.
//!
//! One request a connection, as probes make them anyway, so that the bounds are few: a head of [`HEAD_LIMIT`] octets
//! within [`HEAD_TIMEOUT`], all within [`TIMEOUT`], and [`CONNECTIONS`] at a time. Where there are more, the oldest makes
//! room: whoever holds connections open cannot keep a probe out. Any method is answered alike, as Go's handlers do.

mod listen;
pub mod probe;
mod tls;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::net::Credentials;

pub use listen::listen;
pub use tls::load as load_tls;

/// How many octets the head of a request may have.
const HEAD_LIMIT: usize = 16 * 1024;
/// How long it may take to come; CoreDNS's `ReadTimeout`.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may last.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How many connections of a listener are open at a time.
const CONNECTIONS: usize = 128;
/// How long nothing is accepted after a failure that may last, such as too many open files.
const REST: Duration = Duration::from_millis(50);
/// The type of plain text.
const TEXT: &str = "text/plain; charset=utf-8";

/// What a page says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// 200 or 503.
    pub status: u16,
    /// The body's type.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Said {
    /// 200 `OK`.
    pub fn ok() -> Said {
        Said { status: 200, content_type: TEXT, body: "OK".to_owned() }
    }

    /// 503 with its reason.
    pub fn unavailable(reason: String) -> Said {
        Said { status: 503, content_type: TEXT, body: reason }
    }
}

/// A page: what it says when it is asked.
pub type Page = Arc<dyn Fn() -> Said + Send + Sync>;

/// The pages of a listener by their paths.
#[derive(Default)]
pub struct Site {
    /// Replaced whole by a reload, read for each request.
    pages: ArcSwap<Vec<(&'static str, Page)>>,
}

impl Site {
    /// Adds a page. A path that is there already keeps its page.
    pub fn add(&mut self, path: &'static str, page: Page) {
        let mut pages = self.pages.load().to_vec();
        if pages.iter().all(|(other, _)| *other != path) {
            pages.push((path, page));
        }
        self.pages.store(Arc::new(pages));
    }

    /// Has the pages of another from now on.
    pub fn replace(&self, other: Site) {
        self.pages.store(other.pages.into_inner());
    }

    /// Answers a request.
    fn respond(&self, path: &str) -> Response<Full<Bytes>> {
        let pages = self.pages.load();
        let page = pages.iter().find(|(of, _)| *of == path);
        let said = page.map(|(_, page)| page());
        let is_found = said.is_some();
        // Go's `http.NotFound`.
        let said =
            said.unwrap_or_else(|| Said { status: 404, content_type: TEXT, body: "404 page not found\n".to_owned() });
        let mut response = Response::new(Full::new(Bytes::from(said.body)));
        *response.status_mut() = StatusCode::from_u16(said.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(said.content_type));
        if !is_found {
            response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        }
        response
    }
}

/// Serves a listener for ever, with TLS where it is given.
pub async fn serve(listener: TcpListener, site: Arc<Site>, tls: Option<Arc<Credentials>>) {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(address = ?listener.local_addr().ok(), %error, "HTTP accept failed");
                tokio::time::sleep(REST).await;
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
        // What goes wrong with a connection is its client's business.
        let task = tokio::spawn(async move {
            let _ = tokio::time::timeout(TIMEOUT, async {
                match tls {
                    None => drop(connection(stream, &site).await),
                    Some(tls) => {
                        if let Ok(stream) = TlsAcceptor::from(tls.now()).accept(stream).await {
                            drop(connection(stream, &site).await);
                        }
                    }
                }
            })
            .await;
        });
        open.push_back(task.abort_handle());
    }
}

/// Answers the one request of a connection.
async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, site: &Site) -> hyper::Result<()> {
    let service = service_fn(|request: Request<Incoming>| {
        let response = site.respond(request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LIMIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// The address where this machine reaches a listener.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        // A listener on every address has this one, too.
        return SocketAddr::from(([127, 0, 0, 1], address.port()));
    }
    address
}

#[cfg(test)]
mod tests;
