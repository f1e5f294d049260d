//! Explains names with the routers of a configuration, in the running server and in a command alike.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::runtime::Handle;

use super::ask::Ask;
use crate::app::configuration::Configuration;
use crate::app::sockets::ListenerAddress;
use crate::app::top::LiveTop;
use crate::chain::{Client, Router, Trace, Transport};
use crate::cluster::model::Kind;
use crate::cluster::selector::is_dns_label;
use crate::corefile::Scheme;
use crate::explain::{self, NoObjects, ObjectKind, ObjectQuery, ObjectReader, PodObject, Report};
use crate::net::split_address;
use crate::plugins::build::ApiAddress;
use crate::source::Manifests;
use crate::source::watch::{ApiReader, ApiServer, ReadQuery};
use crate::stub::{ClusterDns, DnsPolicy, PodDns, StubConf};
use crate::wire::{Message, NameBuf, Question, Rdata, Reply, Section, Type};

/// How long an API server has for the objects of an explanation, all in all.
const READ_TIMEOUT: Duration = Duration::from_secs(3);
/// The namespace whose Pods are assumed to look a name up.
pub(super) const DEFAULT_NAMESPACE: &str = "default";
/// The resolv.conf of this machine, which is that of the node in a Pod with `dnsPolicy: Default`.
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The maximum number of other ports that an explanation names.
const MAX_PORTS: usize = 3;
/// The port of a client in a dry run.
const CLIENT_PORT: u16 = 50_000;

/// Where the objects of the cluster are read from.
#[derive(Clone, Debug)]
pub(crate) enum ObjectSource {
    /// Manifests.
    Manifests(Vec<PathBuf>),
    /// An API server.
    Api(ApiServer),
    /// No stanza serves a cluster.
    None,
}

/// What serves queries, for explanations.
#[derive(Clone)]
pub(crate) struct Engine {
    /// The listeners and their routers.
    pub listeners: Vec<(ListenerAddress, Arc<Router>)>,
    /// The zone of the cluster, with its final dot.
    pub zone: Option<String>,
    /// The objects.
    pub objects: ObjectSource,
    /// Who asks what; `None` if this server does not count it.
    pub top: Option<Arc<LiveTop>>,
}

impl Engine {
    /// Creates the engine of a configuration.
    pub(crate) fn new(
        configuration: &Configuration, listeners: impl Iterator<Item = (ListenerAddress, Arc<Router>)>,
        manifests: &[PathBuf], kubeconfig: Option<&Path>,
    ) -> Engine {
        let directives = || configuration.blocks.iter().flat_map(|block| &block.directives);
        let zones = directives().flat_map(|directive| directive.live_zones());
        let zone = zones.map(|live| live.zone.to_lower().to_string()).find(|zone| !zone.ends_with(".arpa."));
        let api = directives().find_map(|directive| directive.index_request()).map(|request| request.api.server);
        let objects = match (api, kubeconfig) {
            _ if !manifests.is_empty() => ObjectSource::Manifests(manifests.to_vec()),
            (_, Some(file)) => ObjectSource::Api(ApiServer::Kubeconfig { file: file.to_owned(), context: None }),
            (Some(ApiAddress { kubeconfig: Some((file, context)), .. }), None) => {
                ObjectSource::Api(ApiServer::Kubeconfig { file, context })
            }
            (Some(ApiAddress { endpoint: Some(url), tls, .. }), None) => {
                ObjectSource::Api(ApiServer::Endpoint { url, tls })
            }
            (Some(_), None) => ObjectSource::Api(ApiServer::InCluster),
            (None, None) => ObjectSource::None,
        };
        let mut listeners: Vec<_> = listeners.collect();
        // Pods send their queries to plain listeners.
        listeners.sort_by_key(|(address, _)| (address.scheme != Scheme::Dns, address.port != 53));
        Engine { listeners, zone, objects, top: None }
    }

    /// Explains a name. An error is a line for the user. Blocks while objects are read, on a thread that runs no tasks.
    pub(crate) fn explain(&self, ask: &Ask, runtime: &Handle) -> Result<Report, String> {
        let reader = self.reader(runtime);
        let qtype = parse_type(&ask.qtype)?;
        check_name(&ask.name)?;
        let place = self.place(ask, &*reader)?;
        self.check_port(ask.port)?;
        let Some((listener, router)) = self.listener_for(&ask.name, qtype, place.client, ask.port) else {
            return Err("the configuration has no listener".to_owned());
        };
        let request = explain::ExplainRequest {
            name: ask.name.clone(),
            qtype: qtype.to_string(),
            client: place.client,
            conf: place.conf,
            whose: place.whose.clone(),
            zone: self.zone.clone(),
            listener: listener.server_name(),
            elsewhere: place.elsewhere,
        };
        let run = |name: &str| dry_run(router, listener, name, qtype, place.client);
        let mut report = explain::explain(&request, &run, &*reader);
        report.notes.splice(0..0, place.notes);
        if ask.port.is_none() {
            report.notes.extend(self.other_ports(&report, listener, qtype, place.client));
        }
        Ok(report)
    }

    /// Runs a query for a full name, without any effect, on the listener that serves the name.
    pub(crate) fn dry_run(&self, name: &str, qtype: Type, client: IpAddr, port: Option<u16>) -> Option<Trace> {
        let (listener, router) = self.listener_for(name, qtype, client, port)?;
        dry_run(router, listener, name, qtype, client)
    }

    /// Returns the listener that serves a name, of this port or of any: the first one with a server block for it.
    fn listener_for(
        &self, name: &str, qtype: Type, client: IpAddr, port: Option<u16>,
    ) -> Option<(ListenerAddress, &Arc<Router>)> {
        let of_port = || self.listeners.iter().filter(|(address, _)| port.is_none_or(|port| address.port == port));
        let found = of_port()
            .find(|(address, router)| {
                dry_run(router, *address, name, qtype, client).is_some_and(|trace| trace.block.is_some())
            })
            .or(of_port().next())?;
        Some((found.0, &found.1))
    }

    /// Checks that a listener has this port.
    pub(super) fn check_port(&self, port: Option<u16>) -> Result<(), String> {
        let Some(port) = port.filter(|port| self.listeners.iter().all(|(address, _)| address.port != *port)) else {
            return Ok(());
        };
        let mut ports: Vec<String> = self.listeners.iter().map(|(address, _)| address.port.to_string()).collect();
        ports.dedup();
        Err(format!("-port: no listener has port {port}, only {}", ports.join(", ")))
    }

    /// Returns lines about the plain listeners of other ports where another server block gets the query of a report.
    fn other_ports(&self, report: &Report, listener: ListenerAddress, qtype: Type, client: IpAddr) -> Vec<String> {
        let Some(block) = report.traces.first().map(|trace| &trace.block) else { return Vec::new() };
        let mut lines: Vec<String> = Vec::new();
        for (address, router) in &self.listeners {
            if address.scheme != Scheme::Dns || address.port == listener.port {
                continue;
            }
            let trace = dry_run(router, *address, &report.name, qtype, client).unwrap_or_default();
            if let Some(other) = trace.block.filter(|other| block.as_ref() != Some(other)) {
                let port = address.port;
                let line = format!("at port {port}, server block {other} gets the query: -port {port} explains it");
                if lines.len() < MAX_PORTS && !lines.contains(&line) {
                    lines.push(line);
                }
            }
        }
        lines
    }

    /// Returns a reader of the objects.
    pub(crate) fn reader(&self, runtime: &Handle) -> Box<dyn ObjectReader> {
        match &self.objects {
            ObjectSource::Manifests(paths) => Box::new(ManifestReader(Manifests::read_objects(paths))),
            ObjectSource::Api(server) => Box::new(ClusterReader {
                reader: ApiReader::new(server.clone()),
                runtime: runtime.clone(),
                deadline: Instant::now() + READ_TIMEOUT,
            }),
            ObjectSource::None => Box::new(NoObjects("no server block has 'kubernetes'".to_owned())),
        }
    }

    /// Returns the place from which the name is looked up.
    fn place(&self, ask: &Ask, reader: &dyn ObjectReader) -> Result<ClientPlace, String> {
        let domain = self.zone.as_deref().unwrap_or("cluster.local.").trim_end_matches('.').to_owned();
        let cluster = ClusterDns { servers: vec!["the cluster DNS Service".to_owned()], domain };
        let Some(from) = &ask.from else {
            let pod = PodDns { namespace: DEFAULT_NAMESPACE.to_owned(), ..PodDns::default() };
            return Ok(ClientPlace {
                client: ask.client.unwrap_or(Ipv4Addr::LOCALHOST.into()),
                conf: pod.render(&cluster, &StubConf::default()).conf,
                whose: format!("a Pod in namespace {DEFAULT_NAMESPACE}"),
                notes: Vec::new(),
                elsewhere: None,
            });
        };
        let (ns, pod) = find_pod(from, reader)?;
        let node = std::fs::read_to_string(RESOLV_CONF).map(|text| StubConf::parse(&text)).unwrap_or_default();
        let rendered = pod.dns.render(&cluster, &node);
        let mut notes = rendered.omitted;
        let policy = match pod.dns.policy {
            DnsPolicy::ClusterFirst => "ClusterFirst in the host network, which means Default",
            policy => policy.name(),
        };
        let mut elsewhere = None;
        if pod.dns.policy == DnsPolicy::None {
            notes.push(format!("Pod {ns}/{} asks {}", pod.name, rendered.conf.servers.join(", ")));
        } else if !rendered.uses_cluster {
            elsewhere = Some(format!("Pod {ns}/{} does not ask this server: its dnsPolicy is {policy}", pod.name));
        }
        let address = pod.addresses.first().and_then(|address| address.parse().ok());
        let client = ask.client.or(address);
        Ok(ClientPlace {
            client: client.ok_or_else(|| format!("Pod {ns}/{} has no address yet", pod.name))?,
            conf: rendered.conf,
            whose: format!("Pod {ns}/{}", pod.name),
            notes,
            elsewhere,
        })
    }
}

/// The place from which a name is looked up.
struct ClientPlace {
    client: IpAddr,
    conf: StubConf,
    whose: String,
    notes: Vec<String>,
    elsewhere: Option<String>,
}

/// Finds a Pod, given as `NAMESPACE/NAME` or as a name in the namespace `default`.
pub(super) fn find_pod(text: &str, reader: &dyn ObjectReader) -> Result<(String, PodObject), String> {
    let (ns, name) = text.split_once('/').unwrap_or((DEFAULT_NAMESPACE, text));
    if ns.is_empty() || name.is_empty() || name.contains('/') {
        return Err(format!(
            "'{text}' is not a Pod: expected NAMESPACE/NAME, or NAME in namespace {DEFAULT_NAMESPACE}"
        ));
    }
    let query = |name: Option<&str>, limit| ObjectQuery {
        kind: ObjectKind::Pod,
        namespace: ns.to_owned(),
        name: name.map(str::to_owned),
        labels: Vec::new(),
        limit,
    };
    if let Some(found) = reader.read(&query(Some(name), 1))?.first() {
        return Ok((ns.to_owned(), PodObject::of(found)));
    }
    let others = reader.read(&query(None, 200)).unwrap_or_default();
    let names: Vec<String> = others.iter().map(|pod| PodObject::of(pod).name).collect();
    // The name of a Deployment or StatefulSet is the first part of the names of its Pods.
    let is_of_owner = |other: &&str| other.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'));
    let of_owner = names.iter().map(String::as_str).find(is_of_owner).map(str::to_owned);
    let near = of_owner.or_else(|| crate::corefile::suggest(name, names.iter().map(String::as_str)));
    let near = near.map(|near| format!(", did you mean {ns}/{near}?")).unwrap_or_default();
    Err(format!("there is no Pod {ns}/{name}{near}"))
}

/// Parses a type.
pub(super) fn parse_type(text: &str) -> Result<Type, String> {
    let text = if text.is_empty() { "A" } else { text };
    Type::from_mnemonic(text).ok_or_else(|| format!("'{text}' is not a record type such as A, AAAA or SRV"))
}

/// Checks that a text is a name. Other ways to say where something is have a hint: a URL or a part of one, a host with
/// a port, `NAMESPACE/NAME`, a network.
pub(super) fn check_name(text: &str) -> Result<(), String> {
    if let Some((_, rest)) = text.split_once("://") {
        return Err(match url_host(rest) {
            "" => format!("a URL is not a DNS name; {EXPECTED}"),
            host => format!("a URL is not a DNS name; its name is '{host}'"),
        });
    }
    // Names of networks in reverse zones have slashes (RFC 2317).
    let is_reverse = text.trim_end_matches('.').to_ascii_lowercase().ends_with(".arpa");
    if text.contains(['/', '?', '#', '@']) && !is_reverse {
        return Err(match (text.split_once('/'), url_host(text)) {
            _ if text.parse::<ipnet::IpNet>().is_ok() => {
                format!("'{text}' is a network; expected a DNS name, or one address for its reverse name")
            }
            (Some((one, other)), _)
                if [one, other].into_iter().all(|part| is_dns_label(&part.to_ascii_lowercase())) =>
            {
                format!(
                    "'{text}' is not a DNS name; expected '{other}.{one}' if it is NAMESPACE/NAME of a Service, '{one}' if it \
                 is a host with a path"
                )
            }
            (_, "") => format!("'{text}' is not a DNS name; {EXPECTED}"),
            // What is before an @ may be a password.
            (_, host) => format!("a part of a URL is not a DNS name; its name is '{host}'"),
        });
    }
    if let Some((host, port)) = split_port(text) {
        return Err(format!("'{text}' is a name with port {port}; its name is '{host}'"));
    }
    let problem = match NameBuf::from_text(text) {
        _ if text.contains(char::is_whitespace) => "the name has white space".to_owned(),
        _ if text.contains(char::is_control) => "the name has a control character".to_owned(),
        Err(error) => error.to_string(),
        Ok(_) => return Ok(()),
    };
    Err(format!("'{text}' is not a DNS name: {problem}; {EXPECTED}"))
}

/// What a name looks like, for errors.
const EXPECTED: &str = "expected labels with dots between them, such as web.shop or web.shop.svc.cluster.local";

/// Returns the host of a URL without its scheme: without user and password, port, path and parameters.
fn url_host(rest: &str) -> &str {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    split_port(host).map_or(host, |(host, _)| host)
}

/// Splits a name with a port.
fn split_port(text: &str) -> Option<(&str, u16)> {
    let (host, port, _) = split_address(text)?;
    Some((host, port.filter(|_| !host.is_empty())?))
}

/// Runs a query for a full name without any effect. `None` if it is not a name.
fn dry_run(router: &Arc<Router>, listener: ListenerAddress, name: &str, qtype: Type, client: IpAddr) -> Option<Trace> {
    let name = NameBuf::from_text(name).ok()?;
    let packet = [&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.as_wire(), &qtype.0.to_be_bytes(), &[0, 1]].concat();
    let local = match listener.host {
        Some(host) => SocketAddr::new(host.ip, listener.port),
        None if client.is_ipv4() => SocketAddr::from((Ipv4Addr::LOCALHOST, listener.port)),
        None => SocketAddr::new(client, listener.port),
    };
    let client = Client { remote: SocketAddr::new(client, CLIENT_PORT), local, transport: Transport::Udp };
    Some(router.explain(&packet, client, Instant::now()))
}

/// Returns the addresses in the answer of a message.
pub(super) fn addresses(message: &Message<'_>, question: &Question) -> Vec<String> {
    let mut reply = Reply::new();
    if reply.read(message).is_err() {
        return Vec::new();
    }
    let data =
        reply.section(Section::Answer).filter(|record| record.rtype == question.qtype).filter_map(
            |record| match record.rdata {
                Rdata::A(bytes) => Some(IpAddr::from(bytes)),
                Rdata::Aaaa(bytes) => Some(IpAddr::from(bytes)),
                _ => None,
            },
        );
    data.map(|address| address.to_string()).collect()
}

/// The objects of manifests.
struct ManifestReader(Vec<(Kind, Value)>);

impl ObjectReader for ManifestReader {
    fn read(&self, query: &ObjectQuery) -> Result<Vec<Value>, String> {
        let kind = model_kind(query.kind);
        let text = |value: &'_ Value, at: &str| value.pointer(at).and_then(Value::as_str).map(str::to_owned);
        let matches = |value: &Value| {
            let ns = text(value, "/metadata/namespace").unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
            let labels = value.pointer("/metadata/labels");
            let has = |(key, wanted): &(String, String)| {
                labels.and_then(|labels| labels.get(key)?.as_str()).is_some_and(|value| value == wanted)
            };
            (kind == Kind::Namespace || ns == query.namespace)
                && query.name.as_ref().is_none_or(|name| text(value, "/metadata/name").as_ref() == Some(name))
                && query.labels.iter().all(has)
        };
        let found = self.0.iter().filter(|(of, value)| *of == kind && matches(value));
        Ok(found.take(query.limit).map(|(_, value)| value.clone()).collect())
    }
}

/// The objects of an API server.
struct ClusterReader {
    reader: ApiReader,
    runtime: Handle,
    deadline: Instant,
}

impl ObjectReader for ClusterReader {
    fn read(&self, query: &ObjectQuery) -> Result<Vec<Value>, String> {
        let labels: Vec<String> = query.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let read = ReadQuery {
            kind: model_kind(query.kind),
            namespace: &query.namespace,
            name: query.name.as_deref(),
            labels: &labels.join(","),
            limit: query.limit as u32,
        };
        let what = model_kind(query.kind).name();
        let left = self.deadline.saturating_duration_since(Instant::now());
        let list = self.runtime.block_on(async { tokio::time::timeout(left, self.reader.list(&read)).await });
        match list {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(format!("cannot read the {what} from the API server: {error}")),
            Err(_) => Err(format!(
                "cannot read the {what} from the API server: no response within {} s",
                READ_TIMEOUT.as_secs()
            )),
        }
    }
}

fn model_kind(kind: ObjectKind) -> Kind {
    match kind {
        ObjectKind::Namespace => Kind::Namespace,
        ObjectKind::Service => Kind::Service,
        ObjectKind::EndpointSlice => Kind::EndpointSlice,
        ObjectKind::Pod => Kind::Pod,
    }
}
