//! Certificate and key of a listener, and what it asks of its clients. Renewed files are taken up without a restart.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, KeyLog, RootCertStore, ServerConfig, SignatureScheme};
use rustls::{SupportedProtocolVersion, version};

/// How old what was read of the files may be.
const FRESH: Duration = Duration::from_secs(10);
/// The longest file that is read, in octets.
const LIMIT: u64 = 1 << 20;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("cannot read {}: {}", path.display(), why(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A configuration that names files is wrong.
    #[error("{}: {reason}", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong, on one line.
        reason: String,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {}", path.display(), why(source))]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds no certificate or key.
    #[error("{} holds no {what}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Certificate and key do not belong together, or a like fault.
    #[error("{}: {source}", path.display())]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The certificates for clients are of no use.
    #[error("{}: {source}", path.display())]
    Clients {
        /// Their file.
        path: PathBuf,
        /// Why.
        source: rustls::server::VerifierBuilderError,
    },
}

/// What is asked of clients: Go's `tls.ClientAuthType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clients {
    /// Nothing.
    #[default]
    Any,
    /// A certificate, of whomever; they need not have one.
    Request,
    /// A certificate, of whomever.
    Require,
    /// A certificate of our authorities, if they have one.
    VerifyIfGiven,
    /// A certificate of our authorities.
    Verify,
}

/// Where a listener's credentials are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Its certificate and those that it hangs on.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities of its clients; this machine's without.
    pub authorities: Option<PathBuf>,
    /// What is asked of clients.
    pub clients: Clients,
    /// TLS 1.2 is too old.
    pub only_tls13: bool,
    /// Where secrets of connections are written for those who look into packets (the form of NSS).
    pub keylog: Option<PathBuf>,
}

/// The texts of certificate, key and authorities; by them a change is seen.
type Texts = (String, String, Option<String>);
/// Says where the credentials are now.
type Find = dyn Fn() -> Result<Files, CredentialsError> + Send + Sync;

/// A listener's TLS.
pub struct Credentials {
    find: Box<Find>,
    /// The names of the protocols that it speaks (RFC 7301).
    protocols: Vec<Vec<u8>>,
    /// The directive, for log lines.
    plugin: &'static str,
    last: Mutex<Last>,
}

/// What was last read. Held while files are read, by one connection in ten seconds.
struct Last {
    at: Instant,
    files: Files,
    texts: Texts,
    config: Arc<ServerConfig>,
    /// What was wrong with newer files, so that it is told once.
    fault: String,
}

impl Credentials {
    /// Reads the files that `find` names, now and again.
    pub fn load(
        find: impl Fn() -> Result<Files, CredentialsError> + Send + Sync + 'static, protocols: &[&str],
        plugin: &'static str,
    ) -> Result<Credentials, CredentialsError> {
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let files = find()?;
        let texts = files.read()?;
        let config = files.config(&texts, &protocols)?;
        let last = Mutex::new(Last { at: Instant::now(), files, texts, config, fault: String::new() });
        Ok(Credentials { find: Box::new(find), protocols, plugin, last })
    }

    /// What a new connection is met with. Files that have become bad leave the last good state standing.
    pub fn now(&self) -> Arc<ServerConfig> {
        let mut last = self.last.lock();
        if last.at.elapsed() >= FRESH {
            last.at = Instant::now();
            self.renew(&mut last);
        }
        last.config.clone()
    }

    fn renew(&self, last: &mut Last) {
        let renewed = (self.find)().and_then(|files| {
            let texts = files.read()?;
            if texts == last.texts && files == last.files {
                return Ok(None);
            }
            let config = files.config(&texts, &self.protocols)?;
            Ok(Some((files, texts, config)))
        });
        match renewed {
            Ok(renewed) => {
                if let Some((files, texts, config)) = renewed {
                    tracing::info!(plugin = self.plugin, "{} has been read anew", files.certificate.display());
                    (last.files, last.texts, last.config) = (files, texts, config);
                }
                last.fault.clear();
            }
            Err(error) => {
                let fault = error.to_string();
                if last.fault != fault {
                    tracing::warn!(plugin = self.plugin, "{fault}; the last good certificate is used on");
                    last.fault = fault;
                }
            }
        }
    }
}

impl Files {
    fn read(&self) -> Result<Texts, CredentialsError> {
        let authorities = self.authorities.as_deref().map(read_file).transpose()?;
        Ok((read_file(&self.certificate)?, read_file(&self.key)?, authorities))
    }

    /// What TLS needs of the files' texts.
    fn config(
        &self, (certificate, key, authorities): &Texts, protocols: &[Vec<u8>],
    ) -> Result<Arc<ServerConfig>, CredentialsError> {
        let fault = |source| CredentialsError::Certificate { path: self.certificate.clone(), source };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions: &[&SupportedProtocolVersion] = match self.only_tls13 {
            true => &[&version::TLS13],
            // Older ones are not safe; Go's default.
            false => &[&version::TLS13, &version::TLS12],
        };
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions);
        let builder = builder.map_err(fault)?;
        let builder = match self.verifier(authorities.as_deref(), provider)? {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let chain = certificates(&self.certificate, certificate)?;
        let no_key = |_| CredentialsError::Pem { path: self.key.clone(), what: "private key" };
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(no_key)?;
        let mut config = builder.with_single_cert(chain, key).map_err(fault)?;
        config.alpn_protocols = protocols.to_vec();
        if let Some(path) = &self.keylog {
            config.key_log = Arc::new(Secrets::open(path)?);
        }
        Ok(Arc::new(config))
    }

    /// Who looks at the certificates of clients, if anybody does.
    fn verifier(
        &self, authorities: Option<&str>, provider: Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, CredentialsError> {
        let is_optional = match self.clients {
            Clients::Any => return Ok(None),
            Clients::Request => return Ok(Some(Arc::new(Whomever { provider, is_needed: false }))),
            Clients::Require => return Ok(Some(Arc::new(Whomever { provider, is_needed: true }))),
            Clients::VerifyIfGiven => true,
            Clients::Verify => false,
        };
        let mut roots = RootCertStore::empty();
        let path = self.authorities.clone().unwrap_or_else(|| PathBuf::from("the machine's certificates"));
        match authorities {
            Some(text) => {
                for root in certificates(&path, text)? {
                    let fault = |source| CredentialsError::Certificate { path: path.clone(), source };
                    roots.add(root).map_err(fault)?;
                }
            }
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        if is_optional {
            verifier = verifier.allow_unauthenticated();
        }
        let verifier = verifier.build().map_err(|source| CredentialsError::Clients { path, source })?;
        Ok(Some(verifier))
    }
}

/// Takes any certificate whose owner has the key to it.
#[derive(Debug)]
struct Whomever {
    provider: Arc<CryptoProvider>,
    is_needed: bool,
}

impl ClientCertVerifier for Whomever {
    fn client_auth_mandatory(&self) -> bool {
        self.is_needed
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

/// The file that secrets are written to.
#[derive(Debug)]
struct Secrets(Mutex<File>);

impl Secrets {
    fn open(path: &Path) -> Result<Secrets, CredentialsError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        let file = file.map_err(|source| CredentialsError::Write { path: path.to_owned(), source })?;
        Ok(Secrets(Mutex::new(file)))
    }
}

impl KeyLog for Secrets {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let hex = |octets: &[u8]| octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
        // A full disk ends no connection.
        let _ = self.0.lock().write_all(format!("{label} {} {}\n", hex(client_random), hex(secret)).as_bytes());
    }
}

/// The certificates of a file's text, one at least.
fn certificates(path: &Path, text: &str) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| CredentialsError::Pem { path: path.to_owned(), what: "certificate" })
}

/// An error of a file, without its number.
fn why(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn read_file(path: &Path) -> Result<String, CredentialsError> {
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(LIMIT).read_to_string(&mut text));
    read.map_err(|source| CredentialsError::Read { path: path.to_owned(), source })?;
    Ok(text)
}
