//! Certificates that are trusted themselves, not because of who signed them.

use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, Error};

use super::tls_error::CA_AS_END_ENTITY;

/// The certificates of a file of authorities. A self-signed certificate of a server or client is often marked as one of
/// an authority, as by `openssl req -x509`. Go accepts it if the file contains it; the library refuses the mark.
#[derive(Clone, Debug, Default)]
pub struct Pinned(
    /// The certificates.
    pub Vec<CertificateDer<'static>>,
);

impl Pinned {
    /// Whether a certificate was refused only for its mark, and the file contains it. The library verifies the dates
    /// before the mark, and the name after it.
    pub fn accepts(&self, certificate: &CertificateDer<'_>, error: &Error) -> bool {
        let is_marked = matches!(
            error,
            Error::InvalidCertificate(CertificateError::Other(error)) if error.0.to_string() == CA_AS_END_ENTITY
        );
        is_marked && self.0.iter().any(|pinned| pinned == certificate)
    }
}
