//! Finds the cause: chooses the name that matters among those of the search list, follows aliases, and combines the
//! dry run with the objects of the Service.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::objects::{
    LabelMap, MAX_OBJECTS, ObjectKind, ObjectQuery, ObjectReader, PodObject, ServiceObject, SliceObject, format_labels,
};
use super::report::Report;
use crate::chain::{Subject, Trace, TraceDenial, TraceEnd};
use crate::cluster::distance;
use crate::stub::{Library, StubConf};

/// The maximum number of aliases that are followed.
const MAX_ALIASES: usize = 8;
/// The maximum number of names of a search list that are examined.
const MAX_NAMES: usize = 40;

/// What is to be explained.
#[derive(Clone, Debug)]
pub struct ExplainRequest {
    /// The name as a program has it.
    pub name: String,
    /// The query type.
    pub qtype: String,
    /// The address of the client, for views and *acl*.
    pub client: IpAddr,
    /// The resolv.conf of the client.
    pub conf: StubConf,
    /// Whose resolv.conf that is, for people.
    pub whose: String,
    /// The zone of the cluster, with its final dot, if a stanza serves one.
    pub zone: Option<String>,
    /// The listener, for people.
    pub listener: String,
    /// Why the client asks another server than this one, if it does.
    pub elsewhere: Option<String>,
}

/// The dry run of a name, with those of its aliases.
struct Run {
    name: String,
    traces: Vec<Trace>,
    /// The target of an alias was an alias before.
    is_loop: bool,
}

/// The result of a run.
struct RunOutcome {
    result: String,
    reason: String,
    cause: String,
    suggestions: Vec<String>,
}

/// Explains a name. `dry_run` runs a query for a name with a final dot.
pub fn explain(
    request: &ExplainRequest, dry_run: &dyn Fn(&str) -> Option<Trace>, objects: &dyn ObjectReader,
) -> Report {
    let names = Library::Glibc.names(&request.conf, &request.name).unwrap_or_else(|_| vec![request.name.clone()]);
    let runs: Vec<Run> = names.into_iter().take(MAX_NAMES).map(|name| run(name, dry_run)).collect();
    let outcomes: Vec<RunOutcome> = runs.iter().map(outcome).collect();
    let at = choose(request, &runs, &outcomes, objects);
    let Some(run) = runs.get(at) else { return Report::default() };
    let mut report = Report {
        name: run.name.clone(),
        qtype: request.qtype.clone(),
        asked: runs.iter().zip(&outcomes).map(|(run, outcome)| (run.name.clone(), outcome.result.clone())).collect(),
        listener: request.listener.clone(),
        traces: run.traces.clone(),
        ..Report::default()
    };
    let Some(outcome) = outcomes.into_iter().nth(at) else { return report };
    (report.result, report.reason, report.cause) = (outcome.result, outcome.reason, outcome.cause);
    report.suggestions = outcome.suggestions;
    examine_objects(request, run, &mut report, objects);
    examine_name(request, &mut report, dry_run);
    if report.result == "NODATA" && request.qtype != "PTR" && report.name.to_ascii_lowercase().ends_with(".arpa.") {
        report.cause.push_str("; the name of an address is in type PTR");
    }
    if let Some(why) = &request.elsewhere {
        report.cause = format!("{why}; this server would say: {}", report.cause);
        report.reason = "other-resolver".to_owned();
    }
    report.next.extend(next_commands(&report, run));
    report.next.dedup();
    report
}

/// Runs a name, and the targets of its aliases.
fn run(name: String, dry_run: &dyn Fn(&str) -> Option<Trace>) -> Run {
    let (mut traces, mut is_loop, mut next) = (Vec::new(), false, Some(name.clone()));
    let mut seen = BTreeSet::new();
    while let Some(target) = next.take() {
        if !seen.insert(target.to_ascii_lowercase()) || traces.len() >= MAX_ALIASES {
            is_loop = true;
            break;
        }
        let Some(trace) = dry_run(&target) else { break };
        next = trace.alias.clone().filter(|_| trace.end == TraceEnd::Alias);
        traces.push(trace);
    }
    Run { name, traces, is_loop }
}

/// Returns the place of the name that matters: the first one that resolves; else the one that the user is likely to
/// mean.
fn choose(request: &ExplainRequest, runs: &[Run], outcomes: &[RunOutcome], objects: &dyn ObjectReader) -> usize {
    let resolves = |(run, outcome): (&Run, &RunOutcome)| {
        outcome.reason == "resolves" || run.traces.first().is_some_and(|first| first.end == TraceEnd::Alias)
    };
    if let Some(found) = runs.iter().zip(outcomes).position(resolves) {
        return found;
    }
    let bare = request.name.trim_end_matches('.').to_ascii_lowercase();
    let place = |name: &str| runs.iter().position(|run| run.name.eq_ignore_ascii_case(name));
    let as_it_is = place(&format!("{bare}.")).unwrap_or(runs.len().saturating_sub(1));
    let Some(zone) = &request.zone else { return as_it_is };
    let labels: Vec<&str> = bare.split('.').collect();
    let is_in_zone = format!(".{bare}.").ends_with(&format!(".{zone}"));
    match labels[..] {
        _ if is_in_zone => as_it_is,
        [_] => 0,
        [.., "svc" | "pod"] => place(&format!("{bare}.{zone}")).unwrap_or(as_it_is),
        [.., ns] => {
            // The last label is a namespace, or the name is an external one.
            let Some(at) = place(&format!("{bare}.svc.{zone}")) else { return as_it_is };
            let outcome = &outcomes[at];
            let is_of_cluster = match outcome.reason.as_str() {
                _ if !outcome.suggestions.is_empty() => true,
                "no-such-namespace" => {
                    let kind = ObjectKind::Namespace;
                    let (namespace, name, labels) = (String::new(), Some(ns.to_owned()), Vec::new());
                    let query = ObjectQuery { kind, namespace, name, labels, limit: 1 };
                    objects.read(&query).is_ok_and(|found| !found.is_empty())
                }
                "no-such-form" | "answered" | "forwarded" | "upstreams-down" | "no-block" | "no-plugin" | "cached"
                | "cached-failure" | "no-such-host" | "answer-failed" | "template" => false,
                _ => true,
            };
            if is_of_cluster { at } else { as_it_is }
        }
        [] => as_it_is,
    }
}

/// Returns the result of a run.
fn outcome(run: &Run) -> RunOutcome {
    let Some(last) = run.traces.last() else {
        return RunOutcome {
            result: "none".to_owned(),
            reason: "not-a-name".to_owned(),
            cause: "it is not a DNS name".to_owned(),
            suggestions: Vec::new(),
        };
    };
    let code = last.rcode.clone().unwrap_or_default();
    let denial = last.denial.clone();
    let by = &last.by;
    let (result, reason, cause) = match last.end {
        TraceEnd::NoBlock if !last.not_admitted.is_empty() => {
            let blocks = last.not_admitted.join(", ");
            (code, "no-view", format!("no view of the server blocks admits the query: {blocks}"))
        }
        TraceEnd::NoBlock => (code, "no-block", "no server block serves a zone that contains the name".to_owned()),
        TraceEnd::Answered if !last.records.is_empty() => (code, "resolves", describe_records(last)),
        TraceEnd::Answered => {
            let is_no_data = code == "NOERROR";
            let cause =
                if is_no_data { format!("{by} has no record of this type") } else { format!("{by} answers {code}") };
            (if is_no_data { "NODATA".to_owned() } else { code }, "answered", cause)
        }
        TraceEnd::Dropped => ("dropped".to_owned(), "dropped", format!("{by} drops the query")),
        TraceEnd::Upstream => ("forwarded".to_owned(), "forwarded", describe_upstreams(last)),
        TraceEnd::Waits => ("pending".to_owned(), "waits", format!("{by} answers after other look-ups")),
        TraceEnd::Alias => (code, "alias", "an alias".to_owned()),
        TraceEnd::NoPlugin => {
            let cause = if by.is_empty() {
                "the server block has no plugin".to_owned()
            } else {
                format!("no plugin of the server block answers the name; the last one is {by}")
            };
            (code, "no-plugin", cause)
        }
    };
    let mut outcome = RunOutcome { result, reason: reason.to_owned(), cause, suggestions: Vec::new() };
    if let Some(TraceDenial { reason, text, nearest }) = denial
        && outcome.reason != "resolves"
    {
        let is_down = reason == "upstreams-down";
        match last.end {
            TraceEnd::Upstream if !is_down => {
                outcome.cause = format!("{text}, so that it is forwarded: {}", outcome.cause)
            }
            TraceEnd::NoPlugin => outcome.cause = format!("{text}, it falls through, and {}", outcome.cause),
            TraceEnd::Answered if *by != last.denied_by => {
                outcome.cause = format!("{text}, it falls through, and {}", outcome.cause);
            }
            TraceEnd::Answered if reason == "cached-failure" => {
                let upstreams = upstream_lines(last).collect::<Vec<_>>().join("; ");
                let upstreams = if upstreams.is_empty() { upstreams } else { format!("; the upstreams: {upstreams}") };
                outcome.cause = format!("{text}{upstreams}");
            }
            _ => outcome.cause = text,
        }
        outcome.reason = if last.end == TraceEnd::Upstream && !is_down { "forwarded".to_owned() } else { reason };
        if is_down {
            outcome.result = "SERVFAIL".to_owned();
        }
        outcome.suggestions = nearest.iter().map(|name| name.trim_end_matches('.').to_owned()).collect();
    }
    if run.is_loop {
        let names: Vec<&str> = run.traces.iter().map(|trace| trace.name.as_str()).collect();
        outcome.reason = "alias-loop".to_owned();
        outcome.result = "NODATA".to_owned();
        outcome.cause = format!("the aliases form a loop: {} → {}", names.join(" → "), {
            run.traces.last().and_then(|trace| trace.alias.as_deref()).unwrap_or_default()
        });
    } else if let [_, .., last] = &run.traces[..] {
        outcome.cause = format!("an alias of {}: {}", last.name, outcome.cause);
    }
    outcome
}

/// Returns the data of the first records.
fn describe_records(trace: &Trace) -> String {
    let data: Vec<&str> = trace.records.iter().filter_map(|record| record.splitn(4, ' ').nth(3)).collect();
    let more = data.len().saturating_sub(4);
    let mut text = data[..data.len().min(4)].join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    format!("{text} (from {})", trace.by)
}

/// Returns the upstreams that get the query.
fn describe_upstreams(trace: &Trace) -> String {
    let lines = trace.steps.iter().filter(|step| step.plugin == trace.by).flat_map(|step| &step.lines);
    let upstreams: Vec<&str> = lines.filter_map(|line| line.strip_prefix("upstream ")).collect();
    match &upstreams[..] {
        [] => format!("{} asks an upstream", trace.by),
        _ => format!("an external name; its upstream decides: {}", upstreams.join("; ")),
    }
}

/// Returns the upstreams that the steps name, with their states.
fn upstream_lines(trace: &Trace) -> impl Iterator<Item = &str> {
    trace.steps.iter().flat_map(|step| &step.lines).filter_map(|line| line.strip_prefix("upstream "))
}

/// Reads the objects of the Service, and finds why it has no ready endpoint.
fn examine_objects(request: &ExplainRequest, run: &Run, report: &mut Report, objects: &dyn ObjectReader) {
    let Some(last) = run.traces.last() else { return };
    let Some(subject) = &last.subject else { return };
    let Subject { namespace: ns, .. } = subject;
    let read = |kind, name: Option<&str>, labels: Vec<(String, String)>| {
        let namespace = if kind == ObjectKind::Namespace { String::new() } else { ns.clone() };
        objects.read(&ObjectQuery { kind, namespace, name: name.map(str::to_owned), labels, limit: MAX_OBJECTS })
    };
    if report.reason == "no-such-namespace" {
        match read(ObjectKind::Namespace, Some(ns), Vec::new()) {
            Ok(found) if !found.is_empty() => {
                report.reason = "namespace-not-selected".to_owned();
                report.cause = format!(
                    "namespace {ns} exists, but the option 'namespace_labels' of the stanza does not select it"
                );
            }
            Ok(_) => {}
            Err(error) => report.notes.push(error),
        }
        return;
    }
    let Some(label) = &subject.service else { return };
    let service = match read(ObjectKind::Service, Some(label), Vec::new()) {
        Ok(found) => found.first().map(ServiceObject::of),
        Err(error) => return report.notes.push(error),
    };
    let Some(service) = service else { return };
    report.objects.push(service.line(ns));
    if report.reason == "no-such-service" && service.has_invalid_external_name() {
        report.reason = "bad-external-name".to_owned();
        report.cause = format!(
            "Service {ns}/{label} is of type ExternalName, and its externalName is not a DNS name: {:?}",
            service.external_name.unwrap_or_default()
        );
        return;
    }
    if report.reason == "no-such-service" {
        report.reason = "service-not-selected".to_owned();
        report.cause = format!(
            "Service {ns}/{label} exists, but the option 'labels' of the stanza does not select it, or the server has \
             not got it yet"
        );
        return;
    }
    if service.kind == "ExternalName" {
        return;
    }
    let of_service = vec![("kubernetes.io/service-name".to_owned(), label.clone())];
    let slices: Vec<SliceObject> = match read(ObjectKind::EndpointSlice, None, of_service) {
        Ok(found) => found.iter().map(SliceObject::of).collect(),
        Err(error) => return report.notes.push(error),
    };
    report.objects.extend(slices.iter().flat_map(|slice| slice.lines(ns)));
    let mut pods: Vec<PodObject> = Vec::new();
    if !service.selector.is_empty() {
        let selector = service.selector.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        match read(ObjectKind::Pod, None, selector) {
            Ok(found) => pods = found.iter().map(PodObject::of).collect(),
            Err(error) => return report.notes.push(error),
        }
        report.objects.extend(pods.iter().take(20).map(|pod| pod.line(ns)));
    }
    let others = || read(ObjectKind::Pod, None, Vec::new()).unwrap_or_default().iter().map(PodObject::of).collect();
    let why = why_not_ready(ns, &service, &slices, &pods, others);
    match (report.reason.as_str(), why) {
        ("no-ready-endpoint" | "empty-service", Some((reason, why))) => {
            let what = if report.reason == "empty-service" { " (ignore empty_service)" } else { "" };
            report.reason = reason.to_owned();
            report.cause = format!("{why}{what}");
        }
        ("no-such-endpoint", Some((reason, why))) => {
            report.reason = reason.to_owned();
            report.cause = why;
        }
        ("no-such-endpoint", None) => explain_endpoint(subject, &slices, &pods, report),
        ("resolves", Some((_, why))) => {
            report.reason = "resolves-without-endpoint".to_owned();
            report.cause = format!("{}, but connections to it fail: {why}", report.cause);
        }
        _ => {}
    }
    if report.reason == "only-ipv4" || report.reason == "only-ipv6" {
        report.cause = format!("{}; type {} has no record", report.cause, request.qtype);
    }
}

/// Explains why an endpoint has no name although others have: it may exist and not be ready.
fn explain_endpoint(subject: &Subject, slices: &[SliceObject], pods: &[PodObject], report: &mut Report) {
    let Some(wanted) = &subject.endpoint else { return };
    let dashed = |address: &str| address.replace(['.', ':'], "-");
    let mut endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    let is_wanted = |name: &str| name == wanted;
    let not_ready = endpoints.find(|endpoint| {
        !endpoint.is_ready
            && (endpoint.hostname.as_deref().is_some_and(is_wanted)
                || endpoint.addresses.iter().any(|address| dashed(address) == *wanted))
    });
    let target = not_ready.and_then(|endpoint| endpoint.target.as_deref()?.strip_prefix("Pod "));
    let pod = pods.iter().find(|pod| pod.name == target.unwrap_or(wanted));
    // The Pod says why.
    if let Some((pod, why)) = pod.and_then(|pod| Some((pod, pod.not_ready()?))) {
        report.reason = "endpoint-not-ready".to_owned();
        report.cause = format!("Pod {} is not ready: {why}", pod.name);
        report.suggestions.clear();
    } else if let Some(endpoint) = not_ready {
        let target = endpoint.target.clone().unwrap_or(endpoint.addresses.join(", "));
        report.reason = "endpoint-not-ready".to_owned();
        report.cause = format!("the endpoint {wanted} ({target}) is not ready");
        report.suggestions.clear();
    } else if pod.is_some() {
        report.cause.push_str(&format!(
            "; Pod {wanted} exists, but an endpoint has the name of its Pod only with spec.hostname and a spec.subdomain \
             that is the Service, or with the option 'endpoint_pod_names'"
        ));
    }
}

/// Returns why a Service has no ready endpoint, or `None` if it has one.
fn why_not_ready(
    ns: &str, service: &ServiceObject, slices: &[SliceObject], pods: &[PodObject], others: impl Fn() -> Vec<PodObject>,
) -> Option<(&'static str, String)> {
    let endpoints: Vec<_> = slices.iter().flat_map(|slice| &slice.endpoints).collect();
    if endpoints.iter().any(|endpoint| endpoint.is_ready) {
        return None;
    }
    let label = &service.name;
    if service.selector.is_empty() {
        return Some(match endpoints.len() {
            0 => {
                let text = format!(
                    "Service {ns}/{label} has no selector, and no EndpointSlice with the label \
                     kubernetes.io/service-name={label} has an endpoint"
                );
                ("no-endpoints", text)
            }
            1 => ("endpoints-not-ready", format!("the only endpoint of Service {ns}/{label} is not ready")),
            count => ("endpoints-not-ready", format!("none of the {count} endpoints of Service {ns}/{label} is ready")),
        });
    }
    let selector = format_labels(&service.selector);
    if pods.is_empty() {
        let mut text = format!("the selector {selector} of Service {ns}/{label} matches no Pod in namespace {ns}");
        if let Some(pod) = nearest_pod(&service.selector, &others()) {
            let labels: LabelMap = pod.labels.clone();
            let shown = labels.into_iter().filter(|(key, _)| service.selector.contains_key(key)).collect::<LabelMap>();
            let shown = if shown.is_empty() { format_labels(&pod.labels) } else { format_labels(&shown) };
            text.push_str(&format!("; Pod {} has {shown}", pod.name));
        }
        return Some(("no-matching-pod", text));
    }
    let not_ready: Vec<(&PodObject, String)> = pods.iter().filter_map(|pod| Some((pod, pod.not_ready()?))).collect();
    let is_not_ready = not_ready.len() == pods.len() && !service.publish_not_ready;
    if let ([(pod, why), ..], true) = (&not_ready[..], is_not_ready) {
        let which = match pods.len() {
            1 => "the only Pod".to_owned(),
            count => format!("all {count} Pods"),
        };
        let what = if pods.len() == 1 { "is" } else { "are" };
        let text = format!("{which} of Service {ns}/{label} {what} not ready: {}: {why}", pod.name);
        let reason = if pods.iter().all(|pod| pod.is_terminating) { "pods-terminating" } else { "pods-not-ready" };
        return Some((reason, text));
    }
    if service.publish_not_ready && pods.iter().all(|pod| pod.addresses.is_empty()) {
        return Some(("pods-without-address", format!("no Pod of Service {ns}/{label} has an address yet")));
    }
    if !endpoints.is_empty() {
        return Some(("endpoints-not-ready", format!("no endpoint of Service {ns}/{label} is ready")));
    }
    // Manifests without slices: the server derives them from the Pods.
    None
}

/// Returns the Pod whose labels are the most similar to a selector.
fn nearest_pod(selector: &LabelMap, pods: &[PodObject]) -> Option<PodObject> {
    let difference = |pod: &&PodObject| -> usize {
        let parts = selector.iter().map(|(key, value)| match pod.labels.get(key) {
            Some(have) if have == value => 0,
            Some(have) => 1 + distance(have, value),
            None => 100,
        });
        parts.sum()
    };
    pods.iter().filter(|pod| difference(pod) < 100 * selector.len().max(1)).min_by_key(difference).cloned()
}

/// Looks at the spelling of the name.
fn examine_name(request: &ExplainRequest, report: &mut Report, dry_run: &dyn Fn(&str) -> Option<Trace>) {
    if report.reason == "resolves" || report.reason == "resolves-without-endpoint" {
        let before = report.asked.iter().take_while(|(name, _)| *name != report.name).count();
        if before > 0 {
            report.notes.push(format!(
                "{} of {} names of the search list fail first; a final dot ({}) avoids their queries",
                before,
                report.asked.len(),
                report.name
            ));
        }
        return;
    }
    let Some(zone) = &request.zone else { return };
    let resolves = |name: &str| dry_run(name).filter(Trace::has_answer).is_some();
    let bare = request.name.trim_end_matches('.');
    if request.name.ends_with('.') && !bare.ends_with(zone.trim_end_matches('.')) {
        // A final dot turns the search list off.
        let candidates = Library::Glibc.names(&request.conf, bare).unwrap_or_default();
        if let Some(found) = candidates.iter().find(|name| resolves(name)) {
            report.reason = "final-dot".to_owned();
            report.cause = format!("the final dot of '{}' turns off the search list; {}", request.name, report.cause);
            report.suggestions.insert(0, found.trim_end_matches('.').to_owned());
        }
        return;
    }
    if !report.suggestions.is_empty() {
        return;
    }
    // A name with `svc` and another domain than the cluster's, or without a domain where the client does not search.
    let labels: Vec<&str> = bare.split('.').collect();
    if let Some(at) = labels.iter().position(|label| *label == "svc").filter(|at| *at >= 2) {
        let full = format!("{}.svc.{zone}", labels[..at].join("."));
        if full.trim_end_matches('.') != bare && resolves(&full) {
            let is_searched = report.asked.iter().any(|(name, _)| *name == full);
            if !is_searched {
                let suffix = labels[at + 1..].join(".");
                report.reason = if suffix.is_empty() { "not-searched" } else { "other-domain" }.to_owned();
                report.cause = if suffix.is_empty() {
                    let (dots, ndots) = (bare.matches('.').count(), request.conf.ndots());
                    format!("{} does not search {zone} for a name with {dots} dots (ndots:{ndots})", request.whose)
                } else {
                    format!("the domain of the cluster is {}, not {suffix}", zone.trim_end_matches('.'))
                };
            }
            report.suggestions.push(full.trim_end_matches('.').to_owned());
            return;
        }
    }
    // The search list of the client has no cluster domain, but the name is one of the cluster's.
    if let [name, ns] = labels[..] {
        let full = format!("{name}.{ns}.svc.{zone}");
        let is_searched = report.asked.iter().any(|(name, _)| *name == full);
        if !is_searched && resolves(&full) {
            report.reason = "not-searched".to_owned();
            report.cause = format!("the search list of {} does not have svc.{zone}", request.whose);
            report.suggestions.push(full.trim_end_matches('.').to_owned());
        }
    }
}

/// Returns a word of a command that a shell takes as it is: names come from clients.
fn shell_word(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    // Only a NUL cannot be quoted, and no name in text has one.
    shlex::try_quote(text).map(|word| word.into_owned()).unwrap_or_default()
}

/// Returns commands that look at the cause. They can be pasted.
fn next_commands(report: &Report, run: &Run) -> Vec<String> {
    let mut commands = Vec::new();
    let Some(last) = run.traces.last() else { return commands };
    if let Some(Subject { namespace: ns, service, .. }) = &last.subject {
        let (ns, service) = (shell_word(ns), shell_word(service.as_deref().unwrap_or_default()));
        match report.reason.as_str() {
            "no-such-namespace" | "namespace-not-selected" | "namespace-not-exposed" => {
                commands.push("kubectl get namespaces --show-labels".to_owned());
            }
            "no-such-service" | "service-not-selected" => {
                commands.push(format!("kubectl get services -n {ns} --show-labels"));
                if !service.is_empty() {
                    commands.push(format!("kubectl get services -A --field-selector metadata.name={service}"));
                }
            }
            "no-matching-pod" => {
                commands.push(format!("kubectl get service -n {ns} {service} -o wide"));
                commands.push(format!("kubectl get pods -n {ns} --show-labels"));
            }
            "pods-not-ready"
            | "pods-terminating"
            | "endpoints-not-ready"
            | "endpoint-not-ready"
            | "resolves-without-endpoint"
            | "no-endpoints"
            | "pods-without-address" => {
                commands.push(format!(
                    "kubectl get endpointslices -n {ns} -l kubernetes.io/service-name={service} -o yaml"
                ));
                commands.extend(report.objects.iter().filter_map(|line| {
                    let pod = line.strip_prefix("Pod ")?.split(':').next()?.split('/').nth(1)?;
                    line.contains("not ready").then(|| format!("kubectl describe pod -n {ns} {pod}"))
                }));
                commands.truncate(4);
            }
            "resolves" => {}
            _ if !service.is_empty() => commands.push(format!("kubectl get service -n {ns} {service} -o yaml")),
            _ => {}
        }
    }
    match last.end {
        _ if last.end == TraceEnd::Upstream || report.reason == "cached-failure" => {
            commands.extend(upstream_lines(last).take(3).filter_map(|line| {
                let (upstream, rest) = line.split_once(" (")?;
                let (host, port) = upstream.rsplit_once(':')?;
                let host = host.trim_matches(['[', ']']);
                // Only kdig has QUIC.
                let (program, option) = match rest.split_once(')')?.0 {
                    "DNS over TLS" => ("dig", " +tls"),
                    "DNS over HTTPS" => ("dig", " +https"),
                    "DNS over QUIC" => ("kdig", " +quic"),
                    _ => ("dig", ""),
                };
                Some(format!("{program} @{host} -p {port}{option} {} {}", shell_word(&last.name), last.qtype))
            }));
        }
        TraceEnd::NoBlock | TraceEnd::NoPlugin => {
            commands.push("kubectl get configmap -n kube-system coredns -o yaml".to_owned());
        }
        _ => {}
    }
    if let [suggestion, ..] = &report.suggestions[..] {
        commands.push(format!("clusterdns explain {} {}", shell_word(suggestion), report.qtype));
    }
    commands
}
