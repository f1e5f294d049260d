//! Errors of TLS in the words that CoreDNS has for them, Go's. The library shows many by the names of its values.

use std::error::Error as StdError;
use std::io;

use rustls::{CertificateError, Error};

/// An error of TLS in words, on one line.
pub fn tls_reason(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => {
            format!("tls: failed to verify certificate: x509: {}", certificate_reason(error))
        }
        Error::InconsistentKeys(_) => "tls: private key does not match public key".to_owned(),
        Error::AlertReceived(alert) => format!("remote error: tls: {}", words(&format!("{alert:?}"))),
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => {
            "tls: first record does not look like a TLS handshake".to_owned()
        }
        Error::PeerIncompatible(why) => format!("tls: {}", words(&format!("{why:?}"))),
        Error::PeerMisbehaved(why) => format!("tls: {}", words(&format!("{why:?}"))),
        Error::InappropriateHandshakeMessage { .. } => "tls: unexpected message".to_owned(),
        Error::NoApplicationProtocol => "tls: no application protocol".to_owned(),
        Error::Other(error) => error.0.to_string(),
        Error::General(text) => text.clone(),
        // The others have no values to show.
        error => format!("tls: {}", first_line(&error.to_string())),
    }
}

/// The error of TLS that an error is, or that an I/O error holds.
pub fn find_tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    if let Some(error) = error.downcast_ref() {
        return Some(error);
    }
    // `source` of an I/O error passes over the error that it holds.
    find_tls_error(error.downcast_ref::<io::Error>()?.get_ref()?)
}

/// An error of TLS in words, from the text of the library, where a layer above has only that.
pub fn tls_reason_of_text(text: &str) -> String {
    match text.strip_prefix("received fatal alert: ") {
        Some(alert) => format!("remote error: tls: {}", words(alert)),
        None => first_line(text).to_owned(),
    }
}

fn certificate_reason(error: &CertificateError) -> String {
    use CertificateError::*;
    match error {
        UnknownIssuer => "certificate signed by unknown authority".to_owned(),
        Expired | ExpiredContext { .. } => "certificate has expired".to_owned(),
        NotValidYet | NotValidYetContext { .. } => "certificate is not yet valid".to_owned(),
        NotValidForName => "certificate is not valid for this name".to_owned(),
        NotValidForNameContext { expected, presented } if presented.is_empty() => {
            format!("certificate is not valid for any names, but wanted to match {}", expected.to_str())
        }
        NotValidForNameContext { expected, presented } => {
            let presented: Vec<String> = presented.iter().map(|name| bare_name(name)).collect();
            format!("certificate is valid for {}, not {}", presented.join(", "), expected.to_str())
        }
        InvalidPurpose | InvalidPurposeContext { .. } => "certificate specifies an incompatible key usage".to_owned(),
        UnhandledCriticalExtension => "unhandled critical extension".to_owned(),
        BadEncoding => "malformed certificate".to_owned(),
        BadSignature => "invalid signature".to_owned(),
        Revoked => "certificate is revoked".to_owned(),
        Other(error) if error.0.to_string() == CA_AS_END_ENTITY => {
            "certificate is marked as one of an authority (CA:TRUE) and not trusted itself".to_owned()
        }
        Other(error) => words(&error.0.to_string()),
        error => words(&format!("{error:?}")),
    }
}

/// How the library names a certificate of an authority that a server or client shows as its own.
pub(super) const CA_AS_END_ENTITY: &str = "CaUsedAsEndEntity";

/// `DnsName("a.example")` and `IpAddress(192.0.2.1)` without the kind.
fn bare_name(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, inner)| inner.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"').to_owned()
}

/// The name of a value of Rust as words: `BadCertificate` as `bad certificate`.
fn words(name: &str) -> String {
    let name: &str = name.split(|c: char| !c.is_ascii_alphanumeric()).find(|part| !part.is_empty()).unwrap_or("error");
    let mut words = String::new();
    let mut previous = ' ';
    for c in name.chars() {
        if c.is_ascii_uppercase() && (previous.is_ascii_lowercase() || previous.is_ascii_digit()) {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
        previous = c;
    }
    words
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{AlertDescription, InconsistentKeys, OtherError, PeerIncompatible};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("CaUsedAsEndEntity")]
    struct Ca;

    #[test]
    fn no_error_is_shown_by_the_name_of_a_value() {
        let name = |text: &'static str| text.try_into().expect("a name");
        for (error, expected) in [
            (Error::InconsistentKeys(InconsistentKeys::KeyMismatch), "tls: private key does not match public key"),
            (Error::AlertReceived(AlertDescription::CertificateRequired), "remote error: tls: certificate required"),
            (
                CertificateError::UnknownIssuer.into(),
                "tls: failed to verify certificate: x509: certificate signed by unknown authority",
            ),
            (
                CertificateError::NotValidForNameContext {
                    expected: name("c.example"),
                    presented: vec!["DnsName(\"a.example\")".to_owned(), "IpAddress(192.0.2.1)".to_owned()],
                }
                .into(),
                "tls: failed to verify certificate: x509: certificate is valid for a.example, 192.0.2.1, not c.example",
            ),
            (
                CertificateError::Other(OtherError(Arc::new(Ca))).into(),
                "tls: failed to verify certificate: x509: certificate is marked as one of an authority (CA:TRUE) and \
                 not trusted itself",
            ),
            (Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon), "tls: no cipher suites in common"),
            (Error::NoCertificatesPresented, "tls: peer sent no certificates"),
        ] {
            let shown = tls_reason(&error);
            assert_eq!(shown, expected);
            let held = io::Error::new(io::ErrorKind::InvalidData, error);
            assert_eq!(find_tls_error(&held).map(tls_reason), Some(shown));
        }
        assert_eq!(find_tls_error(&io::Error::from(io::ErrorKind::NotFound)), None);
        let alert = Error::AlertReceived(AlertDescription::CertificateRequired);
        assert_eq!(tls_reason_of_text(&alert.to_string()), tls_reason(&alert));
        assert_eq!(tls_reason_of_text("bad record\nof two lines"), "bad record");
    }
}
