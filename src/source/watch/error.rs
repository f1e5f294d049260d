//! What can go wrong between this server and the API server.

use std::time::Duration;

use serde::Deserialize;

use crate::net::{find_tls_error, tls_reason};

use super::connection::ConnectionError;

/// Why a list or a watch did not go on.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The connection cannot be made from what is configured.
    #[error(transparent)]
    Configuration(#[from] ConnectionError),
    /// There was no connection, or it broke.
    #[error("{0}")]
    Connection(String),
    /// Nothing came for too long.
    #[error("no {} within {} s", what.text(), limit.as_secs())]
    Silence {
        /// What was waited for.
        what: Awaited,
        /// For how long.
        limit: Duration,
    },
    /// The API server refused, by a status code or by an ERROR event.
    #[error("{0}")]
    Refused(Refusal),
    /// A body ended in the middle of a list.
    #[error("the list ended in the middle")]
    Cut,
    /// One event or page is longer than any real one.
    #[error("more than {0} octets at once")]
    TooLong(usize),
    /// Versions of a watch went back: the API server has another store.
    #[error("versions went back from {old} to {new}")]
    Backwards {
        /// The version that was reached.
        old: u64,
        /// The one that followed.
        new: u64,
    },
    /// What came is not what an API server sends.
    #[error("not an answer of an API server: {0}")]
    Nonsense(String),
}

/// What may not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// The head of an answer.
    Answer,
    /// The next event of a watch.
    Event,
    /// The bookmark behind the initial events of a streaming list.
    InitialEventsEnd,
    /// The end of a page.
    PageEnd,
    /// The last page.
    LastPage,
}

impl Awaited {
    fn text(self) -> &'static str {
        match self {
            Awaited::Answer => "answer",
            Awaited::Event => "event",
            Awaited::InitialEventsEnd => "end of the initial events",
            Awaited::PageEnd => "end of a page",
            Awaited::LastPage => "end of the list",
        }
    }
}

impl WatchError {
    /// The cause as a metric's label: one of a few.
    pub fn reason(&self) -> &'static str {
        match self {
            WatchError::Configuration(_) => "configuration",
            WatchError::Connection(_) => "connection",
            WatchError::Silence { .. } => "timeout",
            WatchError::Cut => "truncated",
            WatchError::TooLong(_) => "too_long",
            WatchError::Nonsense(_) => "protocol",
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

    /// The status code, if the API server gave one.
    pub fn code(&self) -> Option<u16> {
        match self {
            WatchError::Refused(refusal) => Some(refusal.code),
            _ => None,
        }
    }

    /// How long the API server asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            WatchError::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }
}

/// A refusal of the API server: a `Status`, or a bare code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status, or the `code` of an ERROR event.
    pub code: u16,
    /// Its words; the HTTP status' own where it has none.
    pub message: String,
    /// How long it asks to wait: the header, or `details.retryAfterSeconds`.
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
pub struct Status {
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
    /// From a body that should be a Status. `http`: the status code and its words, for what is no Status.
    pub fn parse(body: &[u8], http: (u16, &str)) -> Refusal {
        let status: Status = serde_json::from_slice(body).unwrap_or_default();
        let seconds = status.details.and_then(|details| details.retry_after_seconds).filter(|&seconds| seconds > 0);
        let known = status.kind.as_deref() == Some("Status");
        let message = status.message.filter(|text| known && !text.is_empty()).unwrap_or_else(|| http.1.to_owned());
        let message = bounded(message);
        Refusal {
            code: status.code.filter(|_| known).unwrap_or(http.0),
            message,
            retry_after: seconds.map(Duration::from_secs),
        }
    }
}

/// The longest text of an API server that is repeated, in octets.
const MAX_WORDS: usize = 600;

/// A text of the API server, cut where it is longer than anyone reads.
pub fn bounded(mut text: String) -> String {
    if text.len() > MAX_WORDS {
        text.truncate(text.floor_char_boundary(MAX_WORDS));
        text.push('…');
    }
    text
}

/// An error with its causes, each told once, without the names of layers: `Connection refused`.
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut all = std::iter::successors(Some(error), |error| error.source());
    let tls = all.find_map(find_tls_error).map(|error| (error.to_string(), tls_reason(error)));
    let mut next = Some(error);
    while let Some(cause) = next {
        let mut said = cause.to_string();
        if let Some((shown, words)) = &tls
            && said != "invalid peer certificate: UnknownIssuer"
        {
            said = said.replace(shown, words);
        }
        // The client's own word for "one of the layers".
        let said = said.strip_prefix("ServiceError: ").unwrap_or(&said);
        // A page on the net is of no use in a log line, nor are the names of layers and of numbers.
        let said = said.split(": https://").next().unwrap_or(said).split(" (os error").next().unwrap_or(said);
        let said = match said {
            "client error (Connect)" | "tcp connect error" | "error reading a body from connection" => "",
            "client error (SendRequest)" | "connection error" => "",
            "peer closed connection without sending TLS close_notify" => "the API server closed the connection",
            "invalid peer certificate: UnknownIssuer" => {
                "the API server's certificate is of an authority that is not known here; expected the CA that signed \
                 it in the kubeconfig, or as the third file of 'tls'"
            }
            said => said,
        };
        if !text.contains(said) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(said);
        }
        next = cause.source();
    }
    // Layers alone say nothing.
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
    struct Key(#[source] rustls::Error);

    #[test]
    fn errors_of_tls_are_told_in_words() {
        use rustls::{CertificateError, InconsistentKeys};
        let connection = |error: rustls::Error| causes(&Layer(io::Error::new(io::ErrorKind::InvalidData, error)));
        assert_eq!(
            connection(CertificateError::Expired.into()),
            "tls: failed to verify certificate: x509: certificate has expired"
        );
        let unknown = connection(CertificateError::UnknownIssuer.into());
        assert!(unknown.starts_with("the API server's certificate is of an authority that is not known"), "{unknown}");
        let key = Key(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch));
        assert_eq!(causes(&key), "invalid private key: tls: private key does not match public key");
    }
}
