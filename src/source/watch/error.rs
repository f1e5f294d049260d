//! Errors of requests to the API server.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::net::{find_tls_error, tls_reason};

/// An error in the configuration of an API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The process is not in a Pod, or the Pod has no ServiceAccount token.
    #[error(
        "not in a Pod with a ServiceAccount token: {0}; expected one, or 'kubeconfig FILE' or 'endpoint URL' in the \
         stanza, or -manifests PATH"
    )]
    NotInCluster(String),
    /// The kubeconfig is invalid.
    #[error("kubeconfig {file}: {reason}", file = file.display())]
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// The error.
        reason: String,
    },
    /// The endpoint is not a URL.
    #[error("endpoint {url:?} is not a URL: {reason}; expected one such as https://10.0.0.1:6443")]
    Url {
        /// The configured text.
        url: String,
        /// The error.
        reason: String,
    },
    /// A file of `tls` is invalid.
    #[error("tls {file}: {reason}", file = file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The error.
        reason: String,
    },
    /// The client cannot be created.
    #[error("cannot create a client: {0}")]
    Client(String),
}

/// An error that ended a list or a watch.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The client cannot be created from the configuration.
    #[error(transparent)]
    Configuration(#[from] ConnectionError),
    /// There was no connection, or it broke.
    #[error("{0}")]
    Connection(String),
    /// A response or a part of it did not arrive in time.
    #[error("no {} within {} s", waiting_for.text(), limit.as_secs())]
    Timeout {
        /// What did not arrive.
        waiting_for: WaitTarget,
        /// The timeout.
        limit: Duration,
    },
    /// The API server responded with an error status or an ERROR event.
    #[error("{0}")]
    Refused(Refusal),
    /// A streaming list ended before all of its objects.
    #[error("the list is truncated")]
    Truncated,
    /// An event or page is longer than any real one.
    #[error("an event or page of more than {0} bytes")]
    TooLong(usize),
    /// The resource versions of a watch went back: the API server has another store.
    #[error("resource versions went back from {old} to {new}")]
    Backwards {
        /// The version that was reached.
        old: u64,
        /// The version after it.
        new: u64,
    },
    /// The response is not one of an API server.
    #[error("invalid response: {0}")]
    InvalidResponse(String),
}

/// The part of a response that a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitTarget {
    /// The headers of a response.
    Response,
    /// The next event of a watch.
    Event,
    /// The bookmark after the initial events of a streaming list.
    InitialEventsEnd,
    /// The end of a page.
    PageEnd,
    /// The last page.
    LastPage,
}

impl WaitTarget {
    fn text(self) -> &'static str {
        match self {
            WaitTarget::Response => "response",
            WaitTarget::Event => "event",
            WaitTarget::InitialEventsEnd => "end of the initial events",
            WaitTarget::PageEnd => "end of a page",
            WaitTarget::LastPage => "end of the list",
        }
    }
}

impl WatchError {
    /// Returns the label of the error in metrics, one of a few.
    pub fn reason(&self) -> &'static str {
        match self {
            WatchError::Configuration(_) => "configuration",
            WatchError::Connection(_) => "connection",
            WatchError::Timeout { .. } => "timeout",
            WatchError::Truncated => "truncated",
            WatchError::TooLong(_) => "too_long",
            WatchError::InvalidResponse(_) => "protocol",
            WatchError::Backwards { .. } => "backwards",
            WatchError::Refused(refusal) => match refusal.code {
                400 => "400",
                401 => "401",
                403 => "403",
                404 => "404",
                410 => "410",
                422 => "422",
                429 => "429",
                500 => "500",
                503 => "503",
                504 => "504",
                _ => "other_status",
            },
        }
    }

    /// Returns the status code, if the API server sent one.
    pub fn code(&self) -> Option<u16> {
        match self {
            WatchError::Refused(refusal) => Some(refusal.code),
            _ => None,
        }
    }

    /// Returns the delay that the API server requests.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            WatchError::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }
}

/// An error of the API server: a `ApiStatus`, or a bare code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status, or the `code` of an ERROR event.
    pub code: u16,
    /// The message, or the reason phrase of the HTTP status.
    pub message: String,
    /// The requested delay: the header `Retry-After`, or `details.retryAfterSeconds`.
    pub retry_after: Option<Duration>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

/// A `v1` Status.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ApiStatus {
    kind: Option<String>,
    code: Option<u16>,
    message: Option<String>,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    retry_after_seconds: Option<u64>,
}

impl Refusal {
    /// Parses a body that should be a Status. `http` has the status code and its reason phrase, for other bodies.
    pub fn parse(body: &[u8], http: (u16, &str)) -> Refusal {
        let status: ApiStatus = serde_json::from_slice(body).unwrap_or_default();
        let seconds = status.details.and_then(|details| details.retry_after_seconds).filter(|&seconds| seconds > 0);
        let is_status = status.kind.as_deref() == Some("Status");
        let message = status.message.filter(|text| is_status && !text.is_empty()).unwrap_or_else(|| http.1.to_owned());
        let message = truncate_text(message);
        Refusal {
            code: status.code.filter(|_| is_status).unwrap_or(http.0),
            message,
            retry_after: seconds.map(Duration::from_secs),
        }
    }
}

/// The maximum length of a text of an API server in a message, in bytes.
const MAX_TEXT: usize = 600;

/// Truncates a text of the API server to a readable length.
pub(super) fn truncate_text(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
    text
}

/// Describes an error with its causes, without repetition and without the names of layers: `Connection refused`.
pub(super) fn describe_error(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut all = std::iter::successors(Some(error), |error| error.source());
    let tls = all.find_map(find_tls_error).map(|error| (error.to_string(), tls_reason(error)));
    let mut next = Some(error);
    while let Some(cause) = next {
        let mut part = cause.to_string();
        if let Some((text_of_tls, reason)) = &tls
            && part != "invalid peer certificate: UnknownIssuer"
        {
            part = part.replace(text_of_tls, reason);
        }
        // The client's prefix for errors of its layers.
        let part = part.strip_prefix("ServiceError: ").unwrap_or(&part);
        // Links, names of layers and error numbers do not help in a log line.
        let part = part.split(": https://").next().unwrap_or(part).split(" (os error").next().unwrap_or(part);
        let part = match part {
            "client error (Connect)" | "tcp connect error" | "error reading a body from connection" => "",
            "client error (SendRequest)" | "connection error" => "",
            "peer closed connection without sending TLS close_notify" => "the API server closed the connection",
            "invalid peer certificate: UnknownIssuer" => {
                "the API server's certificate is signed by an unknown authority; expected its CA in the kubeconfig, or \
                 as the third file of 'tls'"
            }
            part => part,
        };
        if !text.contains(part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(part);
        }
        next = cause.source();
    }
    // If there are only names of layers, they are all there is.
    if text.is_empty() { error.to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("client error (Connect)")]
    struct Layer(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("invalid private key: {0}")]
    struct PrivateKeyError(#[source] rustls::Error);

    #[test]
    fn tls_errors_are_described_in_words() {
        use rustls::{CertificateError, InconsistentKeys};
        let connection =
            |error: rustls::Error| describe_error(&Layer(io::Error::new(io::ErrorKind::InvalidData, error)));
        assert_eq!(
            connection(CertificateError::Expired.into()),
            "tls: failed to verify certificate: x509: certificate has expired"
        );
        let unknown = connection(CertificateError::UnknownIssuer.into());
        assert!(unknown.starts_with("the API server's certificate is signed by an unknown authority"), "{unknown}");
        let key = PrivateKeyError(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch));
        assert_eq!(describe_error(&key), "invalid private key: tls: private key does not match public key");
    }
}
