//! `clusterdns resolve`: the resolv.conf of a Pod, and the queries that its stub resolver sends for a name.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::ask::{ResolveAsk, Resolved};
use super::engine::{DEFAULT_NAMESPACE, Engine, check_name, find_pod};
use super::{AnswerSource, DNS_PORT_HELP, PORT_HELP, local, port, socket};
use crate::app::command::{CommandFlag, CommandWords, help};
use crate::app::standard_io::finish;
use crate::chain::TraceEnd;
use crate::explain::{NoObjects, ObjectKind, ObjectQuery, ObjectReader, ServiceObject, printable};
use crate::stub::{ClusterDns, Code, DnsPolicy, Library, PodDns, Rendered, StubConf, resolve};
use crate::wire::{Message, NameBuf, Query, Rcode, Type};

/// How long a server has for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The address of the cluster's DNS Service if it is unknown.
const USUAL_CLUSTER_DNS: &str = "10.96.0.10";

const FLAGS: &[CommandFlag] = &[
    CommandFlag { name: "pod", value: Some("POD"), help: "the Pod: NAMESPACE/NAME" },
    CommandFlag { name: "policy", value: Some("POLICY"), help: "a Pod with this dnsPolicy, in place of -pod" },
    CommandFlag { name: "namespace", value: Some("NAME"), help: "the namespace of that Pod (default \"default\")" },
    CommandFlag { name: "host-network", value: None, help: "that Pod is in the host network" },
    CommandFlag { name: "resolv-conf", value: Some("FILE"), help: "this resolv.conf, in place of -pod" },
    CommandFlag {
        name: "node-resolv-conf",
        value: Some("FILE"),
        help: "the resolv.conf of the node (default /etc/resolv.conf)",
    },
    CommandFlag {
        name: "cluster-dns",
        value: Some("ADDRESS"),
        help: "the cluster's DNS address (default that of Service kube-system/kube-dns)",
    },
    CommandFlag {
        name: "cluster-domain",
        value: Some("DOMAIN"),
        help: "the cluster's domain (default that of the Corefile)",
    },
    CommandFlag { name: "library", value: Some("NAME"), help: "glibc, musl, go or c-ares (default glibc)" },
    CommandFlag {
        name: "ask",
        value: Some("ADDRESS"),
        help: "send the queries to this DNS server, in place of a dry run: IP or IP:PORT",
    },
    CommandFlag { name: "manifests", value: Some("PATH"), help: "answer from these manifests; may be repeated" },
    CommandFlag { name: "kubeconfig", value: Some("FILE"), help: "answer from the cluster of this kubeconfig" },
    CommandFlag { name: "conf", value: Some("FILE"), help: "the Corefile (default \"Corefile\")" },
    CommandFlag { name: "dns.port", value: Some("PORT"), help: DNS_PORT_HELP },
    CommandFlag { name: "port", value: Some("PORT"), help: PORT_HELP },
    CommandFlag { name: "server", value: Some("PID"), help: "the running server to ask, if several run here" },
    CommandFlag { name: "json", value: None, help: "print JSON" },
    CommandFlag { name: "help", value: None, help: "print this" },
    CommandFlag { name: "h", value: None, help: "same as -help" },
];

/// Flags, and those that have no effect beside them.
const EXCLUDED: &[(&str, &[&str])] = &[
    ("pod", &["policy", "resolv-conf", "namespace", "host-network"]),
    ("resolv-conf", &["policy", "namespace", "host-network", "node-resolv-conf", "cluster-dns", "cluster-domain"]),
    ("ask", &["server", "port"]),
];

const USAGE: &str = "resolve [flags] NAME";
const ABOUT: &str = "Prints the resolv.conf of a Pod, and the queries that its stub resolver sends for a name, with the \
                     answers. Asks the server that runs in this Pod, unless -manifests, -kubeconfig, -conf or -ask is \
                     given. Flags and the name may come in any order.";

/// Runs `clusterdns resolve`. `words` are those after `resolve`.
pub(crate) fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    finish(run(words))
}

/// Resolves a name: returns what is printed, or the line of an error.
pub fn run(words: impl Iterator<Item = OsString>) -> Result<String, String> {
    let words = CommandWords::parse(words, FLAGS)?;
    if words.has("help") || words.has("h") {
        return Ok(help(USAGE, ABOUT, FLAGS));
    }
    let name = match &words.rest[..] {
        [name] => name.clone(),
        [] => return Err(format!("a name is missing; usage: clusterdns {USAGE}")),
        [_, extra, ..] => return Err(format!("unexpected '{extra}'; usage: clusterdns {USAGE}")),
    };
    if name.parse::<IpAddr>().is_err() {
        check_name(&name)?;
    }
    for (flag, others) in EXCLUDED {
        words.exclude(flag, others)?;
    }
    let read = |flag: &str| match words.last(flag) {
        Some(file) => std::fs::read_to_string(file).map(Some).map_err(|error| format!("-{flag}: {file}: {error}")),
        None => Ok(None),
    };
    let text = |flag: &str| words.last(flag).map(str::to_owned);
    let ask = ResolveAsk {
        name,
        pod: text("pod"),
        policy: text("policy"),
        namespace: text("namespace"),
        host_network: words.has("host-network"),
        resolv_conf: read("resolv-conf")?,
        node_resolv_conf: read("node-resolv-conf")?,
        cluster_dns: text("cluster-dns"),
        cluster_domain: text("cluster-domain"),
        library: text("library").unwrap_or_else(|| Library::default().name().to_owned()),
        port: port(&words)?,
    };
    ask.check()?;
    let source = AnswerSource::of(&words)?;
    let is_local = matches!(source, AnswerSource::Local);
    let upstream = words.last("ask").map(parse_server).transpose()?;
    let resolved = match (upstream, source) {
        // The cluster is needed only to read the Pod.
        (Some(upstream), _) if !is_local && ask.pod.is_none() => {
            let mut look_up = |name: &str, qtype: &str| send(upstream, name, qtype);
            ask.resolve(None, &NoObjects("no cluster is given".to_owned()), &mut look_up)?
        }
        (Some(_), AnswerSource::Server(_)) => {
            return Err("-ask with -pod needs -kubeconfig FILE or -manifests PATH".to_owned());
        }
        (upstream, AnswerSource::Local) => {
            let local = local::LocalServer::load(&words)?;
            let (engine, handle) = (&local.engine, local.runtime.handle());
            match upstream {
                Some(upstream) => {
                    let mut look_up = |name: &str, qtype: &str| send(upstream, name, qtype);
                    ask.resolve(engine.zone.as_deref(), &*engine.reader(handle), &mut look_up)?
                }
                None => engine.resolve(&ask, handle)?,
            }
        }
        (None, AnswerSource::Server(server)) => socket::resolve(&ask, server)?,
    };
    Ok(if words.has("json") { resolved.to_json() } else { resolved.to_text() })
}

impl Engine {
    /// Resolves a name without sending a query.
    pub(crate) fn resolve(&self, ask: &ResolveAsk, runtime: &Handle) -> Result<Resolved, String> {
        ask.check()?;
        self.check_port(ask.port)?;
        let reader = self.reader(runtime);
        let client = match &ask.pod {
            Some(pod) => find_pod(pod, &*reader)?.1.addresses.first().and_then(|address| address.parse().ok()),
            None => None,
        };
        let client = client.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let bare = ask.name.trim_end_matches('.').to_owned();
        let mut look_up = |name: &str, qtype: &str| self.look_up(name, qtype, client, &bare, ask.port);
        ask.resolve(self.zone.as_deref(), &*reader, &mut look_up)
    }

    /// Returns the answer of a dry run; that of an upstream is assumed.
    fn look_up(&self, name: &str, qtype: &str, client: IpAddr, bare: &str, port: Option<u16>) -> (Code, String) {
        let qtype = Type::from_mnemonic(qtype).unwrap_or(Type::A);
        let (mut target, mut trace) = (name.to_owned(), None);
        for _ in 0..8 {
            trace = self.dry_run(&target, qtype, client, port);
            match trace.as_ref().and_then(|trace| trace.alias.clone()) {
                Some(alias) => target = alias,
                None => break,
            }
        }
        let Some(trace) = trace else { return (Code::Other, "not a name".to_owned()) };
        let rcode = trace.rcode.clone().unwrap_or_default();
        match trace.end {
            TraceEnd::Answered if !trace.records.is_empty() => {
                let data = trace.records.iter().filter_map(|record| record.splitn(4, ' ').nth(3));
                (Code::Found, data.collect::<Vec<_>>().join(", "))
            }
            TraceEnd::Answered if rcode == "NOERROR" => (Code::NoData, "NODATA".to_owned()),
            TraceEnd::Answered if rcode == "NXDOMAIN" => (Code::NameError, rcode),
            TraceEnd::Upstream | TraceEnd::Waits => {
                // The name itself is likely to exist if it has a dot; names with a domain of the search list are not.
                let exists = target != name || name.trim_end_matches('.') == bare && bare.contains('.');
                let code = if exists { Code::Found } else { Code::NameError };
                let what = if exists { "an address" } else { "NXDOMAIN" };
                (code, format!("an upstream decides; assumed: {what}"))
            }
            TraceEnd::Dropped => (Code::Timeout, "no response".to_owned()),
            _ if rcode == "SERVFAIL" => (Code::ServerFailure, rcode),
            _ => (Code::Other, rcode),
        }
    }
}

impl ResolveAsk {
    /// Checks the words of the user.
    fn check(&self) -> Result<(), String> {
        if let Some(policy) = &self.policy
            && DnsPolicy::named(policy).is_none()
        {
            let names: Vec<&str> = DnsPolicy::ALL.iter().map(|policy| policy.name()).collect();
            return Err(format!("-policy: '{policy}' is none of {}", names.join(", ")));
        }
        if self.policy.as_deref().and_then(DnsPolicy::named) == Some(DnsPolicy::None) {
            return Err(
                "-policy: None leaves the resolv.conf to the dnsConfig of the Pod; choose the Pod with -pod, or the \
                        file with -resolv-conf"
                    .to_owned(),
            );
        }
        if let Some(address) = self.cluster_dns.as_deref().filter(|text| text.parse::<IpAddr>().is_err()) {
            return Err(format!("-cluster-dns: '{address}' is not an IP address such as {USUAL_CLUSTER_DNS}"));
        }
        if let Some(domain) = self.cluster_domain.as_deref().filter(|text| check_name(text).is_err()) {
            return Err(format!("-cluster-domain: '{domain}' is not a domain such as cluster.local"));
        }
        if Library::named(&self.library).is_none() {
            let names: Vec<&str> = Library::ALL.iter().map(|library| library.name()).collect();
            return Err(format!("-library: '{}' is none of {}", self.library, names.join(", ")));
        }
        Ok(())
    }

    /// Resolves the name. `zone` is that of the cluster.
    fn resolve(
        &self, zone: Option<&str>, reader: &dyn ObjectReader, look_up: &mut dyn FnMut(&str, &str) -> (Code, String),
    ) -> Result<Resolved, String> {
        let library = Library::named(&self.library).unwrap_or_default();
        let (of, Rendered { conf, omitted, uses_cluster }) = self.conf(zone, reader)?;
        let mut notes = omitted;
        if self.resolv_conf.is_none() && !uses_cluster {
            notes.push(
                "the Pod does not use the cluster's DNS server; the answers below are those of this server".into(),
            );
        }
        if let Some(namespace) = self.namespace.as_deref().filter(|namespace| is_missing(namespace, reader)) {
            notes.push(format!("the cluster has no namespace {namespace}"));
        }
        let read: usize = library.names(&conf, "x").map_or(0, |names| names.len());
        if library == Library::Musl && read <= 1 && !conf.search.is_empty() && conf.ndots() > 0 {
            notes.push(
                "musl ignores the search list: its line is longer than 255 bytes, the line end included".to_owned(),
            );
        }
        let fatal = library.fatal_options(&conf);
        notes.extend(fatal.into_iter().map(|note| format!("{note}; the queries below are those with the value 1")));
        let resolution = resolve(library, &conf, &self.name, look_up);
        let library = library.name().to_owned();
        Ok(Resolved { of, resolv_conf: conf.to_text(), notes, library, name: self.name.clone(), resolution })
    }

    /// Returns the resolv.conf, and whose it is.
    fn conf(&self, zone: Option<&str>, reader: &dyn ObjectReader) -> Result<(String, Rendered), String> {
        if let Some(text) = &self.resolv_conf {
            let conf = StubConf::parse(text);
            return Ok(("the file".to_owned(), Rendered { conf, ..Rendered::default() }));
        }
        let node = match &self.node_resolv_conf {
            Some(text) => StubConf::parse(text),
            None => StubConf::parse(&std::fs::read_to_string(super::engine::RESOLV_CONF).unwrap_or_default()),
        };
        let domain = self.cluster_domain.as_deref().or(zone).unwrap_or("cluster.local");
        let servers = match &self.cluster_dns {
            Some(address) => vec![address.clone()],
            None => cluster_dns(reader),
        };
        let cluster = ClusterDns { servers, domain: domain.trim_end_matches('.').to_owned() };
        let (of, pod) = match &self.pod {
            Some(pod) => {
                let (ns, pod) = find_pod(pod, reader)?;
                (format!("Pod {ns}/{} (dnsPolicy {})", pod.name, pod.dns.policy.name()), pod.dns)
            }
            None => {
                let namespace = self.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
                let policy = self.policy.as_deref().and_then(DnsPolicy::named).unwrap_or_default();
                let of = format!("a Pod in namespace {namespace} (dnsPolicy {})", policy.name());
                (of, PodDns { namespace, policy, host_network: self.host_network, config: None })
            }
        };
        Ok((of, pod.render(&cluster, &node)))
    }
}

/// Returns whether the cluster is known not to have a namespace. Manifests may leave out the Namespace itself.
fn is_missing(namespace: &str, reader: &dyn ObjectReader) -> bool {
    let is_empty = |kind, ns: &str, name: Option<&str>| {
        let (namespace, name) = (ns.to_owned(), name.map(str::to_owned));
        let query = ObjectQuery { kind, namespace, name, labels: Vec::new(), limit: 1 };
        reader.read(&query).is_ok_and(|found| found.is_empty())
    };
    is_empty(ObjectKind::Namespace, "", Some(namespace))
        && is_empty(ObjectKind::Service, namespace, None)
        && is_empty(ObjectKind::Pod, namespace, None)
}

/// Returns the addresses of the cluster's DNS Service.
fn cluster_dns(reader: &dyn ObjectReader) -> Vec<String> {
    let query = ObjectQuery {
        kind: ObjectKind::Service,
        namespace: "kube-system".to_owned(),
        name: Some("kube-dns".to_owned()),
        labels: Vec::new(),
        limit: 1,
    };
    let service = reader.read(&query).ok().and_then(|found| found.first().map(ServiceObject::of));
    service
        .map(|service| service.addresses)
        .filter(|addresses| !addresses.is_empty())
        .unwrap_or_else(|| vec![USUAL_CLUSTER_DNS.to_owned()])
}

/// Parses the address of a server.
fn parse_server(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse().ok().or_else(|| text.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, 53)));
    address.ok_or_else(|| format!("-ask: '{text}' is not an address such as 10.96.0.10 or 127.0.0.1:5353"))
}

/// Sends a query, and returns the answer.
fn send(server: SocketAddr, name: &str, qtype: &str) -> (Code, String) {
    exchange(server, name, qtype).unwrap_or_else(|error| (Code::Timeout, format!("no response: {error}")))
}

fn exchange(server: SocketAddr, name: &str, qtype: &str) -> std::io::Result<(Code, String)> {
    let qtype = Type::from_mnemonic(qtype).unwrap_or(Type::A);
    let name = NameBuf::from_text(name).map_err(|error| std::io::Error::other(error.to_string()))?;
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|_| std::io::Error::other("no random numbers"))?;
    let packet = [&id, &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name.as_wire(), &qtype.0.to_be_bytes(), &[0, 1]].concat();
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.send(&packet)?;
    let deadline = Instant::now() + TIMEOUT;
    let mut buffer = [0; 4096];
    let query = Query::parse(&packet).map_err(|_| std::io::Error::other("not a query"))?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let len = socket.recv(&mut buffer)?;
        let message = &buffer[..len];
        if message.get(..2) != Some(&id) {
            continue;
        }
        let Ok(message) = Message::parse(message, &query.question) else { continue };
        return Ok(match message.rcode() {
            Rcode::NOERROR => {
                let addresses = super::engine::addresses(&message, &query.question);
                if addresses.is_empty() {
                    (Code::NoData, "NODATA".to_owned())
                } else {
                    (Code::Found, addresses.join(", "))
                }
            }
            Rcode::NXDOMAIN => (Code::NameError, "NXDOMAIN".to_owned()),
            Rcode::SERVFAIL => (Code::ServerFailure, "SERVFAIL".to_owned()),
            other => (Code::Other, other.to_string()),
        });
    }
}

impl Resolved {
    /// Returns the text for a terminal.
    fn to_text(&self) -> String {
        let mut text = String::new();
        // Flags, files and objects may contain any text.
        let mut push = |line: &str| {
            text.push_str(&printable(line));
            text.push('\n');
        };
        push(&format!("resolv.conf of {}:", self.of));
        self.resolv_conf.lines().for_each(|line| push(&format!("  {line}")));
        self.notes.iter().for_each(|note| push(&format!("note: {note}")));
        push("");
        push(&format!("{} looks up {}:", self.library, self.name));
        let queries = &self.resolution.queries;
        for (number, query) in queries.iter().enumerate() {
            push(&format!("  {:>2}  {} {}  {}", number + 1, query.name, query.qtype, query.answer));
        }
        push("");
        push(&format!("result: {}", self.resolution.result));
        push(&format!("queries: {}", queries.len()));
        self.resolution.fewer.iter().for_each(|line| push(&format!("fewer: {line}")));
        text
    }

    /// Returns the JSON form.
    fn to_json(&self) -> String {
        format!("{:#}\n", serde_json::to_value(self).unwrap_or_default())
    }
}
