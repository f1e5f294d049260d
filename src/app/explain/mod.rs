//! `clusterdns explain` and `clusterdns resolve`: why a name resolves or does not, and what a Pod looks up.
//!
//! ```text
//! explain NAME ─┬─ the running server, by its local socket (socket.rs) ─┐
//!               └─ -manifests or -kubeconfig: a server built here (local.rs) ┴─► engine.rs ─► crate::explain ─► text
//! ```

mod ask;
mod engine;
mod local;
pub mod resolve;
mod socket;

use std::ffi::OsString;
use std::net::IpAddr;
use std::process::ExitCode;

use super::command::{CommandFlag, CommandWords, help};
use super::standard_io::finish;
use crate::corefile::reverse_zones;
use ask::Ask;

pub(super) use engine::Engine;
pub(super) use socket::{SharedEngine, ask_top, serve};

/// The flags of `explain`.
const FLAGS: &[CommandFlag] = &[
    CommandFlag { name: "from", value: Some("POD"), help: "the Pod that looks the name up: NAMESPACE/NAME" },
    CommandFlag { name: "client", value: Some("ADDRESS"), help: "the address of the client, for view and acl" },
    CommandFlag {
        name: "manifests",
        value: Some("PATH"),
        help: "explain the cluster that these manifests describe; may be repeated",
    },
    CommandFlag { name: "kubeconfig", value: Some("FILE"), help: "explain the cluster of this kubeconfig" },
    CommandFlag {
        name: "conf",
        value: Some("FILE"),
        help: "the Corefile, with -manifests, -kubeconfig or alone (default \"Corefile\")",
    },
    CommandFlag { name: "dns.port", value: Some("PORT"), help: DNS_PORT_HELP },
    CommandFlag { name: "port", value: Some("PORT"), help: PORT_HELP },
    CommandFlag { name: "server", value: Some("PID"), help: "the running server to ask, if several run here" },
    CommandFlag { name: "json", value: None, help: "print JSON" },
    CommandFlag { name: "help", value: None, help: "print this" },
    CommandFlag { name: "h", value: None, help: "same as -help" },
];

/// The help of `-dns.port`.
const DNS_PORT_HELP: &str = "port of zones of this Corefile that name none (default 53)";
/// The help of `-port`.
const PORT_HELP: &str = "the port that the query is sent to (default: 53, or a port with a server block for the name)";
/// The flags that build a server for the command, in place of the running one.
const LOCAL: [&str; 3] = ["manifests", "kubeconfig", "conf"];

const USAGE: &str = "explain [flags] NAME [TYPE]";
const ABOUT: &str = "Explains why a name resolves or does not; for an address, its reverse name. Asks the server that runs \
                     in this Pod, unless -manifests, -kubeconfig or -conf is given. Flags and the name may come in any \
                     order.";

/// Runs `clusterdns explain`. `words` are those after `explain`.
pub(super) fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    finish(run(words))
}

/// Explains a name: returns what is printed, or the line of an error.
pub fn run(words: impl Iterator<Item = OsString>) -> Result<String, String> {
    let words = CommandWords::parse(words, FLAGS)?;
    if words.has("help") || words.has("h") {
        return Ok(help(USAGE, ABOUT, FLAGS));
    }
    let (name, qtype) = match &words.rest[..] {
        // A network of one address has one zone, the name of its PTR records.
        [name] => match name.parse().map(|address: IpAddr| reverse_zones(address, 128).pop()) {
            Ok(Some(reverse_name)) => (reverse_name, "PTR".to_owned()),
            _ if is_reverse(name) => (name.clone(), "PTR".to_owned()),
            _ => (name.clone(), "A".to_owned()),
        },
        [name, qtype] => (name.clone(), qtype.clone()),
        [] => return Err(format!("a name is missing; usage: clusterdns {USAGE}")),
        [_, _, extra, ..] => return Err(format!("unexpected '{extra}'; usage: clusterdns {USAGE}")),
    };
    engine::check_name(&name)?;
    engine::parse_type(&qtype)?;
    let client = match words.last("client") {
        Some(text) => Some(text.parse().map_err(|_| format!("-client: '{text}' is not an IP address"))?),
        None => None,
    };
    let ask = Ask { name, qtype, from: words.last("from").map(str::to_owned), client, port: port(&words)? };
    let report = match AnswerSource::of(&words)? {
        AnswerSource::Local => local::LocalServer::load(&words)?.explain(&ask)?,
        AnswerSource::Server(server) => socket::ask(&ask, server)?,
    };
    Ok(if words.has("json") { report.to_json() } else { report.to_text() })
}

/// Returns whether a name is below one of the zones of addresses.
fn is_reverse(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.ends_with(".in-addr.arpa") || name.ends_with(".ip6.arpa")
}

/// Where the answers come from.
enum AnswerSource {
    /// A server that is built for the command.
    Local,
    /// The running server with this process ID, or the only one.
    Server(Option<u32>),
}

impl AnswerSource {
    /// Returns the source that the flags name. Flags that are for the other source are an error.
    fn of(words: &CommandWords) -> Result<AnswerSource, String> {
        words.exclude("server", &LOCAL)?;
        if LOCAL.into_iter().any(|flag| words.has(flag)) {
            return Ok(AnswerSource::Local);
        }
        if words.has("dns.port") {
            return Err(
                "-dns.port is for the Corefile of -conf, -manifests or -kubeconfig; -port chooses a port of the \
                        running server"
                    .to_owned(),
            );
        }
        let server =
            words.last("server").map(|text| text.parse().map_err(|_| format!("-server: '{text}' is not a number")));
        Ok(AnswerSource::Server(server.transpose()?))
    }
}

/// Returns the value of `-port`.
fn port(words: &CommandWords) -> Result<Option<u16>, String> {
    let port = words.last("port").map(|text| text.parse().map_err(|_| format!("-port: '{text}' is not a port")));
    port.transpose()
}
