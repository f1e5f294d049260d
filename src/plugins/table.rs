//! The table of directives, in the order of CoreDNS 1.15.0's plugin.cfg: the order in which plugins run.

use std::sync::Arc;

use super::build::Setting;
use super::{
    Context, accepted, acl, any, autopath, bind, bufsize, cache, cancel, chaos, debug, dns64, dnstap, encrypted,
    erratic, errors, etcd, forward, geoip, grpc, header, health, hosts, kubernetes, loadbalance, local, log, loops,
    metadata, minimal, multisocket, nsid, on, prometheus, proxyproto, ready, reload, rewrite, root, siit, template,
    timeouts, tls, trace, view, whoami,
};
use crate::corefile::Directive;
use crate::telemetry::metrics::{Collected, SharedMetrics};

/// A directive of CoreDNS.
pub struct Entry {
    /// The name.
    pub name: &'static str,
    /// Whether a second stanza in a server block is an error.
    pub once: bool,
    /// Parses all stanzas of a server block; `None` if this server does not have the directive.
    pub read: Option<Read>,
    /// Registers metrics that are shown even without the directive.
    pub register_metrics: Option<fn(&SharedMetrics)>,
}

/// Parses the stanzas of a directive. Returns `None` if there is an error, which it has reported.
type Read = fn(&[&Directive], &mut Context<'_>) -> Option<Arc<dyn Setting>>;

/// Converts the `parse` of a directive to a [`Read`].
macro_rules! read {
    ($parse:path) => {
        |stanzas, context| Some(Arc::new($parse(stanzas, context)?))
    };
}

impl Entry {
    /// Registers metrics that are shown even without the directive.
    const fn with_metrics(self, register: fn(&SharedMetrics)) -> Entry {
        Entry { register_metrics: Some(register), ..self }
    }
}

/// Registers metrics of a type.
fn register<T: Collected>(metrics: &SharedMetrics) {
    metrics.get::<T>();
}

/// Creates the entry of a directive that this server has, and that a server block may have several times.
const fn built(name: &'static str, read: Read) -> Entry {
    Entry { name, once: false, read: Some(read), register_metrics: None }
}

/// Creates the entry of a directive that this server has, and that a server block may have once.
const fn once(name: &'static str, read: Read) -> Entry {
    Entry { name, once: true, read: Some(read), register_metrics: None }
}

/// Creates the entry of a directive that this server does not have, so that the error says so.
const fn planned(name: &'static str) -> Entry {
    Entry { name, once: false, read: None, register_metrics: None }
}

/// All directives, in the order in which plugins run.
pub const DIRECTIVES: &[Entry] = &[
    built("root", read!(root::parse)),
    built("metadata", read!(metadata::parse)),
    built("geoip", read!(geoip::parse)),
    built("cancel", read!(cancel::parse)),
    built("proxyproto", read!(proxyproto::parse)),
    built("quic", read!(encrypted::quic)),
    built("grpc_server", read!(encrypted::grpc_server)),
    built("https", read!(encrypted::https)),
    built("https3", read!(encrypted::https3)),
    built("timeouts", read!(timeouts::parse)),
    once("multisocket", read!(multisocket::parse)),
    built("reload", read!(reload::parse)),
    once("nsid", read!(nsid::parse)),
    built("bufsize", read!(bufsize::parse)),
    built("bind", read!(bind::parse)),
    built("debug", read!(debug::parse)),
    built("trace", read!(trace::parse)),
    once("ready", read!(ready::parse)),
    built("health", read!(health::parse)).with_metrics(health::register_metrics),
    once("pprof", read!(accepted::pprof)),
    once("shed", read!(accepted::shed)),
    once("prometheus", read!(prometheus::parse)).with_metrics(register::<prometheus::Queries>),
    once("errors", read!(errors::parse)),
    built("log", read!(log::parse)),
    built("dnstap", read!(dnstap::parse)),
    built("local", read!(local::parse)).with_metrics(register::<local::Counts>),
    built("dns64", read!(dns64::parse)).with_metrics(register::<dns64::Dns64Metrics>),
    built("siit", read!(siit::parse)).with_metrics(register::<siit::SiitMetrics>),
    built("any", read!(any::parse)),
    built("chaos", read!(chaos::parse)),
    built("loadbalance", read!(loadbalance::parse)),
    planned("tsig"),
    built("rewrite", read!(rewrite::parse)),
    built("autopath", read!(autopath::parse)).with_metrics(register::<autopath::AutopathMetrics>),
    built("acl", read!(acl::parse)).with_metrics(register::<acl::AclMetrics>),
    once("cache", read!(cache::parse)).with_metrics(register::<cache::CacheMetrics>),
    built("header", read!(header::parse)),
    planned("dnssec"),
    built("tls", read!(tls::parse)),
    built("minimal", read!(minimal::parse)),
    built("template", read!(template::parse)).with_metrics(register::<template::TemplateCounters>),
    planned("transfer"),
    planned("dynupdate"),
    once("hosts", read!(hosts::parse)).with_metrics(register::<hosts::AllHosts>),
    planned("route53"),
    planned("azure"),
    planned("clouddns"),
    planned("k8s_external"),
    once("kubernetes", read!(kubernetes::config::parse)),
    planned("file"),
    planned("auto"),
    planned("secondary"),
    once("etcd", read!(etcd::parse)),
    once("loop", read!(loops::parse)),
    built("forward", read!(forward::parse)),
    once("grpc", read!(grpc::parse)).with_metrics(register::<grpc::GrpcMetrics>),
    built("erratic", read!(erratic::parse)),
    built("whoami", read!(whoami::parse)),
    built("on", read!(on::parse)),
    planned("sign"),
    once("view", read!(view::parse)),
    planned("nomad"),
];

/// External plugins of CoreDNS that occur in Corefiles, each with a description for the error.
pub(super) const EXTERNAL: &[(&str, &str)] = &[
    ("kubernetai", "several kubernetes stanzas in one block"),
    ("unbound", "recursion through libunbound; run unbound as a server of its own and 'forward ZONE ADDRESS' to it"),
    ("fanout", "queries several upstreams at once"),
    ("alternate", "another upstream on some codes; 'forward' has 'next' for it"),
    ("records", "records written into the Corefile"),
    (
        "k8s_gateway",
        "names of Ingress, Gateway and LoadBalancer objects; run it as a server of its own and 'forward ZONE ADDRESS' to it",
    ),
    ("ocp_dnsnameresolver", "OpenShift's EgressFirewall names"),
    ("netbox", "records from NetBox"),
    ("consul", "records from Consul"),
    ("redis", "records from Redis"),
    ("mysql", "records from MySQL"),
    ("pdsql", "records from a PowerDNS database"),
    ("gslb", "global server load balancing"),
    ("rrl", "response rate limiting"),
    ("warnlist", "logs queries for listed names"),
    ("blocklist", "blocks listed names; for a list of zones, 'template ANY ANY ZONE' with 'rcode NXDOMAIN' in braces"),
    (
        "ads",
        "blocks names of advertisers; for a list of zones, 'template ANY ANY ZONE' with 'rcode NXDOMAIN' in braces",
    ),
    ("mdns", "browses multicast DNS"),
    ("kubenodes", "names of nodes"),
    ("k8s_event", "log lines as Kubernetes Events"),
    ("k8s_cache", "a cache for the kubernetes plugin"),
    ("lighthouse", "Submariner's clusterset.local"),
    ("metadata_edns0", "metadata from EDNS options"),
    ("demo", "a demonstration"),
    ("example", "a demonstration"),
];

/// Directives that CoreDNS had, each with what to do instead.
pub(super) const REMOVED: &[(&str, &str)] = &[
    ("federation", "removed with CoreDNS 1.7.0 together with the federations of Kubernetes; delete it"),
    ("proxy", "removed with CoreDNS 1.5.0; write 'forward' in its place, as in 'forward . 192.0.2.53'"),
    ("upstream", "removed with CoreDNS 1.7.0; delete it, external names are looked up through this server itself"),
    ("resyncperiod", "removed with CoreDNS 1.5.0; delete it"),
];

/// What to do without a directive that this server does not have.
pub(super) const WAYS_OUT: &[(&str, &str)] = &[
    ("cancel", "delete it; every query has a timeout here"),
    ("tsig", "delete it; restrict clients with 'acl', or serve 'tls://'"),
    ("dnssec", "serve signed zones from another name server, and 'forward' to it"),
    ("sign", "sign the zone on the name server that has it, and 'forward' to it"),
    (
        "file",
        "serve the zone from another name server and 'forward ZONE ADDRESS' to it; for a few records, 'hosts' or 'template'",
    ),
    ("auto", "serve the zones from another name server and 'forward ZONE ADDRESS' to it"),
    ("secondary", "'forward ZONE ADDRESS' to a name server of the zone"),
    ("transfer", "let secondaries transfer the zone from the name server that has it"),
    ("dynupdate", "send updates to a name server that has the zone"),
    ("route53", "'forward ZONE ADDRESS' to the VPC's resolver or to a Route 53 inbound endpoint"),
    ("azure", "'forward ZONE 168.63.129.16', the resolver of Azure, or an inbound endpoint of a private resolver"),
    ("clouddns", "'forward ZONE 169.254.169.254', the resolver of Google Cloud, or an inbound server policy"),
    ("k8s_external", "publish names of Services with external-dns"),
    ("nomad", "'forward ZONE ADDRESS' to a name server for Nomad"),
    ("on", "delete it; it runs commands at start and stop"),
];

/// Properties that are often written outside of the braces of their directive.
pub(super) const PROPERTIES: &[(&str, &[&str])] = &[
    ("acl", &["allow", "block", "filter", "drop"]),
    ("cache", &["success", "denial", "prefetch", "serve_stale", "servfail", "keepttl", "disable"]),
    ("errors", &["consolidate", "stacktrace"]),
    (
        "forward",
        &[
            "max_concurrent",
            "except",
            "force_tcp",
            "prefer_udp",
            "expire",
            "max_fails",
            "policy",
            "health_check",
            "tls_servername",
            "max_age",
            "failover",
            "next",
        ],
    ),
    ("health", &["lameduck"]),
    ("hosts", &["no_reverse", "fallthrough"]),
    (
        "kubernetes",
        &[
            "pods",
            "endpoint",
            "kubeconfig",
            "namespaces",
            "labels",
            "namespace_labels",
            "noendpoints",
            "ignore",
            "endpoint_pod_names",
            "fallthrough",
            "zonal",
            "ttl",
        ],
    ),
    ("log", &["class"]),
    ("siit", &["ipv6_prefix", "eam"]),
    ("template", &["match", "answer", "authority", "additional", "rcode", "fallthrough", "ederror"]),
    ("view", &["expr"]),
];

/// The directives that answer queries, so that they have no effect behind one that answers all of them.
pub(super) const ANSWERING: &[&str] =
    &["template", "hosts", "kubernetes", "etcd", "forward", "grpc", "erratic", "whoami"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directive_is_in_the_table_once() {
        let mut names: Vec<&str> = DIRECTIVES.iter().map(|entry| entry.name).collect();
        names.extend(EXTERNAL.iter().map(|(name, _)| *name));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
