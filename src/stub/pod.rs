//! The resolv.conf that kubelet writes for a Pod (kubernetes `pkg/kubelet/network/dns/dns.go`).

use serde_json::Value;

use super::conf::{MAX_SERVERS, StubConf};

/// The limits of kubelet (`MaxDNSSearchPaths`, `MaxDNSSearchListChars` of `pkg/apis/core/validation`).
const MAX_SEARCH: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2_048;

/// `spec.dnsPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsPolicy {
    /// The cluster's DNS server, except for Pods in the host network.
    #[default]
    ClusterFirst,
    /// The cluster's DNS server, also for Pods in the host network.
    ClusterFirstWithHostNet,
    /// The resolv.conf of the node.
    Default,
    /// Only `dnsConfig`.
    None,
}

impl DnsPolicy {
    /// Every policy.
    pub const ALL: [DnsPolicy; 4] =
        [DnsPolicy::ClusterFirst, DnsPolicy::ClusterFirstWithHostNet, DnsPolicy::Default, DnsPolicy::None];

    /// Returns the name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            DnsPolicy::ClusterFirst => "ClusterFirst",
            DnsPolicy::ClusterFirstWithHostNet => "ClusterFirstWithHostNet",
            DnsPolicy::Default => "Default",
            DnsPolicy::None => "None",
        }
    }

    /// Returns the policy with this name, in any letter case.
    pub fn named(name: &str) -> Option<DnsPolicy> {
        DnsPolicy::ALL.into_iter().find(|policy| policy.name().eq_ignore_ascii_case(name))
    }
}

/// `spec.dnsConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// `nameservers`.
    pub servers: Vec<String>,
    /// `searches`.
    pub search: Vec<String>,
    /// `options`: names and values.
    pub options: Vec<(String, Option<String>)>,
}

/// The fields of a Pod that its resolv.conf depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDns {
    /// The namespace.
    pub namespace: String,
    /// `spec.dnsPolicy`.
    pub policy: DnsPolicy,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `spec.dnsConfig`.
    pub config: Option<DnsConfig>,
}

/// The configuration of kubelet: `clusterDNS` and `clusterDomain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDns {
    /// The addresses of the cluster's DNS Service.
    pub servers: Vec<String>,
    /// The domain of the cluster, without a final dot.
    pub domain: String,
}

/// A resolv.conf, and what kubelet left out of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The file.
    pub conf: StubConf,
    /// Whether the Pod uses the cluster's DNS server.
    pub uses_cluster: bool,
    /// Values over the limits of kubelet.
    pub omitted: Vec<String>,
}

impl PodDns {
    /// Reads the fields of a Pod of the API.
    pub fn of(pod: &Value) -> PodDns {
        let text = |at: &str| pod.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let list = |value: &Value, field: &str| -> Vec<String> {
            let items = value.get(field).and_then(Value::as_array).into_iter().flatten();
            items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        let config = pod.pointer("/spec/dnsConfig").filter(|config| config.is_object()).map(|config| {
            let options = config.get("options").and_then(Value::as_array).into_iter().flatten();
            let options = options.filter_map(|option| {
                let value = match option.get("value") {
                    Some(Value::String(value)) => Some(value.clone()).filter(|value| !value.is_empty()),
                    Some(Value::Number(value)) => Some(value.to_string()),
                    _ => None,
                };
                Some((option.get("name")?.as_str()?.to_owned(), value))
            });
            DnsConfig {
                servers: list(config, "nameservers"),
                search: list(config, "searches"),
                options: options.collect(),
            }
        });
        PodDns {
            namespace: Some(text("/metadata/namespace")).filter(|ns| !ns.is_empty()).unwrap_or("default".to_owned()),
            policy: DnsPolicy::named(&text("/spec/dnsPolicy")).unwrap_or_default(),
            host_network: pod.pointer("/spec/hostNetwork").and_then(Value::as_bool).unwrap_or_default(),
            config,
        }
    }

    /// Returns the resolv.conf of the Pod; `node` is that of the node.
    pub fn render(&self, cluster: &ClusterDns, node: &StubConf) -> Rendered {
        let uses_cluster = match self.policy {
            DnsPolicy::ClusterFirst => !self.host_network,
            DnsPolicy::ClusterFirstWithHostNet => true,
            DnsPolicy::Default | DnsPolicy::None => false,
        } && !cluster.servers.is_empty();
        let mut conf = match self.policy {
            DnsPolicy::None => StubConf::default(),
            _ if uses_cluster => {
                let domain = &cluster.domain;
                let mut search = Vec::new();
                if !domain.is_empty() {
                    search = vec![format!("{}.svc.{domain}", self.namespace), format!("svc.{domain}"), domain.clone()];
                }
                search.extend(node.search.iter().cloned());
                StubConf { servers: cluster.servers.clone(), search, options: vec!["ndots:5".to_owned()] }
            }
            _ => node.clone(),
        };
        if let Some(config) = &self.config {
            conf.servers.extend(config.servers.iter().cloned());
            conf.search.extend(config.search.iter().map(|domain| match domain.strip_suffix('.') {
                Some("") | None => domain.clone(),
                Some(domain) => domain.to_owned(),
            }));
            merge_options(&mut conf.options, &config.options);
        }
        remove_duplicates(&mut conf.servers);
        remove_duplicates(&mut conf.search);
        let omitted = limit(&mut conf);
        Rendered { conf, uses_cluster, omitted }
    }
}

/// Replaces options by those of the same name (`mergeDNSOptions`).
fn merge_options(options: &mut Vec<String>, more: &[(String, Option<String>)]) {
    for (name, value) in more {
        let text = value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}:{value}"));
        match options.iter_mut().find(|have| have.split(':').next() == Some(name)) {
            Some(have) => *have = text,
            None => options.push(text),
        }
    }
}

fn remove_duplicates(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// Applies the limits of kubelet (`formDNSConfigFitsLimits`). Returns what is left out.
fn limit(conf: &mut StubConf) -> Vec<String> {
    let mut omitted = Vec::new();
    for server in conf.servers.split_off(conf.servers.len().min(MAX_SERVERS)) {
        omitted.push(format!("nameserver {server}: more than {MAX_SERVERS} name servers"));
    }
    let mut characters = 0;
    let fits = conf.search.iter().take(MAX_SEARCH).take_while(|domain| {
        characters += domain.len() + usize::from(characters > 0);
        characters <= MAX_SEARCH_CHARACTERS
    });
    let fits = fits.count();
    for domain in conf.search.split_off(fits) {
        let limits = format!("more than {MAX_SEARCH} domains or {MAX_SEARCH_CHARACTERS} characters");
        omitted.push(format!("search {domain}: {limits}"));
    }
    omitted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster() -> ClusterDns {
        ClusterDns { servers: vec!["10.96.0.10".to_owned()], domain: "cluster.local".to_owned() }
    }

    /// Returns the file of a Pod with this `spec` on a node with a resolv.conf of its own.
    fn render(spec: Value) -> Rendered {
        let pod = json!({"metadata": {"namespace": "shop"}, "spec": spec});
        let node = StubConf::parse("search corp.example\nnameserver 192.0.2.53\noptions timeout:1\n");
        PodDns::of(&pod).render(&cluster(), &node)
    }

    #[test]
    fn each_policy_has_its_file() {
        let of_cluster = "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
                          nameserver 10.96.0.10\noptions ndots:5\n";
        let of_node = "search corp.example\nnameserver 192.0.2.53\noptions timeout:1\n";
        for (spec, uses_cluster, expected) in [
            (json!({}), true, of_cluster),
            (json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), false, of_node),
            (json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), true, of_cluster),
            (json!({"dnsPolicy": "Default"}), false, of_node),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.2.3.4"], "searches": ["a.b."]}}),
                false,
                "search a.b\nnameserver 1.2.3.4\n",
            ),
        ] {
            let rendered = render(spec.clone());
            assert_eq!((rendered.uses_cluster, &*rendered.conf.to_text()), (uses_cluster, expected), "{spec}");
        }
    }

    #[test]
    fn dns_config_is_merged_without_duplicates() {
        let rendered = render(json!({"dnsConfig": {
            "nameservers": ["10.96.0.10", "1.1.1.1"],
            "searches": ["svc.cluster.local", "x.example"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
        }}));
        let expected = "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example x.example\n\
                        nameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:2 edns0\n";
        assert_eq!(rendered.conf.to_text(), expected);
        assert_eq!(rendered.omitted, [""; 0]);
    }

    #[test]
    fn values_over_the_limits_are_left_out() {
        let domains: Vec<String> = (0..40).map(|n| format!("d{n}.example")).collect();
        let rendered =
            render(json!({"dnsConfig": {"nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3"], "searches": domains}}));
        assert_eq!(rendered.conf.servers, ["10.96.0.10", "1.1.1.1", "2.2.2.2"]);
        assert_eq!(rendered.conf.search.len(), 32);
        assert_eq!(rendered.omitted.len(), 1 + 12);
        let long: Vec<String> = (0..20).map(|n| format!("{n}{}.example", "x".repeat(190))).collect();
        let rendered =
            render(json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": long}}));
        assert!(rendered.conf.search.join(" ").len() <= 2_048 && rendered.conf.search.len() == 10);
    }
}
