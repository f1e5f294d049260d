//! DNS over HTTPS to an upstream (RFC 8484), by GET or POST over HTTP/2.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::runtime::Handle;

use super::Error;
use super::config::UpstreamConfig;
use super::http2::{Http2Address, Http2Client, Http2Config, Http2Response};
use super::metrics::UpstreamMetrics;
use super::shared_connection::ExchangeTime;
use super::trust::TrustError;
use crate::wire::MAX_MESSAGE;

/// The path of queries, that of the example in RFC 8484 4.1.1.
const PATH: &str = "/dns-query";
/// The content type of a message.
const MESSAGE: HeaderValue = HeaderValue::from_static("application/dns-message");

/// A client of one upstream.
pub(super) struct DohClient {
    http: Http2Client,
    /// The URI of a POST.
    uri: Uri,
    /// The name in the certificate, which is the host of URIs too, if it is configured.
    server_name: Option<String>,
    /// Queries are sent by GET.
    get: bool,
}

impl DohClient {
    /// Creates a client without a connection.
    pub(super) fn new(
        config: &UpstreamConfig, runtime: Handle, metrics: Arc<UpstreamMetrics>,
    ) -> Result<DohClient, TrustError> {
        let UpstreamConfig { address, source, reuse, trust, get, .. } = config;
        let server_name = trust.server_name.clone();
        let config = Http2Config {
            address: Http2Address::Socket(*address),
            source: *source,
            trust: Some(trust.clone()),
            reuse: *reuse,
            pause: Duration::ZERO,
        };
        let http = Http2Client::new(&config, runtime, move |was_open| metrics.record_stream(was_open))?;
        let uri = http.uri(server_name.as_deref(), PATH).map_err(|error| TrustError::ServerName(error.to_string()))?;
        Ok(DohClient { http, uri, server_name, get: *get })
    }

    /// Exchanges a query. `read_timeout` starts when it is sent.
    pub(super) async fn exchange(&self, packet: Vec<u8>, read_timeout: Duration) -> Result<Vec<u8>, Error> {
        let id = packet.first_chunk::<2>().copied();
        let mut response = self.request(packet, read_timeout).await?;
        // The response of a cache has the ID of another query (RFC 8484 4.1).
        if let (Some(id), Some(of_response)) = (id, response.first_chunk_mut()) {
            *of_response = id;
        }
        Ok(response)
    }

    async fn request(&self, mut packet: Vec<u8>, read_timeout: Duration) -> Result<Vec<u8>, Error> {
        // "a DNS client SHOULD use a DNS ID of 0 in every DNS request" (RFC 8484 4.1), so that caches recognize it.
        packet.iter_mut().take(2).for_each(|byte| *byte = 0);
        let builder = Request::builder().header(ACCEPT, MESSAGE);
        let request = if self.get {
            let path = format!("{PATH}?dns={}", URL_SAFE_NO_PAD.encode(&packet));
            let uri = self.http.uri(self.server_name.as_deref(), &path)?;
            builder.method(Method::GET).uri(uri).body(Full::default())
        } else {
            let body = Full::new(Bytes::from(packet));
            builder.method(Method::POST).uri(self.uri.clone()).header(CONTENT_TYPE, MESSAGE).body(body)
        };
        let request = request.map_err(|error| self.error(error.to_string()))?;
        let response = self.http.request(request, MAX_MESSAGE, ExchangeTime::Response(read_timeout)).await?;
        let Http2Response { head, body, .. } = response;
        if head.status != StatusCode::OK {
            return Err(self.error(format!("http status {}", head.status)));
        }
        match head.headers.get(CONTENT_TYPE) {
            Some(found) if *found == MESSAGE => Ok(body),
            Some(found) => Err(self.error(format!("unexpected content type {found:?}"))),
            None => Err(self.error("no content type".to_owned())),
        }
    }

    fn error(&self, text: String) -> Error {
        Error::Protocol(self.http.label().clone(), text)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{HeaderMap, Response};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::upstream::testing::{http2_server, runtime};
    use crate::upstream::{ConnectionReuse, HealthCheck, Metrics, Trust, UpstreamTransport};
    use crate::wire::Name;

    const QUERY: &[u8] = b"\xab\xcd\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";
    const LONG: Duration = Duration::from_secs(10);

    /// Returns the outcomes of queries at an upstream that answers so, and its requests.
    fn exchanges(
        get: bool, server_name: Option<&str>, count: usize,
        respond: impl Fn(Vec<u8>) -> Response<Vec<u8>> + Send + Sync + 'static,
    ) -> (Vec<Result<Vec<u8>, String>>, Vec<String>) {
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let names = ["dns.example".to_owned(), "127.0.0.1".to_owned()];
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).expect("a key");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("a certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let runtime = runtime();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = requests.clone();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (address, connections) = http2_server(&runtime, Some(acceptor), move |request| {
            let text = format!("{} {} accepts {:?}", request.method(), request.uri(), request.headers()["accept"]);
            seen.lock().expect("not poisoned").push(text);
            let query = match request.uri().query().and_then(|query| query.strip_prefix("dns=")) {
                Some(query) => URL_SAFE_NO_PAD.decode(query).expect("base64url"),
                None => request.into_body(),
            };
            Some((respond(query), HeaderMap::new()))
        });
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("clusterdns-doh-{}-{number}.pem", std::process::id()));
        std::fs::write(&path, cert.pem()).expect("a file");
        let check = HealthCheck { interval: LONG, recursion: true, domain: Name::ROOT.to_owned(), tcp: false };
        let server_name = server_name.map(str::to_owned);
        let config = UpstreamConfig {
            address,
            transport: UpstreamTransport::Https,
            source: None,
            reuse: ConnectionReuse::default(),
            check,
            trust: Trust { server_name, authorities: Some(path.clone()), identity: None },
            get,
        };
        let metrics = Metrics::default().upstream("x");
        let client = DohClient::new(&config, runtime.handle().clone(), metrics).expect("a client");
        std::fs::remove_file(path).expect("removed");
        let hide = |error: Error| error.to_string().replace(&address.to_string(), "SERVER");
        let outcomes = (0..count).map(|_| runtime.block_on(client.exchange(QUERY.to_vec(), LONG)).map_err(hide));
        let outcomes = outcomes.collect();
        assert_eq!(connections.load(Ordering::Relaxed), 1);
        let requests = requests.lock().expect("not poisoned").clone();
        (outcomes, requests.into_iter().map(|text| text.replace(&address.to_string(), "SERVER")).collect())
    }

    fn message(bytes: Vec<u8>) -> Response<Vec<u8>> {
        Response::builder().header(CONTENT_TYPE, "application/dns-message").body(bytes).expect("a response")
    }

    /// With the ID 0, and the response has the ID of the query.
    #[test]
    fn queries_are_sent_by_get_or_post() {
        let echo = |query: Vec<u8>| {
            assert_eq!(query[..4], [0, 0, 1, 0]);
            message(query)
        };
        let accepts = "accepts \"application/dns-message\"";
        for (get, server_name, expected) in [
            (true, None, "GET https://SERVER/dns-query?dns=AAABAAABAAAAAAAAAWEAAAEAAQ"),
            (true, Some("dns.example"), "GET https://dns.example/dns-query?dns=AAABAAABAAAAAAAAAWEAAAEAAQ"),
            (false, None, "POST https://SERVER/dns-query"),
            (false, Some("dns.example"), "POST https://dns.example/dns-query"),
        ] {
            let (outcomes, requests) = exchanges(get, server_name, 2, echo);
            assert_eq!(outcomes, [Ok(QUERY.to_vec()), Ok(QUERY.to_vec())], "{expected}");
            assert_eq!(requests, [format!("{expected} {accepts}"), format!("{expected} {accepts}")]);
        }
    }

    #[test]
    fn other_responses_are_errors_of_one_query() {
        let count = AtomicUsize::new(0);
        let respond = move |query: Vec<u8>| match count.fetch_add(1, Ordering::Relaxed) {
            0 => Response::builder().status(404).body(Vec::new()).expect("a response"),
            1 => Response::new(query),
            2 => Response::builder().header(CONTENT_TYPE, "text/html").body(query).expect("a response"),
            3 => message(vec![0; 1_000_000]),
            4 => message(Vec::new()),
            _ => message(query),
        };
        let (outcomes, _) = exchanges(true, None, 6, respond);
        let error = |text: &str| Err(format!("SERVER: {text}"));
        assert_eq!(
            outcomes,
            [
                error("http status 404 Not Found"),
                error("no content type"),
                error("unexpected content type \"text/html\""),
                error("the response has more than 65535 bytes"),
                Ok(Vec::new()),
                Ok(QUERY.to_vec()),
            ]
        );
    }
}
