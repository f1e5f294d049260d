//! TLS of a listener, from a web configuration of the Prometheus exporter toolkit, which *prometheus* `tls` names.
//!
//! Of its settings there are certificate, key, clients' certificates and the oldest version. What is not here is an error
//! that says so: a listener must not be more open than its configuration says. As in the toolkit, renewed files are
//! taken up without a restart.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use serde::Deserialize;
use tokio_rustls::TlsAcceptor;

/// How old what was read of the files may be.
const FRESH: Duration = Duration::from_secs(10);
/// The longest file that is read, in octets.
const LIMIT: u64 = 1 << 20;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration is no such YAML, or has a setting that is not here.
    #[error("{}: {reason}", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong, on one line.
        reason: String,
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

/// The toolkit's configuration, as far as it is here.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Web {
    #[serde(default)]
    tls_server_config: Option<Settings>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    cert_file: PathBuf,
    key_file: PathBuf,
    client_ca_file: PathBuf,
    client_auth_type: String,
    min_version: String,
    /// Without effect in Go, too.
    prefer_server_cipher_suites: serde::de::IgnoredAny,
}

/// TLS by a configuration file.
pub struct Tls {
    path: PathBuf,
    /// What was last read of it and its files, and when. Held while they are read, by a connection in ten seconds.
    last: Mutex<(Instant, TlsAcceptor)>,
}

impl Tls {
    /// Reads the configuration; nothing where it asks for none.
    pub fn load(path: &Path) -> Result<Option<Tls>, TlsError> {
        let acceptor = read(path)?;
        Ok(acceptor.map(|acceptor| Tls { path: path.to_owned(), last: Mutex::new((Instant::now(), acceptor)) }))
    }

    /// Who accepts a connection now. Files that have become bad leave the last good state standing.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let mut last = self.last.lock();
        if last.0.elapsed() >= FRESH {
            last.0 = Instant::now();
            match read(&self.path) {
                Ok(Some(acceptor)) => last.1 = acceptor,
                Ok(None) => tracing::warn!(plugin = "prometheus", "'tls' cannot be switched off without a restart"),
                Err(error) => tracing::warn!(plugin = "prometheus", %error, "the last good certificate is used on"),
            }
        }
        last.1.clone()
    }
}

/// Reads the configuration and its files.
fn read(path: &Path) -> Result<Option<TlsAcceptor>, TlsError> {
    let text = read_file(path)?;
    let fault = |reason: String| TlsError::Configuration { path: path.to_owned(), reason };
    let Some(settings) = settings(&text).map_err(fault)? else { return Ok(None) };
    // Relative to the configuration, as in the toolkit.
    let folder = path.parent().unwrap_or(Path::new(""));
    let (certificate, key) = (folder.join(&settings.cert_file), folder.join(&settings.key_file));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[&SupportedProtocolVersion] = match settings.min_version.as_str() {
        "TLS13" => &[&version::TLS13],
        // Older ones are not safe; Go's default.
        _ => &[&version::TLS13, &version::TLS12],
    };
    let certificate_fault = |source| TlsError::Certificate { path: certificate.clone(), source };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(certificate_fault)?;
    let builder = match settings.client_auth_type.as_str() {
        "" | "NoClientCert" => builder.with_no_client_auth(),
        kind => {
            let path = folder.join(&settings.client_ca_file);
            let mut roots = RootCertStore::empty();
            for root in certificates(&path)? {
                roots.add(root).map_err(|source| TlsError::Certificate { path: path.clone(), source })?;
            }
            let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            if kind == "VerifyClientCertIfGiven" {
                verifier = verifier.allow_unauthenticated();
            }
            builder.with_client_cert_verifier(verifier.build().map_err(|source| TlsError::Clients { path, source })?)
        }
    };
    let chain = certificates(&certificate)?;
    let no_key = |_| TlsError::Pem { path: key.clone(), what: "private key" };
    let key = PrivateKeyDer::from_pem_slice(read_file(&key)?.as_bytes()).map_err(no_key)?;
    let mut config = builder.with_single_cert(chain, key).map_err(certificate_fault)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

/// The settings of a configuration's text; nothing where it has none. What is wrong is told on one line.
fn settings(text: &str) -> Result<Option<Settings>, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let web: Web = serde_saphyr::from_str(text).map_err(|error| {
        let error = error.to_string();
        let line = error.lines().next().unwrap_or_default();
        format!("{line}; supported is tls_server_config with cert_file, key_file, client_auth_type, client_ca_file and min_version")
    })?;
    let Some(settings) = web.tls_server_config else { return Ok(None) };
    if settings.cert_file.as_os_str().is_empty() {
        return Err("missing cert_file".to_owned());
    }
    if settings.key_file.as_os_str().is_empty() {
        return Err("missing key_file".to_owned());
    }
    let verifies = match settings.client_auth_type.as_str() {
        "" | "NoClientCert" => false,
        "VerifyClientCertIfGiven" | "RequireAndVerifyClientCert" => true,
        other => {
            return Err(format!(
                "client_auth_type '{other}' is not supported: expected NoClientCert, VerifyClientCertIfGiven or \
                 RequireAndVerifyClientCert"
            ));
        }
    };
    if verifies && settings.client_ca_file.as_os_str().is_empty() {
        return Err(format!("client_auth_type '{}' needs client_ca_file", settings.client_auth_type));
    }
    if !verifies && !settings.client_ca_file.as_os_str().is_empty() {
        return Err("client CA's have been configured without a Client Auth Policy".to_owned());
    }
    if !["", "TLS10", "TLS11", "TLS12", "TLS13"].contains(&settings.min_version.as_str()) {
        return Err(format!("unknown TLS version: '{}'", settings.min_version));
    }
    Ok(Some(settings))
}

/// The certificates of a file, one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read_file(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let found = found.unwrap_or_default();
    if found.is_empty() {
        return Err(TlsError::Pem { path: path.to_owned(), what: "certificate" });
    }
    Ok(found)
}

fn read_file(path: &Path) -> Result<String, TlsError> {
    use io::Read as _;
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(LIMIT).read_to_string(&mut text));
    read.map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        settings(text).expect_err(text)
    }

    #[test]
    fn settings_that_are_here_are_read() {
        assert!(settings("").expect("good").is_none());
        assert!(settings("tls_server_config:\n").expect("good").is_none());
        let text = "tls_server_config:\n  cert_file: a\n  key_file: b\n  client_auth_type: RequireAndVerifyClientCert\n  \
                    client_ca_file: c\n  min_version: TLS13\n";
        let settings = settings(text).expect("good").expect("settings");
        assert_eq!((settings.cert_file, settings.client_ca_file), ("a".into(), "c".into()));
    }

    #[test]
    fn what_is_not_here_is_an_error_and_not_passed_over() {
        let both = "tls_server_config:\n  cert_file: a\n  key_file: b\n";
        for (text, message) in [
            ("tls_server_config:\n  cert_file: a\n".to_owned(), "missing key_file"),
            ("tls_server_config:\n  key_file: a\n".to_owned(), "missing cert_file"),
            (
                format!("{both}  client_auth_type: RequireAnyClientCert\n"),
                "client_auth_type 'RequireAnyClientCert' is not",
            ),
            (format!("{both}  client_auth_type: VerifyClientCertIfGiven\n"), "needs client_ca_file"),
            (format!("{both}  client_ca_file: c\n"), "without a Client Auth Policy"),
            (format!("{both}  min_version: SSL3\n"), "unknown TLS version"),
            (format!("{both}  client_allowed_sans: [x]\n"), "client_allowed_sans"),
            (format!("{both}basic_auth_users:\n  a: b\n"), "basic_auth_users"),
            ("junk".to_owned(), "supported is tls_server_config"),
        ] {
            let said = fault(&text);
            assert!(said.contains(message) && !said.contains('\n'), "{said}");
        }
    }
}
