//! The connection to the API server: from within a Pod, by a kubeconfig, or by its URL.
//!
//! The client is created again from its files once a minute at most, when a watch or list starts, and at once after the
//! API server has rejected its credentials: rotated certificates, keys, tokens and CAs take effect without a restart.

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

use super::limits::{Limiter, RequestLimits};
use super::metrics::Metrics;
use crate::source::watch::error::{ConnectionError, Refusal, WaitTarget, WatchError, describe_error};

/// The time after which a client is created again from its files.
const CLIENT_LIFETIME: Duration = Duration::from_secs(60);
/// The timeout of a connection attempt, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The idle time after which a connection is probed, and the interval of probes; three probes without a response close
/// it. Load balancers drop idle flows without notice.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// The timeout of a response, up to its headers.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// The maximum length of the body of an error response, in bytes.
const MAX_ERROR_BODY: usize = 64 * 1024;

/// The configuration of an API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ApiServer {
    /// The API server of the cluster that this process runs in as a Pod.
    #[default]
    InCluster,
    /// The API server of a kubeconfig.
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// The context, or `None` for the current one of the file.
        context: Option<String>,
    },
    /// The API server at a URL.
    Endpoint {
        /// The URL. The default scheme is `https` with `tls` and `http` without, as in client-go.
        url: String,
        /// The client certificate, its key, and the CA.
        tls: Option<[PathBuf; 3]>,
    },
}

impl ApiServer {
    /// Loads the client configuration.
    async fn load_config(&self) -> Result<Config, ConnectionError> {
        let mut config = match self {
            ApiServer::InCluster => Config::incluster().map_err(|error| {
                let names = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"];
                let unset = names.into_iter().any(|name| std::env::var_os(name).is_none());
                ConnectionError::NotInCluster(if unset {
                    "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set".to_owned()
                } else {
                    describe_error(&error)
                })
            })?,
            ApiServer::Kubeconfig { file, context } => {
                let error_of = |reason| ConnectionError::Kubeconfig { file: file.clone(), reason };
                let kubeconfig = Kubeconfig::read_from(file).map_err(|error| error_of(describe_error(&error)))?;
                let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
                let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
                config.map_err(|error| error_of(describe_error(&error)))?
            }
            ApiServer::Endpoint { url, tls } => endpoint_config(url, tls.as_ref())?,
        };
        // Retries are left to the watch, which knows what to report.
        config.default_retry = false;
        config
            .headers
            .push((header::USER_AGENT, HeaderValue::from_static(concat!("clusterdns/", env!("CARGO_PKG_VERSION")))));
        Ok(config)
    }
}

/// Returns the client configuration for a URL.
fn endpoint_config(url: &str, tls: Option<&[PathBuf; 3]>) -> Result<Config, ConnectionError> {
    let error_of = |reason: String| ConnectionError::Url { url: url.to_owned(), reason };
    let full = match (url.contains("://"), tls) {
        (true, _) => url.to_owned(),
        (false, Some(_)) => format!("https://{url}"),
        (false, None) => format!("http://{url}"),
    };
    let uri: http::Uri = full.parse().map_err(|error: http::uri::InvalidUri| error_of(error.to_string()))?;
    let is_host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    let host = uri.host().is_some_and(|host| !host.is_empty() && host.bytes().all(is_host_byte));
    if !matches!(uri.scheme_str(), Some("http" | "https")) || !host {
        return Err(error_of("neither http nor https with a host".to_owned()));
    }
    let mut config = Config::new(uri);
    if let Some([certificate, key, ca]) = tls {
        for file in [certificate, key, ca] {
            check_file(file)?;
        }
        config.root_cert_file = Some(ca.clone());
        config.auth_info.client_certificate = Some(certificate.display().to_string());
        config.auth_info.client_key = Some(key.display().to_string());
    }
    Ok(config)
}

/// Checks that a file can be read and is not empty.
fn check_file(file: &Path) -> Result<(), ConnectionError> {
    let error_of = |reason| ConnectionError::File { file: file.to_owned(), reason };
    match std::fs::read(file) {
        Ok(text) if text.is_empty() => Err(error_of("the file is empty".to_owned())),
        Ok(_) => Ok(()),
        Err(error) => Err(error_of(error.to_string())),
    }
}

/// Creates a client.
fn build_client(config: Config) -> Result<Client, ConnectionError> {
    let error_of = |error: kube::Error| ConnectionError::Client(describe_error(&error));
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(3));
    let connector = config.rustls_https_connector_with_connector(connector).map_err(error_of)?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(error_of)?)
        .layer(config.extra_headers_layer().map_err(error_of)?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

/// The connection to an API server, shared by all watches of it.
#[derive(Debug)]
pub(super) struct ApiConnection {
    server: ApiServer,
    /// The limits of requests. Watches are not limited.
    pub limiter: Limiter,
    metrics: Metrics,
    /// The current client. Written when a list or watch starts; locked for the time of a copy.
    current: Mutex<Option<CurrentClient>>,
    /// Locked while a client is being created.
    creating: Arc<tokio::sync::Mutex<()>>,
    /// Set while the API server does not respond or rejects this client. Written by all requests.
    is_failing: AtomicBool,
    /// Notifies that the API server responds again.
    recovered: watch::Sender<()>,
}

/// The client in use.
#[derive(Clone)]
struct CurrentClient {
    created: Instant,
    client: Client,
    host: String,
    /// A request has failed, so the client is created again.
    is_stale: bool,
}

impl std::fmt::Debug for CurrentClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CurrentClient").field("host", &self.host).finish_non_exhaustive()
    }
}

impl ApiConnection {
    /// Creates a connection, which connects when it is needed.
    pub(super) fn new(server: ApiServer, limits: RequestLimits, metrics: Metrics) -> ApiConnection {
        ApiConnection {
            server,
            limiter: Limiter::new(limits),
            metrics,
            current: Mutex::new(None),
            creating: Arc::default(),
            is_failing: AtomicBool::new(false),
            recovered: watch::Sender::new(()),
        }
    }

    /// Checks that the configured files can be read.
    pub(super) async fn check(&self) -> Result<(), ConnectionError> {
        self.current_client().await.map(drop)
    }

    /// Waits for `delay`, or until the API server responds to another request, and then for the short delay `jitter`.
    pub(super) async fn wait_for_recovery(&self, delay: Duration, jitter: Duration) {
        let mut recovered = self.recovered.subscribe();
        let result = tokio::time::timeout(delay, recovered.changed()).await;
        if matches!(result, Ok(Ok(()))) {
            tokio::time::sleep(jitter).await;
        }
    }

    /// Marks the client as stale: it is created again for the next request, since its files may have changed.
    fn mark_stale(&self) {
        self.is_failing.store(true, Ordering::Relaxed);
        if let Some(current) = self.current.lock().as_mut() {
            current.is_stale = true;
        }
    }

    /// Returns host and port of the API server, or `None` while its configuration could not be loaded.
    pub(super) fn host(&self) -> Option<String> {
        self.current.lock().as_ref().map(|current| current.host.clone())
    }

    /// Returns the client, which is created again if it is old.
    async fn current_client(&self) -> Result<CurrentClient, ConnectionError> {
        if let Some(current) = self.fresh_client() {
            return Ok(current);
        }
        // Concurrent requests wait for the same client.
        let creating = tokio::time::timeout(CONNECT_TIMEOUT, self.creating.clone().lock_owned()).await;
        if let Some(current) = self.fresh_client() {
            return Ok(current);
        }
        let known = self.current.lock().clone();
        let made = match creating {
            Ok(creating) => self.create_client(creating).await,
            Err(_) => Err(ConnectionError::Client("the program of the kubeconfig is still running".to_owned())),
        };
        match (made, known) {
            (Ok(current), _) => {
                *self.current.lock() = Some(current.clone());
                Ok(current)
            }
            // A file may be in the middle of a replacement: the previous client may still work.
            (Err(error), Some(current)) => {
                tracing::debug!(plugin = "kubernetes", %error, "the previous client stays in use");
                Ok(current)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Returns the client if it is neither old nor stale.
    fn fresh_client(&self) -> Option<CurrentClient> {
        self.current.lock().clone().filter(|current| !current.is_stale && current.created.elapsed() < CLIENT_LIFETIME)
    }

    /// Creates a client. This may run a program (`exec` of a kubeconfig), so it runs on a blocking thread, one at a
    /// time, while `creating` is locked.
    async fn create_client(&self, creating: OwnedMutexGuard<()>) -> Result<CurrentClient, ConnectionError> {
        let server = self.server.clone();
        let made = tokio::task::spawn_blocking(move || {
            let _creating = creating;
            let config = Handle::current().block_on(server.load_config())?;
            let host = config.cluster_url.authority().map(ToString::to_string).unwrap_or_default();
            Ok(CurrentClient { created: Instant::now(), client: build_client(config)?, host, is_stale: false })
        });
        match tokio::time::timeout(CONNECT_TIMEOUT, made).await {
            Ok(Ok(made)) => made,
            Ok(Err(_)) => Err(ConnectionError::Client("the client library panicked".to_owned())),
            Err(_) => Err(ConnectionError::Client(format!("no client within {} s", CONNECT_TIMEOUT.as_secs()))),
        }
    }

    /// Requests a resource and returns the body of a successful response. Any other response is an error.
    pub(super) async fn get(&self, request: Request<Vec<u8>>, waited: Option<Duration>) -> Result<Body, WatchError> {
        let CurrentClient { client, host, .. } = self.current_client().await?;
        if let Some(waited) = waited {
            self.metrics.observe_wait(&host, waited);
        }
        let sent = Instant::now();
        let response =
            tokio::time::timeout(CONNECT_TIMEOUT + RESPONSE_TIMEOUT, client.send(request.map(Body::from))).await;
        let response = match response {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                self.metrics.count_failure(&host);
                // The client may use a file that has changed since.
                self.mark_stale();
                return Err(WatchError::Connection(describe_error(&error)));
            }
            Err(_) => {
                self.metrics.count_failure(&host);
                self.is_failing.store(true, Ordering::Relaxed);
                return Err(WatchError::Timeout {
                    waiting_for: WaitTarget::Response,
                    limit: CONNECT_TIMEOUT + RESPONSE_TIMEOUT,
                });
            }
        };
        // The duration of a watch has no meaning, as in client-go.
        self.metrics.count_response(&host, response.status(), waited.map(|_| sent.elapsed()));
        if response.status().is_success() {
            if self.is_failing.swap(false, Ordering::Relaxed) {
                self.recovered.send_replace(());
            }
            return Ok(response.into_body());
        }
        if response.status() == http::StatusCode::UNAUTHORIZED {
            self.mark_stale();
        }
        Err(WatchError::Refused(read_refusal(response).await))
    }
}

/// Reads an error response.
async fn read_refusal(response: Response<Body>) -> Refusal {
    let status = response.status();
    let seconds = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = Limited::new(response.into_body(), MAX_ERROR_BODY).collect();
    // Without a body the status code has to do.
    let body = match tokio::time::timeout(RESPONSE_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => Default::default(),
    };
    let mut refusal = Refusal::parse(&body, (status.as_u16(), status.canonical_reason().unwrap_or("no reason")));
    refusal.code = status.as_u16();
    refusal.retry_after = seconds.map(Duration::from_secs).or(refusal.retry_after);
    refusal
}
