//! *tls*: the certificate and the key of the encrypted listeners of a server block (CoreDNS `plugin/tls`).

use std::path::{Path, PathBuf};

use super::Context;
use super::build::{BlockOptions, Setting};
use super::path::path;
use crate::corefile::{Arguments, Directive};
use crate::net::{Clients, TlsFiles};

/// The values of `client_auth`: the requirements on client certificates.
const CLIENTS: &[(&str, Clients)] = &[
    ("nocert", Clients::Any),
    ("request", Clients::Request),
    ("require", Clients::Require),
    ("verify_if_given", Clients::VerifyIfGiven),
    ("require_and_verify", Clients::Verify),
];

impl Setting for TlsFiles {
    fn configure(&self, options: &mut BlockOptions) {
        options.tls = Some(self.clone());
    }
}

/// Parses the directive; the last stanza of a server block is used.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<TlsFiles> {
    let errors = context.diagnostics.has_errors();
    let root = context.root.clone();
    let mut files = TlsFiles::default();
    for stanza in stanzas {
        files = TlsFiles::default();
        let mut line = Arguments::of(stanza, context.diagnostics);
        if !line.more() {
            let message = "certificates by ACME are not supported";
            line.error_expected(&stanza.name, message, "CERT KEY [CA]");
            line.ignore_rest();
            continue;
        }
        if let Some(certificate) = path(&mut line, root.as_deref(), "a certificate file and a key file") {
            files.certificate = certificate;
        }
        if let Some(key) = path(&mut line, root.as_deref(), "a key file after the certificate file") {
            files.key = key;
        }
        if line.more() {
            files.authorities = path(&mut line, root.as_deref(), "a file with CA certificates");
        }
        for property in line.body() {
            let mut inner = line.enter(property);
            match inner.name() {
                "client_auth" => files.clients = inner.one_of(CLIENTS).unwrap_or_default(),
                "keylog" => files.keylog = parse_keylog(&mut inner, root.as_deref()),
                _ => inner.unknown(["client_auth", "keylog"]),
            }
            inner.finish();
        }
        if let Some(path) = &files.keylog {
            line.warning(&stanza.name, format!("the TLS secrets of connections are written to {}", path.display()));
        }
        line.finish();
    }
    (errors == context.diagnostics.has_errors()).then_some(files)
}

/// Parses the name of the file to which secrets are written. It is created at start, so its directory must exist.
fn parse_keylog(line: &mut Arguments<'_, '_>, root: Option<&Path>) -> Option<PathBuf> {
    let word = line.peek().unwrap_or(line.name_token());
    let file = path(line, root, "a file")?;
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if directory.is_dir() && !file.is_dir() {
        return Some(file);
    }
    let reason = if file.is_dir() { "it is a directory" } else { "its directory does not exist" };
    let message = format!("cannot write {}: {reason}", file.display());
    line.error_expected(word, message, "a file in a directory that exists");
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, read};

    #[test]
    fn files_and_requirements_on_clients_are_parsed() {
        let (files, messages) = read("tls a.pem b.pem c.pem {\n client_auth require_and_verify\n keylog d\n}", parse);
        assert_eq!(messages, ["the TLS secrets of connections are written to d"]);
        let expected = TlsFiles {
            certificate: "a.pem".into(),
            key: "b.pem".into(),
            authorities: Some("c.pem".into()),
            clients: Clients::Verify,
            only_tls13: false,
            keylog: Some("d".into()),
        };
        assert_eq!(files, Some(expected));
        assert_eq!(config("tls a b", parse).clients, Clients::Any);
        for (line, message) in [
            ("tls", "certificates by ACME are not supported"),
            ("tls {\n acme example.org\n}", "certificates by ACME are not supported"),
            ("tls a", "Wrong argument count or unexpected line ending after 'a'"),
            ("tls a b c d", "Wrong argument count or unexpected line ending after 'd'"),
            ("tls a b {\n keylog\n}", "Wrong argument count or unexpected line ending after 'keylog'"),
            ("tls a b {\n ciphers x\n}", "unknown property 'ciphers'"),
        ] {
            assert_eq!(read(line, parse).1, [message], "{line}");
        }
        assert!(read("tls a b {\n client_auth never\n}", parse).0.is_none());
    }
}
