//! How the API server is reached: from within a Pod, by a kubeconfig, or by its URL.
//!
//! A client is made anew from its files once a minute at most, when a watch or a list begins, and at once after the API
//! server did not know it: rotated certificates, keys, tokens and CAs take effect without a restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::Client;
use kube::client::{Body, ConfigExt as _};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::Instant;
use tower::{BoxError, ServiceBuilder};

use super::limits::{Limiter, Limits};
use super::metrics::Metrics;
use crate::source::watch::error::{Awaited, Refusal, WatchError, causes};

/// How long a client is used before its files are looked at again.
const FRESH: Duration = Duration::from_secs(60);
/// How long a connection may take, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// A connection that carries nothing is probed after this time, and as often again; three probes without an answer end
/// it. Load balancers forget silent flows without a word.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How long the head of an answer may take.
const HEAD: Duration = Duration::from_secs(30);
/// The longest refusal that is read, in octets.
const MAX_REFUSAL: usize = 64 * 1024;

/// Which API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Server {
    /// The one of the cluster that this process is a Pod of.
    #[default]
    InCluster,
    /// The one of a kubeconfig.
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// The context to use; the file's current one where `None`.
        context: Option<String>,
    },
    /// The one at a URL.
    Endpoint {
        /// The URL; without a scheme it is `https` with `tls` and `http` without, as in client-go.
        url: String,
        /// Client certificate, its key, and the CA.
        tls: Option<[PathBuf; 3]>,
    },
}

/// Why the API server cannot be reached as configured.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// No Pod, or one without a ServiceAccount token.
    #[error(
        "not in a Pod with a ServiceAccount token: {0}; expected one, or 'kubeconfig FILE' or 'endpoint URL' in the \
         stanza, or -manifests PATH"
    )]
    NotInCluster(String),
    /// The kubeconfig is of no use.
    #[error("kubeconfig {file}: {reason}", file = file.display())]
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The endpoint is no URL.
    #[error("endpoint {url:?} is not a URL: {reason}; expected one such as https://10.0.0.1:6443")]
    Url {
        /// What stands there.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of `tls` is of no use.
    #[error("tls {file}: {reason}", file = file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The client cannot be made of all that.
    #[error("cannot make a client: {0}")]
    Client(String),
}

impl Server {
    /// Reads all that says how to reach it.
    async fn config(&self) -> Result<Config, ConnectionError> {
        let mut config = match self {
            Server::InCluster => Config::incluster().map_err(|error| {
                let names = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"];
                let unset = names.into_iter().any(|name| std::env::var_os(name).is_none());
                ConnectionError::NotInCluster(match unset {
                    true => "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set".to_owned(),
                    false => causes(&error),
                })
            })?,
            Server::Kubeconfig { file, context } => {
                let wrong = |reason| ConnectionError::Kubeconfig { file: file.clone(), reason };
                let kubeconfig = Kubeconfig::read_from(file).map_err(|error| wrong(causes(&error)))?;
                let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
                let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
                config.map_err(|error| wrong(causes(&error)))?
            }
            Server::Endpoint { url, tls } => endpoint(url, tls.as_ref())?,
        };
        // Repeating is this source's own business: it knows what to tell of it.
        config.default_retry = false;
        config
            .headers
            .push((header::USER_AGENT, HeaderValue::from_static(concat!("clusterdns/", env!("CARGO_PKG_VERSION")))));
        Ok(config)
    }
}

/// The configuration of an endpoint.
fn endpoint(url: &str, tls: Option<&[PathBuf; 3]>) -> Result<Config, ConnectionError> {
    let wrong = |reason: String| ConnectionError::Url { url: url.to_owned(), reason };
    let full = match (url.contains("://"), tls) {
        (true, _) => url.to_owned(),
        (false, Some(_)) => format!("https://{url}"),
        (false, None) => format!("http://{url}"),
    };
    let uri: http::Uri = full.parse().map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
    let of_host = |octet: u8| octet.is_ascii_alphanumeric() || b"-._:[]".contains(&octet);
    let host = uri.host().is_some_and(|host| !host.is_empty() && host.bytes().all(of_host));
    if !matches!(uri.scheme_str(), Some("http" | "https")) || !host {
        return Err(wrong("neither http nor https with a host".to_owned()));
    }
    let mut config = Config::new(uri);
    if let Some([certificate, key, ca]) = tls {
        for file in [certificate, key, ca] {
            read(file)?;
        }
        config.root_cert_file = Some(ca.clone());
        config.auth_info.client_certificate = Some(certificate.display().to_string());
        config.auth_info.client_key = Some(key.display().to_string());
    }
    Ok(config)
}

/// Whether a file can be read and holds something.
fn read(file: &Path) -> Result<(), ConnectionError> {
    let wrong = |reason| ConnectionError::File { file: file.to_owned(), reason };
    match std::fs::read(file) {
        Ok(text) if text.is_empty() => Err(wrong("the file is empty".to_owned())),
        Ok(_) => Ok(()),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// A client for a configuration.
fn client(config: Config) -> Result<Client, ConnectionError> {
    let wrong = |error: kube::Error| ConnectionError::Client(causes(&error));
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE));
    connector.set_keepalive_retries(Some(3));
    let connector = config.rustls_https_connector_with_connector(connector).map_err(wrong)?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(wrong)?)
        .layer(config.extra_headers_layer().map_err(wrong)?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

/// The connection to one API server, shared by all that is followed there.
#[derive(Debug)]
pub struct Connection {
    server: Server,
    /// Held for requests that count.
    pub limiter: Limiter,
    metrics: Metrics,
    /// Written by whoever begins a list or a watch; held only to copy.
    current: Mutex<Option<Current>>,
    /// Held while a client is being made.
    making: Arc<tokio::sync::Mutex<()>>,
    /// The API server does not answer, or does not know this client. Written by whoever asks.
    away: AtomicBool,
    /// Says that it answers again.
    back: watch::Sender<()>,
}

/// A client that is in use.
#[derive(Clone)]
struct Current {
    made: Instant,
    client: Client,
    host: String,
    /// It did not work.
    doubtful: bool,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection that will be made when it is needed.
    pub fn new(server: Server, limits: Limits, metrics: Metrics) -> Connection {
        Connection {
            server,
            limiter: Limiter::new(limits),
            metrics,
            current: Mutex::new(None),
            making: Arc::default(),
            away: AtomicBool::new(false),
            back: watch::Sender::new(()),
        }
    }

    /// Whether everything that is configured can be read.
    pub async fn check(&self) -> Result<(), ConnectionError> {
        self.current().await.map(drop)
    }

    /// Waits for so long, or until the API server answers somebody again: then for a moment that differs from one to the
    /// next.
    pub async fn pause(&self, wait: Duration, moment: Duration) {
        let mut back = self.back.subscribe();
        let again = tokio::time::timeout(wait, back.changed()).await;
        if matches!(again, Ok(Ok(()))) {
            tokio::time::sleep(moment).await;
        }
    }

    /// Whatever the client was made of may have changed: it is made anew for the next request.
    fn doubt(&self) {
        self.away.store(true, Ordering::Relaxed);
        if let Some(current) = self.current.lock().as_mut() {
            current.doubtful = true;
        }
    }

    /// Host and port of the API server; `None` as long as its configuration could not be read.
    pub fn host(&self) -> Option<String> {
        self.current.lock().as_ref().map(|current| current.host.clone())
    }

    /// The client, made anew where it is old.
    async fn current(&self) -> Result<Current, ConnectionError> {
        if let Some(current) = self.fresh() {
            return Ok(current);
        }
        // Whoever else wants one waits for the same.
        let making = tokio::time::timeout(CONNECT, self.making.clone().lock_owned()).await;
        if let Some(current) = self.fresh() {
            return Ok(current);
        }
        let known = self.current.lock().clone();
        let made = match making {
            Ok(making) => self.make(making).await,
            Err(_) => Err(ConnectionError::Client("what the kubeconfig wants is still running".to_owned())),
        };
        match (made, known) {
            (Ok(current), _) => {
                *self.current.lock() = Some(current.clone());
                Ok(current)
            }
            // A file that is being replaced: the client that worked a minute ago may work still.
            (Err(error), Some(current)) => {
                tracing::debug!(plugin = "kubernetes", %error, "the client stays");
                Ok(current)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// The client, if it is not old and nothing speaks against it.
    fn fresh(&self) -> Option<Current> {
        self.current.lock().clone().filter(|current| !current.doubtful && current.made.elapsed() < FRESH)
    }

    /// Makes a client. That may run a program (`exec` of a kubeconfig), so that it is done where it holds up nobody: one at
    /// a time, which is `making`, however long it takes.
    async fn make(&self, making: OwnedMutexGuard<()>) -> Result<Current, ConnectionError> {
        let server = self.server.clone();
        let made = tokio::task::spawn_blocking(move || {
            let _making = making;
            let config = Handle::current().block_on(server.config())?;
            let host = config.cluster_url.authority().map(ToString::to_string).unwrap_or_default();
            Ok(Current { made: Instant::now(), client: client(config)?, host, doubtful: false })
        });
        match tokio::time::timeout(CONNECT, made).await {
            Ok(Ok(made)) => made,
            Ok(Err(_)) => Err(ConnectionError::Client("the client library has panicked".to_owned())),
            Err(_) => Err(ConnectionError::Client(format!("no client within {} s", CONNECT.as_secs()))),
        }
    }

    /// Asks for a resource; the body of a good answer. What is no good answer is a error.
    pub async fn get(&self, request: Request<Vec<u8>>, admitted: Option<Duration>) -> Result<Body, WatchError> {
        let Current { client, host, .. } = self.current().await?;
        if let Some(waited) = admitted {
            self.metrics.waited(&host, waited);
        }
        let asked = Instant::now();
        let answer = tokio::time::timeout(CONNECT + HEAD, client.send(request.map(Body::from))).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                self.metrics.failed(&host);
                // What was made of a file that has changed since may be the reason.
                self.doubt();
                return Err(WatchError::Connection(causes(&error)));
            }
            Err(_) => {
                self.metrics.failed(&host);
                self.away.store(true, Ordering::Relaxed);
                return Err(WatchError::Silence { what: Awaited::Answer, limit: CONNECT + HEAD });
            }
        };
        // Watches have no duration that would mean anything, as in client-go.
        self.metrics.answered(&host, answer.status(), admitted.map(|_| asked.elapsed()));
        if answer.status().is_success() {
            if self.away.swap(false, Ordering::Relaxed) {
                self.back.send_replace(());
            }
            return Ok(answer.into_body());
        }
        if answer.status() == http::StatusCode::UNAUTHORIZED {
            self.doubt();
        }
        Err(WatchError::Refused(refusal(answer).await))
    }
}

/// Reads a refusal.
async fn refusal(answer: Response<Body>) -> Refusal {
    let status = answer.status();
    let seconds = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = Limited::new(answer.into_body(), MAX_REFUSAL).collect();
    // Without its words the code has to do.
    let body = match tokio::time::timeout(HEAD, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => Default::default(),
    };
    let mut refusal = Refusal::parse(&body, (status.as_u16(), status.canonical_reason().unwrap_or("no reason")));
    refusal.code = status.as_u16();
    refusal.retry_after = seconds.map(Duration::from_secs).or(refusal.retry_after);
    refusal
}
