//! Certificates that are trusted themselves, not because of who signed them.

use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, Error};

use super::tls_error::CA_AS_END_ENTITY;

/// The certificates of a file of authorities. A self-signed certificate of a server or client is often marked as one of
/// an authority, and so `openssl req -x509` makes it. Go accepts it where the file holds it; the library refuses the mark.
#[derive(Clone, Debug, Default)]
pub struct Pinned(
    /// The certificates.
    pub Vec<CertificateDer<'static>>,
);

impl Pinned {
    /// Whether a certificate was refused for its mark alone, and the file holds it. The library verifies the dates before
    /// the mark, but the name behind it.
    pub fn accepts(&self, certificate: &CertificateDer<'_>, error: &Error) -> bool {
        let is_marked = matches!(
            error,
            Error::InvalidCertificate(CertificateError::Other(error)) if error.0.to_string() == CA_AS_END_ENTITY
        );
        is_marked && self.0.iter().any(|pinned| pinned == certificate)
    }
}
