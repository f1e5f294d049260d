//! TLS credentials of a listener: certificate, key, and requirements on client certificates. Renewed files are loaded
//! without a restart.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, KeyLog, RootCertStore, ServerConfig, SignatureScheme};
use rustls::{SupportedProtocolVersion, version};

use super::pinned::Pinned;
use super::tls_error::tls_reason;

/// The interval at which files are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// The maximum size of a file in bytes.
const LIMIT: u64 = 1 << 20;

/// Why credentials cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("cannot read {}: {}", path.display(), without_number(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A configuration that names files is invalid.
    #[error("{}: {reason}", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// The reason, on one line.
        reason: String,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {}", path.display(), without_number(source))]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file does not contain a certificate or key.
    #[error("{} does not contain a {what}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should contain.
        what: &'static str,
    },
    /// The certificate is invalid, or does not match the key.
    #[error("{}: {}", path.display(), tls_reason(source))]
    Certificate {
        /// The file of the certificate.
        path: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
    /// The authorities for client certificates are invalid.
    #[error("{}: {source}", path.display())]
    Clients {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: rustls::server::VerifierBuilderError,
    },
}

/// The requirements on client certificates: Go's `tls.ClientAuthType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clients {
    /// None.
    #[default]
    Any,
    /// Any certificate is requested, but not required.
    Request,
    /// Any certificate is required.
    Require,
    /// A certificate is not required, but must be of our authorities.
    VerifyIfGiven,
    /// A certificate of our authorities is required.
    Verify,
}

/// The files of a listener's credentials, and its settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and its intermediate certificates.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The authorities of client certificates; those of the system if `None`.
    pub authorities: Option<PathBuf>,
    /// The requirements on client certificates.
    pub clients: Clients,
    /// Accept TLS 1.3 only.
    pub only_tls13: bool,
    /// The file for secrets of connections, in the format of NSS, for packet analysers.
    pub keylog: Option<PathBuf>,
}

/// The texts of certificate, key and authorities, which are compared to detect a change.
type Texts = (String, String, Option<String>);
/// Returns the current files.
type Find = dyn Fn() -> Result<TlsFiles, CredentialsError> + Send + Sync;

/// The TLS credentials of a listener.
pub struct Credentials {
    find: Box<Find>,
    /// The protocols that are negotiated (ALPN, RFC 7301).
    protocols: Vec<Vec<u8>>,
    /// The directive, for log lines.
    plugin: &'static str,
    loaded: Mutex<Loaded>,
}

/// What was loaded last. Locked while files are checked, by one connection in [`CHECK_INTERVAL`].
struct Loaded {
    checked_at: Instant,
    files: TlsFiles,
    texts: Texts,
    config: Arc<ServerConfig>,
    /// When the certificate expires, in seconds since 1970.
    expiry: Option<i64>,
    /// The error of newer files, so that it is reported once.
    error: String,
}

impl Credentials {
    /// Loads the files that `find` returns, and reloads them when they change.
    pub fn load(
        find: impl Fn() -> Result<TlsFiles, CredentialsError> + Send + Sync + 'static, protocols: &[&str],
        plugin: &'static str,
    ) -> Result<Credentials, CredentialsError> {
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let files = find()?;
        let texts = files.read()?;
        let config = files.config(&texts, &protocols)?;
        let expiry = expiry(&texts.0);
        let loaded = Loaded { checked_at: Instant::now(), files, texts, config, expiry, error: String::new() };
        Ok(Credentials { find: Box::new(find), protocols, plugin, loaded: Mutex::new(loaded) })
    }

    /// Returns the configuration for a new connection. If the files have become invalid, that is the previous one.
    pub fn now(&self) -> Arc<ServerConfig> {
        self.current().config.clone()
    }

    /// Returns the file of the certificate that is in use, and when it expires, in seconds since 1970.
    pub fn expiry(&self) -> (PathBuf, Option<i64>) {
        let loaded = self.current();
        (loaded.files.certificate.clone(), loaded.expiry)
    }

    /// Returns what is loaded, after a reload if the files have changed.
    fn current(&self) -> MutexGuard<'_, Loaded> {
        let mut loaded = self.loaded.lock();
        if loaded.checked_at.elapsed() >= CHECK_INTERVAL {
            loaded.checked_at = Instant::now();
            self.reload_if_changed(&mut loaded);
        }
        loaded
    }

    fn reload_if_changed(&self, loaded: &mut Loaded) {
        let changed = (self.find)().and_then(|files| {
            let texts = files.read()?;
            if texts == loaded.texts && files == loaded.files {
                return Ok(None);
            }
            let config = files.config(&texts, &self.protocols)?;
            Ok(Some((files, texts, config)))
        });
        match changed {
            Ok(changed) => {
                if let Some((files, texts, config)) = changed {
                    tracing::info!(plugin = self.plugin, "certificate reloaded from {}", files.certificate.display());
                    loaded.expiry = expiry(&texts.0);
                    (loaded.files, loaded.texts, loaded.config) = (files, texts, config);
                }
                loaded.error.clear();
            }
            Err(error) => {
                let error = error.to_string();
                if loaded.error != error {
                    tracing::warn!(plugin = self.plugin, "{error}; the previous certificate stays in use");
                    loaded.error = error;
                }
            }
        }
    }
}

impl TlsFiles {
    fn read(&self) -> Result<Texts, CredentialsError> {
        let authorities = self.authorities.as_deref().map(read_file).transpose()?;
        Ok((read_file(&self.certificate)?, read_file(&self.key)?, authorities))
    }

    /// Builds the TLS configuration from the texts of the files.
    fn config(
        &self, (certificate, key, authorities): &Texts, protocols: &[Vec<u8>],
    ) -> Result<Arc<ServerConfig>, CredentialsError> {
        let invalid = |source| CredentialsError::Certificate { path: self.certificate.clone(), source };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions: &[&SupportedProtocolVersion] = match self.only_tls13 {
            true => &[&version::TLS13],
            // Older versions are insecure; this is Go's default.
            false => &[&version::TLS13, &version::TLS12],
        };
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions);
        let builder = builder.map_err(invalid)?;
        let builder = match self.verifier(authorities.as_deref(), provider)? {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let chain = certificates(&self.certificate, certificate)?;
        let no_key = |_| CredentialsError::Pem { path: self.key.clone(), what: "private key" };
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(no_key)?;
        let mut config = builder.with_single_cert(chain, key).map_err(invalid)?;
        config.alpn_protocols = protocols.to_vec();
        if let Some(path) = &self.keylog {
            config.key_log = Arc::new(KeyLogFile::open(path)?);
        }
        Ok(Arc::new(config))
    }

    /// Returns the verifier of client certificates, if they are requested.
    fn verifier(
        &self, authorities: Option<&str>, provider: Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, CredentialsError> {
        let is_optional = match self.clients {
            Clients::Any => return Ok(None),
            Clients::Request => return Ok(Some(Arc::new(AnyCertificate { provider, is_required: false }))),
            Clients::Require => return Ok(Some(Arc::new(AnyCertificate { provider, is_required: true }))),
            Clients::VerifyIfGiven => true,
            Clients::Verify => false,
        };
        let (mut roots, mut pinned) = (RootCertStore::empty(), Pinned::default());
        let path = self.authorities.clone().unwrap_or_else(|| PathBuf::from("certificates of the system"));
        match authorities {
            Some(text) => {
                for root in certificates(&path, text)? {
                    let invalid = |source| CredentialsError::Certificate { path: path.clone(), source };
                    roots.add(root.clone()).map_err(invalid)?;
                    pinned.0.push(root);
                }
            }
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        if is_optional {
            verifier = verifier.allow_unauthenticated();
        }
        let inner = verifier.build().map_err(|source| CredentialsError::Clients { path, source })?;
        Ok(Some(Arc::new(ClientVerifier { inner, pinned })))
    }
}

/// Verifies certificates of clients as Go does, see [`Pinned`].
#[derive(Debug)]
struct ClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    pinned: Pinned,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self, certificate: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match self.inner.verify_client_cert(certificate, intermediates, now) {
            Err(error) if self.pinned.accepts(certificate, &error) => Ok(ClientCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self, message: &[u8], certificate: &CertificateDer<'_>, signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self, message: &[u8], certificate: &CertificateDer<'_>, signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Accepts every certificate, provided that the client has its key.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
    is_required: bool,
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        self.is_required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self, _: &CertificateDer<'_>, _: &[CertificateDer<'_>], _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
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

/// Writes secrets of connections to a file.
#[derive(Debug)]
struct KeyLogFile(Mutex<File>);

impl KeyLogFile {
    fn open(path: &Path) -> Result<KeyLogFile, CredentialsError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        let file = file.map_err(|source| CredentialsError::Write { path: path.to_owned(), source })?;
        Ok(KeyLogFile(Mutex::new(file)))
    }
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        // A full disk must not break connections.
        let _ = self.0.lock().write_all(format!("{label} {} {}\n", hex(client_random), hex(secret)).as_bytes());
    }
}

/// Parses the certificates of a text, of which there must be at least one.
fn certificates(path: &Path, text: &str) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| CredentialsError::Pem { path: path.to_owned(), what: "certificate" })
}

/// Returns when the first certificate of a text expires, in seconds since 1970. The others are of authorities, which
/// outlive it.
fn expiry(text: &str) -> Option<i64> {
    let first = CertificateDer::pem_slice_iter(text.as_bytes()).next()?.ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&first).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// Returns the text of an I/O error without its number.
fn without_number(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn read_file(path: &Path) -> Result<String, CredentialsError> {
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(LIMIT).read_to_string(&mut text));
    read.map_err(|source| CredentialsError::Read { path: path.to_owned(), source })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn the_first_certificate_of_a_text_expires() {
        let pem = |year| {
            let mut params = CertificateParams::new(["dns.example".to_owned()]).unwrap();
            params.not_after = date_time_ymd(year, 1, 2);
            params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
        };
        assert_eq!(expiry(&(pem(2030) + &pem(2040))), Some(1_893_542_400));
        for text in ["", "not a certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert_eq!(expiry(text), None, "{text}");
        }
    }
}
