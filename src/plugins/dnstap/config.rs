//! The configuration of *dnstap* (CoreDNS `plugin/dnstap/setup.go`).

use std::fmt;
use std::path::{Path, PathBuf};

use crate::corefile::{Arguments, Diagnostic, Directive, Stage, suggest};
use crate::net::{Clients, TlsFiles};
use crate::plugins::Context;
use crate::plugins::path::path;
use crate::plugins::placeholders::{Format, Placeholder};

/// The most mebibytes of a send buffer.
const MAX_WRITE_BUFFER: usize = 1_024;
/// The most units of a queue.
const MAX_QUEUE: usize = 4_096;
/// The properties; the last one is for listeners only.
const PROPERTIES: [&str; 5] = ["identity", "version", "extra", "skipverify", "tls"];

/// The stanzas of a server block.
#[derive(Clone, Debug, PartialEq)]
pub struct TapStanzas(pub Vec<Config>);

/// The configuration of a stanza.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where messages are sent to.
    pub sink: Sink,
    /// Messages have queries and responses in wire form.
    pub is_full: bool,
    /// The size of the send buffer of a TCP connection, in MiB.
    pub write_buffer: usize,
    /// The length of the queue, in units of 10,000 messages.
    pub queue: usize,
    /// The name of the server; the host's name if `None`.
    pub identity: Option<String>,
    /// The version of the server; this program's name and version if `None`.
    pub version: Option<String>,
    /// The text of the extra field.
    pub extra: Option<Format>,
}

/// Where messages are sent to.
#[derive(Clone, Debug, PartialEq)]
pub enum Sink {
    /// The server connects to an address.
    Connect {
        /// The address.
        endpoint: TapEndpoint,
        /// The certificate of a TLS endpoint is verified.
        is_verified: bool,
    },
    /// Readers connect to the server.
    Listen {
        /// The address.
        endpoint: TapEndpoint,
        /// The certificate of a TLS endpoint.
        tls: Option<TlsFiles>,
    },
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapEndpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// Host and port.
    Tcp(String),
    /// Host and port, with TLS.
    Tls(String),
}

impl TapEndpoint {
    /// Parses an address. Words without a known scheme are paths.
    fn of(text: &str) -> TapEndpoint {
        if let Some(rest) = text.strip_prefix("tls://") {
            TapEndpoint::Tls(authority(rest))
        } else if let Some(rest) = text.strip_prefix("tcp://") {
            TapEndpoint::Tcp(authority(rest))
        } else {
            TapEndpoint::Unix(PathBuf::from(text.strip_prefix("unix://").unwrap_or(text)))
        }
    }

    /// Returns whether the address lacks a port.
    fn lacks_port(&self) -> bool {
        match self {
            TapEndpoint::Unix(_) => false,
            TapEndpoint::Tcp(host) | TapEndpoint::Tls(host) => {
                let port = host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
                port.is_none()
            }
        }
    }
}

impl fmt::Display for TapEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TapEndpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            TapEndpoint::Tcp(host) => write!(f, "tcp://{host}"),
            TapEndpoint::Tls(host) => write!(f, "tls://{host}"),
        }
    }
}

/// Returns host and port of the rest of a URL.
fn authority(rest: &str) -> String {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = &rest[..end];
    authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_owned()
}

/// Parses the stanzas; returns `None` after an error.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<TapStanzas> {
    let errors = context.diagnostics.has_errors();
    let root = context.root.clone();
    let mut configs = Vec::new();
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        let config = parse_stanza(&mut line, root.as_deref());
        if config.is_some() {
            line.finish();
        }
        configs.extend(config);
    }
    (errors == context.diagnostics.has_errors()).then_some(TapStanzas(configs))
}

fn parse_stanza(line: &mut Arguments<'_, '_>, root: Option<&Path>) -> Option<Config> {
    let listens = line.peek().is_some_and(|word| word.text == "listen");
    if listens {
        line.next_word();
    }
    let word = line.word("a socket: a path, unix://PATH, tcp://HOST:PORT or tls://HOST:PORT")?;
    let endpoint = TapEndpoint::of(&word.text);
    if endpoint.lacks_port() {
        line.warning(word, format!("'{}' has no port, so that there is no connection", word.text));
    }
    let mut config = Config {
        sink: if listens {
            Sink::Listen { endpoint: endpoint.clone(), tls: None }
        } else {
            Sink::Connect { endpoint: endpoint.clone(), is_verified: true }
        },
        is_full: false,
        write_buffer: 1,
        queue: 1,
        identity: None,
        version: None,
        extra: None,
    };
    if let Some(mode) = line.next_word() {
        config.is_full = mode.text == "full";
        if !config.is_full {
            let message = format!("'{}' is ignored: only 'full' has a meaning here", mode.text);
            line.warning(mode, message);
        }
    }
    if line.more() {
        config.write_buffer = line.number(1..=MAX_WRITE_BUFFER)?;
    }
    if line.more() {
        config.queue = line.number(1..=MAX_QUEUE)?;
    }
    if let [first, ..] = line.rest() {
        line.warning(first, format!("'{}' and what follows is ignored", first.text));
    }
    let (mut files, mut skips) = (None, false);
    for property in line.body() {
        let mut inner = line.enter(property);
        match inner.name() {
            "identity" => config.identity = inner.word("the name of the server").map(|word| word.text.clone()),
            "version" => config.version = inner.word("the version of the server").map(|word| word.text.clone()),
            "extra" => config.extra = parse_extra(&mut inner),
            "skipverify" => skips = true,
            "tls" if listens => files = parse_tls(&mut inner, root),
            "tls" => {
                let name = inner.name_token();
                inner.error_expected(name, "tls directive only valid for listeners", "'dnstap listen …'");
                inner.ignore_rest();
            }
            _ => inner.unknown(PROPERTIES.into_iter().take(if listens { 5 } else { 4 })),
        }
        inner.finish();
    }
    match &mut config.sink {
        Sink::Connect { is_verified, .. } => *is_verified = !skips,
        Sink::Listen { tls, .. } => {
            *tls = files.map(|files: TlsFiles| {
                let clients = match (&files.authorities, skips) {
                    (None, _) => Clients::Any,
                    (Some(_), true) => Clients::VerifyIfGiven,
                    (Some(_), false) => Clients::Verify,
                };
                TlsFiles { clients, ..files }
            });
            if matches!(endpoint, TapEndpoint::Tls(_)) && tls.is_none() {
                line.warning(
                    word,
                    "TLS listener requires cert and key files: without 'tls CERT KEY' it does not start",
                );
            }
        }
    }
    Some(config)
}

/// Parses the text of the extra field; an empty one is none.
fn parse_extra(line: &mut Arguments<'_, '_>) -> Option<Format> {
    let word = line.word("a text")?;
    for unknown in Format::unknown_placeholders(&word.text) {
        let message = format!("'{unknown}' is not a placeholder and is sent as it is");
        let warning = Diagnostic::warning(Stage::Parse, Some(word.span), message);
        line.push(warning.suggestion(suggest(unknown, Placeholder::NAMES.iter().copied())));
    }
    (!word.text.is_empty()).then(|| Format::new(&word.text))
}

/// Parses `CERT KEY [CA]`.
fn parse_tls(line: &mut Arguments<'_, '_>, root: Option<&Path>) -> Option<TlsFiles> {
    let certificate = path(line, root, "a certificate file and a key file")?;
    let key = path(line, root, "a key file after the certificate file")?;
    let authorities = if line.more() { Some(path(line, root, "a file with CA certificates")?) } else { None };
    line.rest();
    Some(TlsFiles { certificate, key, authorities, ..TlsFiles::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, read};

    fn one(lines: &str) -> Config {
        config(lines, parse).0.remove(0)
    }

    #[test]
    fn every_form_is_parsed() {
        let simple = one("dnstap /tmp/a.sock");
        let unix = |text: &str| TapEndpoint::Unix(text.into());
        let connect = |endpoint| Sink::Connect { endpoint, is_verified: true };
        assert_eq!(simple.sink, connect(unix("/tmp/a.sock")));
        let defaults = (simple.is_full, simple.write_buffer, simple.queue, &simple.identity, &simple.extra);
        assert_eq!(defaults, (false, 1, 1, &None, &None));
        let lines = "dnstap tcp://u@h:6000/x full 1024 4096 {\n identity me\n version v1\n extra \"{/a/b} {type}\"\n}\n\
                     dnstap unix://x full\ndnstap tls://[::1]:6000 {\n skipverify\n}\n\
                     dnstap listen tls://127.0.0.1:1 full {\n tls c k a\n}\ndnstap listen tcp://:2 {\n extra \"\"\n}";
        let all = config(lines, parse).0;
        assert_eq!(all[0].sink, connect(TapEndpoint::Tcp("h:6000".into())));
        assert_eq!((all[0].is_full, all[0].write_buffer, all[0].queue), (true, 1_024, 4_096));
        assert_eq!((all[0].identity.as_deref(), all[0].version.as_deref()), (Some("me"), Some("v1")));
        assert_eq!(all[0].extra, Some(Format::new("{/a/b} {type}")));
        assert_eq!((all[1].is_full, &all[1].sink), (true, &connect(unix("x"))));
        assert_eq!(all[2].sink, Sink::Connect { endpoint: TapEndpoint::Tls("[::1]:6000".into()), is_verified: false });
        let files = |clients| TlsFiles {
            certificate: "c".into(),
            key: "k".into(),
            authorities: (clients != Clients::Any).then(|| "a".into()),
            clients,
            ..TlsFiles::default()
        };
        let tls =
            |clients| Sink::Listen { endpoint: TapEndpoint::Tls("127.0.0.1:1".into()), tls: Some(files(clients)) };
        assert_eq!((all[3].is_full, &all[3].sink), (true, &tls(Clients::Verify)));
        assert_eq!(all[4].sink, Sink::Listen { endpoint: TapEndpoint::Tcp(":2".into()), tls: None });
        assert_eq!(all[4].extra, None);
        let listen = |body: &str| one(&format!("dnstap listen tls://127.0.0.1:1 {{\n {body}\n}}")).sink;
        assert_eq!(listen("tls c k a\n skipverify"), tls(Clients::VerifyIfGiven));
        assert_eq!(listen("tls c k\n skipverify"), tls(Clients::Any));
    }

    #[test]
    fn what_coredns_refuses_is_refused() {
        for lines in [
            "dnstap",
            "dnstap listen",
            "dnstap a full 0",
            "dnstap a full 1025",
            "dnstap a full x",
            "dnstap a full 1 4097",
            "dnstap a full 1 0",
            "dnstap a {\n tls c k\n}",
            "dnstap listen a {\n tls c\n}",
            "dnstap a {\n identity\n}",
            "dnstap a {\n extra\n}",
            "dnstap a {\n identity a b\n}",
            "dnstap a {\n nothing\n}",
        ] {
            assert_eq!(read(lines, parse).0, None, "{lines}");
        }
        assert_eq!(read("dnstap a {\n identty x\n}", parse).1, ["unknown property 'identty' (identity?)"]);
    }

    #[test]
    fn what_coredns_ignores_gets_a_warning() {
        for (lines, warning) in [
            ("dnstap a 5", "'5' is ignored: only 'full' has a meaning here"),
            ("dnstap a full 1 1 x y", "'x' and what follows is ignored"),
            ("dnstap tcp://host", "'tcp://host' has no port, so that there is no connection"),
            (
                "dnstap listen tls://h:1",
                "TLS listener requires cert and key files: without 'tls CERT KEY' it does not start",
            ),
            ("dnstap a {\n extra {tipe}\n}", "'{tipe}' is not a placeholder and is sent as it is ({type}?)"),
        ] {
            let (config, messages) = read(lines, parse);
            assert!(config.is_some());
            assert_eq!(messages, [warning]);
        }
    }
}
