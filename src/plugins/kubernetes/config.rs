//! The configuration of the *kubernetes* stanza.

use std::time::Duration;

use super::stanza::Answers;
use crate::cluster::selector::is_dns_label;
use crate::cluster::{PodMode, Selector, View};
use crate::corefile::{Arguments, Diagnostic, Directive, Stage, Token};
use crate::plugins::build::ApiConfig;
use crate::plugins::path::{path, rooted};
use crate::plugins::{Context, fallthrough, names, zones_or_block};
use crate::wire::NameBuf;

/// The maximum TTL of answers in seconds.
const MAX_TTL: u32 = 3_600;
/// The maximum length of a zone in wire form, so that its `hostmaster` is a valid name.
const MAX_ZONE: usize = 242;
/// Every property, for suggestions.
const PROPERTIES: [&str; 17] = [
    "endpoint",
    "tls",
    "kubeconfig",
    "apiserver_qps",
    "apiserver_burst",
    "apiserver_max_inflight",
    "namespaces",
    "labels",
    "namespace_labels",
    "pods",
    "endpoint_pod_names",
    "ttl",
    "noendpoints",
    "fallthrough",
    "ignore",
    "zonal",
    "startup_timeout",
];

/// The configuration of a stanza.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The configuration of answers.
    pub answers: Answers,
    /// The selector of Services, EndpointSlices and Pods.
    pub labels: Option<Selector>,
    /// The selector of Namespaces.
    pub namespace_labels: Option<Selector>,
    /// The connection to the API server.
    pub api: ApiConfig,
}

/// Parses the stanza.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let stanza = stanzas.first()?;
    let mut line = Arguments::of(stanza, context.diagnostics);
    let first = line.peek().unwrap_or(&stanza.name);
    let zones = zones_or_block(&mut line, context.zones);
    let answers = Answers { zones, view: View::default(), ttl: 5, fallthrough: Default::default() };
    let mut config = Config { answers, labels: None, namespace_labels: None, api: ApiConfig::default() };
    for property in line.body() {
        let mut inner = line.enter(property);
        parse_property(&mut inner, &mut config);
        inner.finish();
    }
    let view = &mut config.answers.view;
    view.filtered_namespaces = config.namespace_labels.is_some();
    if view.namespaces.is_some() && view.filtered_namespaces {
        line.error_expected(&stanza.name, "namespaces and namespace_labels cannot both be set", "one of the two");
    }
    if view.zonal && !view.endpoints {
        line.error_expected(&stanza.name, "zonal requires the endpoint cache; remove noendpoints", "one of the two");
    }
    line.finish();

    // CoreDNS considers only zones below the reverse trees as reverse, so `in-addr.arpa` alone is accepted.
    let below_reverse = |zone: &NameBuf| {
        let text = zone.to_string();
        text.ends_with(".in-addr.arpa.") || text.ends_with(".ip6.arpa.")
    };
    if config.answers.zones.iter().all(below_reverse) {
        let mut line = Arguments::of(stanza, context.diagnostics);
        let expected = "a zone such as cluster.local, or nothing for the zones of the server block";
        line.error_expected(first, "non-reverse zone name must be used", expected);
        return None;
    }
    let zones = &config.answers.zones;
    if let Some(zone) = zones.iter().find(|zone| zone.as_wire().len() > MAX_ZONE) {
        let message = format!("the zone {zone} is too long for names below it");
        let mut line = Arguments::of(stanza, context.diagnostics);
        line.error_expected(&stanza.name, message, "a zone of at most 240 characters");
        return None;
    }
    Some(config)
}

/// Parses a property.
fn parse_property(line: &mut Arguments<'_, '_>, config: &mut Config) {
    let (view, api) = (&mut config.answers.view, &mut config.api);
    match line.name() {
        "endpoint" => {
            let urls = line.words("the URL of the API server").unwrap_or_default();
            if let [_, second, ..] = urls {
                line.warning(second, "only the first endpoint is used");
            }
            api.server.endpoint = urls.first().map(|url| url.text.clone());
        }
        "tls" => {
            let files = line.exactly::<3>("three files: certificate, key, CA");
            let mut file = |word| rooted(line, None, word);
            api.server.tls = files.and_then(|[cert, key, ca]| Some([file(cert)?, file(key)?, file(ca)?]));
        }
        "kubeconfig" => {
            let file = path(line, None, "a kubeconfig file, and the context to use in it");
            let context = line.next_word().map(|word| word.text.clone());
            api.server.kubeconfig = file.map(|file| (file, context));
        }
        "apiserver_qps" => {
            api.qps = line.parse("requests a second, 0 or more", |text| {
                let valid = text.parse::<f32>().ok().filter(|qps| *qps >= 0.0 && qps.is_finite());
                valid.ok_or(format!("invalid apiserver_qps \"{text}\""))
            });
        }
        "apiserver_burst" => api.burst = line.number(0..=i32::MAX as u32),
        "apiserver_max_inflight" => api.max_inflight = line.number(0..=i32::MAX as u32).unwrap_or(0),
        "namespaces" => {
            let names = line.words("the name of a namespace").unwrap_or_default();
            // Labels of a question are in lower case, so a name with capitals never matches, as in CoreDNS.
            names.iter().for_each(|word| warn_of_namespace(word, line));
            let names = names.iter().map(|word| word.text.as_bytes().into());
            view.namespaces.get_or_insert_default().extend(names);
        }
        "labels" => config.labels = parse_selector(line).or(config.labels.take()),
        "namespace_labels" => config.namespace_labels = parse_selector(line).or(config.namespace_labels.take()),
        "pods" => {
            let modes =
                [("disabled", PodMode::Disabled), ("insecure", PodMode::Insecure), ("verified", PodMode::Verified)];
            if let Some(mode) = line.one_of(&modes) {
                view.pods = mode;
            }
        }
        "endpoint_pod_names" => view.endpoint_pod_names = true,
        "ttl" => {
            if let Some(ttl) = line.number(0..=MAX_TTL) {
                config.answers.ttl = ttl;
            }
            warn_about_extra(line);
        }
        "noendpoints" => view.endpoints = false,
        "zonal" => view.zonal = true,
        "fallthrough" => config.answers.fallthrough = fallthrough(line, &config.answers.zones),
        "ignore" => match line.peek() {
            Some(_) => {
                if line.one_of(&[("empty_service", true)]).is_some() {
                    view.ignore_empty_service = true;
                    warn_about_extra(line);
                }
            }
            None => line.warning(line.name_token(), "'ignore' without 'empty_service' has no effect"),
        },
        "multicluster" => {
            // It is better not to start than to deny every name of other clusters with authority.
            let zones = names(&line.zones());
            if !zones.is_empty() {
                let expected = "no such property; 'forward' the zone to a server that has it";
                let message = "Unsupported property 'multicluster': CoreDNS has it, this server does not have it yet";
                line.error_expected(line.name_token(), message, expected);
            }
        }
        "startup_timeout" => {
            // A timeout of 0 makes CoreDNS panic; here it is an error.
            let range = Duration::from_millis(1)..=Duration::from_secs(24 * 3_600);
            if let Some(timeout) = line.duration_in(range) {
                api.startup_timeout = timeout;
            }
            warn_about_extra(line);
        }
        "resyncperiod" | "upstream" => {
            let removed = format!("unknown property '{}'", line.name());
            line.error_expected(line.name_token(), removed, "nothing: CoreDNS 1.7 removed it, delete the line");
            line.ignore_rest();
        }
        _ => line.unknown(PROPERTIES),
    }
}

/// Warns about further words, which CoreDNS ignores.
fn warn_about_extra(line: &mut Arguments<'_, '_>) {
    if let Some(word) = line.next_word() {
        line.warning(word, format!("'{}' and further words have no effect", word.text));
        line.ignore_rest();
    }
}

/// Parses the rest of the line as a label selector.
fn parse_selector(line: &mut Arguments<'_, '_>) -> Option<Selector> {
    let words = line.words("a label selector such as app=web,tier in (front,back)")?;
    let text = words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ");
    match Selector::parse(&text) {
        Ok(selector) => Some(selector),
        Err(error) => {
            let message = format!("unable to parse label selector value: '{text}': {error}");
            line.error_expected(&words[0], message, "a label selector such as app=web,tier in (front,back)");
            None
        }
    }
}

/// Warns of a word that cannot be the name of a namespace (RFC 1123), such as one with a comma.
fn warn_of_namespace(word: &Token, line: &mut Arguments<'_, '_>) {
    if is_dns_label(&word.text) {
        return;
    }
    let message = format!("no namespace can have the name '{}'", word.text);
    let meant = word.text.trim_matches([',', ';']).to_lowercase();
    let warning = Diagnostic::warning(Stage::Parse, Some(word.span), message)
        .expected("names of lower-case letters, digits and '-', with a space between two names")
        .suggestion(Some(meant).filter(|meant| is_dns_label(meant)));
    line.push(warning);
}
