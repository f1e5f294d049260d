//! The table of directives, in the order of CoreDNS 1.15.0's plugin.cfg: the order in which plugins run.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::{
    Context, accepted, acl, any, bind, bufsize, cache, chaos, debug, dns64, encrypted, errors, forward, header, health,
    hosts, kubernetes, loadbalance, local, log, loops, metadata, minimal, multisocket, nsid, prometheus, ready, reload,
    rewrite, root, timeouts, tls, whoami,
};
use crate::corefile::Directive;
use crate::net;

/// A directive of CoreDNS.
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// A second use in a server block is an error.
    pub once: bool,
    /// Reads all its lines of one server block; `None` where this server does not have it yet.
    pub read: Option<Read>,
}

/// Reads the lines of a directive; reports mistakes and then gives `None`.
type Read = fn(&[&Directive], &mut Context<'_>) -> Option<Setting>;

/// A directive, read.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// *root*: the folder of relative file names.
    Root(PathBuf),
    /// *metadata*.
    Metadata(metadata::Config),
    /// *acl*.
    Acl(acl::Config),
    /// *quic*.
    Quic(encrypted::Limits),
    /// *https*.
    Https(encrypted::Limits),
    /// *https3*.
    Https3(encrypted::Limits),
    /// *timeouts*.
    Timeouts(timeouts::Config),
    /// *multisocket*.
    Multisocket(Option<NonZeroUsize>),
    /// *shed* or *pprof*, which change nothing.
    Accepted,
    /// *nsid*.
    Nsid(nsid::Config),
    /// *bufsize*.
    Bufsize(bufsize::Config),
    /// *bind*.
    Bind(bind::Config),
    /// *debug*.
    Debug,
    /// *reload*.
    Reload(reload::Config),
    /// *ready*.
    Ready(ready::Config),
    /// *health*.
    Health(health::Config),
    /// *prometheus*.
    Prometheus(prometheus::Config),
    /// *errors*.
    Errors(errors::Config),
    /// *log*.
    Log(log::Config),
    /// *local*.
    Local(local::Config),
    /// *dns64*.
    Dns64(dns64::Config),
    /// *any*.
    Any,
    /// *chaos*.
    Chaos(chaos::Config),
    /// *loadbalance*.
    Loadbalance(loadbalance::Config),
    /// *rewrite*.
    Rewrite(rewrite::Config),
    /// *cache*.
    Cache(Box<cache::Config>),
    /// *header*.
    Header(header::Config),
    /// *tls*.
    Tls(net::TlsFiles),
    /// *minimal*.
    Minimal,
    /// *hosts*.
    Hosts(hosts::Config),
    /// *kubernetes*.
    Kubernetes(Box<kubernetes::Config>),
    /// *loop*.
    Loop,
    /// *forward*: its stanzas.
    Forward(Vec<forward::Config>),
    /// *whoami*.
    Whoami,
}

/// A directive that is built and may be used several times.
const fn built(name: &'static str, read: Read) -> Entry {
    Entry { name, once: false, read: Some(read) }
}

/// A directive that is built and may be used once.
const fn once(name: &'static str, read: Read) -> Entry {
    Entry { name, once: true, read: Some(read) }
}

/// A directive that is known by name only.
const fn planned(name: &'static str) -> Entry {
    Entry { name, once: false, read: None }
}

/// Every directive, in order.
pub const DIRECTIVES: &[Entry] = &[
    built("root", |stanzas, context| root::parse(stanzas, context).map(Setting::Root)),
    built("metadata", |stanzas, context| metadata::parse(stanzas, context).map(Setting::Metadata)),
    planned("geoip"),
    planned("cancel"),
    planned("proxyproto"),
    built("quic", |stanzas, context| encrypted::quic(stanzas, context).map(Setting::Quic)),
    planned("grpc_server"),
    built("https", |stanzas, context| encrypted::http(stanzas, context).map(Setting::Https)),
    built("https3", |stanzas, context| encrypted::http(stanzas, context).map(Setting::Https3)),
    built("timeouts", |stanzas, context| timeouts::parse(stanzas, context).map(Setting::Timeouts)),
    once("multisocket", |stanzas, context| multisocket::parse(stanzas, context).map(Setting::Multisocket)),
    built("reload", |stanzas, context| reload::parse(stanzas, context).map(Setting::Reload)),
    once("nsid", |stanzas, context| nsid::parse(stanzas, context).map(Setting::Nsid)),
    built("bufsize", |stanzas, context| bufsize::parse(stanzas, context).map(Setting::Bufsize)),
    built("bind", |stanzas, context| bind::parse(stanzas, context).map(Setting::Bind)),
    built("debug", |stanzas, context| debug::parse(stanzas, context).map(|()| Setting::Debug)),
    planned("trace"),
    once("ready", |stanzas, context| ready::parse(stanzas, context).map(Setting::Ready)),
    built("health", |stanzas, context| health::parse(stanzas, context).map(Setting::Health)),
    once("pprof", |stanzas, context| accepted::pprof(stanzas, context).map(|()| Setting::Accepted)),
    once("shed", |stanzas, context| accepted::shed(stanzas, context).map(|()| Setting::Accepted)),
    once("prometheus", |stanzas, context| prometheus::parse(stanzas, context).map(Setting::Prometheus)),
    once("errors", |stanzas, context| errors::parse(stanzas, context).map(Setting::Errors)),
    built("log", |stanzas, context| log::parse(stanzas, context).map(Setting::Log)),
    planned("dnstap"),
    built("local", |stanzas, context| local::parse(stanzas, context).map(Setting::Local)),
    built("dns64", |stanzas, context| dns64::parse(stanzas, context).map(Setting::Dns64)),
    planned("siit"),
    built("any", |stanzas, context| any::parse(stanzas, context).map(|()| Setting::Any)),
    built("chaos", |stanzas, context| chaos::parse(stanzas, context).map(Setting::Chaos)),
    built("loadbalance", |stanzas, context| loadbalance::parse(stanzas, context).map(Setting::Loadbalance)),
    planned("tsig"),
    built("rewrite", |stanzas, context| rewrite::parse(stanzas, context).map(Setting::Rewrite)),
    planned("autopath"),
    built("acl", |stanzas, context| acl::parse(stanzas, context).map(Setting::Acl)),
    once("cache", |stanzas, context| cache::parse(stanzas, context).map(|config| Setting::Cache(Box::new(config)))),
    built("header", |stanzas, context| header::parse(stanzas, context).map(Setting::Header)),
    planned("dnssec"),
    built("tls", |stanzas, context| tls::parse(stanzas, context).map(Setting::Tls)),
    built("minimal", |stanzas, context| minimal::parse(stanzas, context).map(|()| Setting::Minimal)),
    planned("template"),
    planned("transfer"),
    planned("dynupdate"),
    once("hosts", |stanzas, context| hosts::parse(stanzas, context).map(Setting::Hosts)),
    planned("route53"),
    planned("azure"),
    planned("clouddns"),
    planned("k8s_external"),
    once("kubernetes", |stanzas, context| {
        kubernetes::config::parse(stanzas, context).map(|config| Setting::Kubernetes(Box::new(config)))
    }),
    planned("file"),
    planned("auto"),
    planned("secondary"),
    planned("etcd"),
    once("loop", |stanzas, context| loops::parse(stanzas, context).map(|()| Setting::Loop)),
    built("forward", |stanzas, context| forward::parse(stanzas, context).map(Setting::Forward)),
    planned("grpc"),
    planned("erratic"),
    built("whoami", |stanzas, context| whoami::parse(stanzas, context).map(|()| Setting::Whoami)),
    planned("on"),
    planned("sign"),
    planned("view"),
    planned("nomad"),
];

/// Plugins from outside CoreDNS's tree that people have in their Corefiles, and what they do.
pub const EXTERNAL: &[(&str, &str)] = &[
    ("kubernetai", "several kubernetes stanzas in one block"),
    ("unbound", "recursion through libunbound"),
    ("fanout", "asks several upstreams at once"),
    ("alternate", "another upstream on some codes; 'forward' has 'next' for it"),
    ("records", "records written into the Corefile"),
    ("k8s_gateway", "names of Ingress, Gateway and LoadBalancer objects"),
    ("ocp_dnsnameresolver", "OpenShift's EgressFirewall names"),
    ("netbox", "records from NetBox"),
    ("consul", "records from Consul"),
    ("redis", "records from Redis"),
    ("mysql", "records from MySQL"),
    ("pdsql", "records from a PowerDNS database"),
    ("gslb", "global server load balancing"),
    ("rrl", "response rate limiting"),
    ("warnlist", "warns of listed names"),
    ("blocklist", "blocks listed names"),
    ("ads", "blocks names of advertisers"),
    ("mdns", "browses multicast DNS"),
    ("kubenodes", "names of nodes"),
    ("k8s_event", "reports as Kubernetes Events"),
    ("k8s_cache", "a cache for the kubernetes plugin"),
    ("lighthouse", "Submariner's clusterset.local"),
    ("metadata_edns0", "metadata from EDNS options"),
    ("demo", "a demonstration"),
    ("example", "a demonstration"),
    ("federation", "removed from CoreDNS with 1.7.0"),
    ("proxy", "removed from CoreDNS with 1.5.0; 'forward' took its place"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directive_stands_in_the_table_once() {
        let mut names: Vec<&str> = DIRECTIVES.iter().map(|entry| entry.name).collect();
        names.extend(EXTERNAL.iter().map(|(name, _)| *name));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
