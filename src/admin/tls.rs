//! TLS of a listener, configured by a web configuration file of the Prometheus exporter toolkit (*prometheus* `tls`).
//!
//! Certificate, key, client certificates and the minimum version are supported. Every other setting is an error, since
//! a listener must not be more open than its configuration demands. As in the toolkit, renewed files are loaded without
//! a restart.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::net::{Clients, Credentials, CredentialsError, TlsFiles};

/// The maximum size of the configuration in bytes.
const LIMIT: u64 = 1 << 20;

/// The toolkit's configuration, as far as it is supported.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WebConfig {
    #[serde(default)]
    tls_server_config: Option<TlsSettings>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TlsSettings {
    cert_file: PathBuf,
    key_file: PathBuf,
    client_ca_file: PathBuf,
    client_auth_type: String,
    min_version: String,
    /// Has no effect in Go either.
    prefer_server_cipher_suites: serde::de::IgnoredAny,
}

/// Loads TLS credentials as a configuration file says; `None` if it does not configure TLS.
pub fn load(path: &Path) -> Result<Option<Credentials>, CredentialsError> {
    if files(path)?.is_none() {
        return Ok(None);
    }
    let path = path.to_owned();
    let find = move || {
        let reason = || "'tls' cannot be switched off without a restart".to_owned();
        files(&path)?.ok_or_else(|| CredentialsError::Configuration { path: path.clone(), reason: reason() })
    };
    Ok(Some(Credentials::load(find, &["http/1.1"], "prometheus")?))
}

/// Returns the files that a configuration names, if it configures TLS.
fn files(path: &Path) -> Result<Option<TlsFiles>, CredentialsError> {
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(LIMIT).read_to_string(&mut text));
    read.map_err(|source| CredentialsError::Read { path: path.to_owned(), source })?;
    let invalid = |reason: String| CredentialsError::Configuration { path: path.to_owned(), reason };
    let Some(settings) = settings(&text).map_err(invalid)? else { return Ok(None) };
    // Relative to the configuration, as in the toolkit.
    let directory = path.parent().unwrap_or(Path::new(""));
    let clients = match settings.client_auth_type.as_str() {
        "VerifyClientCertIfGiven" => Clients::VerifyIfGiven,
        "RequireAndVerifyClientCert" => Clients::Verify,
        _ => Clients::Any,
    };
    Ok(Some(TlsFiles {
        certificate: directory.join(&settings.cert_file),
        key: directory.join(&settings.key_file),
        authorities: (clients != Clients::Any).then(|| directory.join(&settings.client_ca_file)),
        clients,
        only_tls13: settings.min_version == "TLS13",
        keylog: None,
    }))
}

/// Parses the settings of a configuration; `None` if it has none. Errors are one line.
fn settings(text: &str) -> Result<Option<TlsSettings>, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let web: WebConfig = serde_saphyr::from_str(text).map_err(|error| {
        let error = error.to_string();
        let line = error.lines().next().unwrap_or_default();
        format!("{line}; supported: tls_server_config with cert_file, key_file, client_auth_type, client_ca_file and min_version")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> String {
        settings(text).expect_err(text)
    }

    #[test]
    fn supported_settings_are_parsed() {
        assert!(settings("").expect("good").is_none());
        assert!(settings("tls_server_config:\n").expect("good").is_none());
        let text = "tls_server_config:\n  cert_file: a\n  key_file: b\n  client_auth_type: RequireAndVerifyClientCert\n  \
                    client_ca_file: c\n  min_version: TLS13\n";
        let settings = settings(text).expect("good").expect("settings");
        assert_eq!((settings.cert_file, settings.client_ca_file), ("a".into(), "c".into()));
    }

    #[test]
    fn unsupported_settings_are_errors() {
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
            ("junk".to_owned(), "supported: tls_server_config"),
        ] {
            let error = error_of(&text);
            assert!(error.contains(message) && !error.contains('\n'), "{error}");
        }
    }
}
