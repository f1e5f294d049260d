//! What an encrypted upstream must prove, and what this server proves to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::net::{Pinned, tls_reason};

/// Which certificates an encrypted upstream may have, and which one it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The name in its certificate; its address where there is none.
    pub server_name: Option<String>,
    /// The file of the authorities that sign its certificate, or of that certificate itself; the machine's authorities
    /// where there is none.
    pub authorities: Option<PathBuf>,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Why a [`Trust`] cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds no certificate or no key.
    #[error("{} holds no {what}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// A certificate or a key cannot be used.
    #[error("{}: {}", path.display(), tls_reason(source))]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The configured name cannot be in a certificate.
    #[error("'{0}' is no server name")]
    ServerName(String),
    /// The library of TLS cannot be set up.
    #[error("{}", tls_reason(.0))]
    Library(rustls::Error),
}

impl Trust {
    /// Reads the files, to find errors in them.
    pub fn check(&self) -> Result<(), TrustError> {
        self.client_config().map(drop)
    }

    /// Returns the name that the certificate must have, by default the address of the upstream.
    pub(super) fn name(&self, address: std::net::IpAddr) -> Result<ServerName<'static>, TrustError> {
        match &self.server_name {
            Some(name) => ServerName::try_from(name.clone()).map_err(|_| TrustError::ServerName(name.clone())),
            None => Ok(ServerName::IpAddress(address.into())),
        }
    }

    /// Reads the files. Returns what TLS needs of them, and the verifier in it.
    pub(super) fn client_config(&self) -> Result<(ClientConfig, Arc<Verifier>), TrustError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(Verifier::new(self.authorities.as_deref(), provider.clone())?);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Library)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((path, key_path)) => {
                let chain = certificates(path)?;
                let no_key = |_| TrustError::Pem { path: key_path.clone(), what: "private key" };
                let key = PrivateKeyDer::from_pem_slice(&read(key_path)?).map_err(no_key)?;
                let fault = |source| TrustError::Certificate { path: path.clone(), source };
                builder.with_client_auth_cert(chain, key).map_err(fault)?
            }
        };
        Ok((config, verifier))
    }
}

/// Verifies certificates of upstreams.
#[derive(Debug)]
pub(super) struct Verifier {
    /// `None` without any authority.
    inner: Option<Arc<WebPkiServerVerifier>>,
    /// The certificates of the file of authorities.
    pinned: Pinned,
    provider: Arc<CryptoProvider>,
    /// Why the last certificate was refused. Written by a handshake, taken when that has failed: the libraries between
    /// turn the reason into texts of their own.
    reason: Mutex<Option<String>>,
}

impl Verifier {
    fn new(authorities: Option<&Path>, provider: Arc<CryptoProvider>) -> Result<Verifier, TrustError> {
        let mut roots = RootCertStore::empty();
        let mut pinned = Pinned::default();
        match authorities {
            Some(path) => {
                for certificate in certificates(path)? {
                    let fault = |source| TrustError::Certificate { path: path.to_owned(), source };
                    roots.add(certificate.clone()).map_err(fault)?;
                    pinned.0.push(certificate);
                }
            }
            None => {
                // Without any authority no certificate is accepted.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().ok();
        Ok(Verifier { inner, pinned, provider, reason: Mutex::default() })
    }

    /// Returns the reason why the last certificate was refused, and clears it.
    pub(super) fn take_reason(&self) -> Option<String> {
        self.reason.lock().take()
    }

    fn verify(
        &self, certificate: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], name: &ServerName<'_>,
        ocsp_response: &[u8], now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else { return Err(CertificateError::UnknownIssuer.into()) };
        match inner.verify_server_cert(certificate, intermediates, name, ocsp_response, now) {
            Err(error) if self.pinned.accepts(certificate, &error) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self, certificate: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], name: &ServerName<'_>,
        ocsp_response: &[u8], now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.verify(certificate, intermediates, name, ocsp_response, now);
        *self.reason.lock() = verified.as_ref().err().map(tls_reason);
        verified
    }

    fn verify_tls12_signature(
        &self, message: &[u8], certificate: &CertificateDer<'_>, signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self, message: &[u8], certificate: &CertificateDer<'_>, signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TrustError> {
    fs::read(path).map_err(|source| TrustError::Read { path: path.to_owned(), source })
}

/// Returns the certificates of a PEM file, of which there must be at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| TrustError::Pem { path: path.to_owned(), what: "certificate" })
}
