//! *tls*: certificate and key of a block's encrypted listeners (CoreDNS `plugin/tls`).

use std::path::{Path, PathBuf};

use super::Context;
use super::build::{BlockOptions, Setting};
use super::path::path;
use crate::corefile::{Arguments, Directive};
use crate::net::{Clients, TlsFiles};

/// What may be asked of clients.
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

/// Reads the directive; the last of several counts.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<TlsFiles> {
    let errors = context.diagnostics.has_errors();
    let root = context.root.clone();
    let mut files = TlsFiles::default();
    for stanza in stanzas {
        files = TlsFiles::default();
        let mut line = Arguments::of(stanza, context.diagnostics);
        if !line.more() {
            let message = "certificates by ACME are not built";
            line.error_expected(&stanza.name, message, "CERT KEY [CA]");
            line.ignore_rest();
            continue;
        }
        if let Some(certificate) = path(&mut line, root.as_deref(), "a certificate file and a key file") {
            files.certificate = certificate;
        }
        if let Some(key) = path(&mut line, root.as_deref(), "a key file behind the certificate file") {
            files.key = key;
        }
        if line.more() {
            files.authorities = path(&mut line, root.as_deref(), "a file of authorities");
        }
        for property in line.body() {
            let mut inner = line.enter(property);
            match inner.name() {
                "client_auth" => files.clients = inner.one_of(CLIENTS).unwrap_or_default(),
                "keylog" => files.keylog = keylog(&mut inner, root.as_deref()),
                _ => inner.unknown(["client_auth", "keylog"]),
            }
            inner.finish();
        }
        if let Some(path) = &files.keylog {
            line.warning(&stanza.name, format!("secrets of connections are written to {}", path.display()));
        }
        line.finish();
    }
    (errors == context.diagnostics.has_errors()).then_some(files)
}

/// The file that secrets are written to. It is made at start; its folder must be there.
fn keylog(line: &mut Arguments<'_, '_>, root: Option<&Path>) -> Option<PathBuf> {
    let word = line.peek().unwrap_or(line.name_token());
    let file = path(line, root, "a file")?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() || file.is_dir() {
        let message = format!(
            "cannot write {}: {}",
            file.display(),
            if file.is_dir() { "it is a folder" } else { "its folder does not exist" }
        );
        line.error_expected(word, message, "a file in a folder that exists");
        return None;
    }
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, read};

    #[test]
    fn files_and_what_is_asked_of_clients_are_read() {
        let (made, said) = read("tls a.pem b.pem c.pem {\n client_auth require_and_verify\n keylog d\n}", parse);
        assert_eq!(said, ["secrets of connections are written to d"]);
        let (authorities, keylog) = (Some("c.pem".into()), Some("d".into()));
        let (certificate, key, clients) = ("a.pem".into(), "b.pem".into(), Clients::Verify);
        assert_eq!(made, Some(TlsFiles { certificate, key, authorities, clients, keylog, only_tls13: false }));
        assert_eq!(config("tls a b", parse).clients, Clients::Any);
        for (line, message) in [
            ("tls", "certificates by ACME are not built"),
            ("tls {\n acme example.org\n}", "certificates by ACME are not built"),
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
