//! Objects as JSON with one invalid value: the answers are those of the same objects without that value, from manifests
//! and from a watch.

use std::path::Path;

use clusterdns::cluster::entry::EndpointFields;
use clusterdns::cluster::model::Kind;
use clusterdns::cluster::{Event, View};
use clusterdns::source::Selection;
use clusterdns::source::manifests::Snapshot;
use clusterdns::source::watch::decode::{self, ObjectChange, WatchEvent};
use serde_json::{Map, Value, json};

use super::Choices;
use super::answers::{Subject, check_same_answers};
use super::cluster::{HOSTNAMES, NAMESPACES, POD_NAMES, SERVICES, new_index, view};

/// Everything that an index can keep of an endpoint.
const ALL: EndpointFields = EndpointFields { pods: true, zones: true };
/// Addresses as an object may spell them.
const ADDRESSES: [&str; 8] =
    ["10.0.0.1", "10.0.0.2", "010.000.0.03", "10.0.0.4", "fd00::", "fd00::1", "::ffff:10.0.0.1", "::ffff:10.0.00.02"];

/// Checks objects generated from bytes, one value of which is replaced by an invalid one.
pub fn check_bad_value(bytes: &[u8], settings: &[u8]) {
    let mut choices = Choices::new(bytes);
    let objects: Vec<Value> = (0..1 + choices.below(6)).map(|_| object(&mut choices)).collect();
    let at = choices.below(objects.len());
    let paths = paths(&objects[at]);
    let path = &paths[usize::from(choices.number()) % paths.len()];
    let (mut bad, mut without) = (objects.clone(), objects);
    let value = value_at(&mut bad[at], path);
    let replacement = bad_value(value, &mut choices);
    let what = format!("{path:?}: {value} is {replacement} in {}", without[at]);
    *value = replacement;
    remove(&mut without[at], path);

    let mut view_choices = Choices::new(settings);
    let view = view(&mut view_choices);
    for read in [from_manifest as fn(&[Value]) -> Vec<Event>, from_watch] {
        let (bad, without) = (read(&bad), read(&without));
        // The same events give the same answers.
        if bad != without {
            eprintln!("{what}");
            check_same_answers(&subject(bad, &view), &subject(without, &view));
        }
    }
}

fn subject(events: Vec<Event>, view: &View) -> Subject {
    Subject::new(new_index(ALL, events).index(), view.clone())
}

/// Returns the events of a manifest with these objects.
fn from_manifest(objects: &[Value]) -> Vec<Event> {
    let selection = Selection { pods: true, endpoints: true, ..Selection::default() };
    let text = json!({"kind": "List", "apiVersion": "v1", "items": objects}).to_string();
    Snapshot::of_text(Path::new("all.json"), &text).events(&selection).collect()
}

/// Returns the events of watches that list these objects.
fn from_watch(objects: &[Value]) -> Vec<Event> {
    let mut events: Vec<Event> = Kind::ALL.into_iter().map(Event::Begin).collect();
    for object in objects {
        let kind = Kind::ALL.into_iter().find(|kind| object["kind"] == kind.name()).expect("one of the kinds");
        let line = json!({"type": "ADDED", "object": object}).to_string();
        let Ok(WatchEvent::Change { change, .. }) = decode::decode_event(kind, ALL, line.as_bytes()) else {
            panic!("no change: {line}");
        };
        events.extend(match change {
            ObjectChange::Upsert { object, .. } => Some(Event::Upsert(object)),
            ObjectChange::Terminate(key, _) => Some(Event::Terminate(key)),
            ObjectChange::Remove(key, _) => Some(Event::Remove(kind, key)),
            ObjectChange::Bad { key, .. } => key.map(|key| Event::Retain(kind, key)),
        });
    }
    events.extend(Kind::ALL.into_iter().map(Event::End));
    events
}

//--- Values

/// A step into a value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Element(usize),
}

/// Returns the paths of all values of an object, except those that identify it.
fn paths(object: &Value) -> Vec<Vec<Step>> {
    fn walk(value: &Value, path: &mut Vec<Step>, all: &mut Vec<Vec<Step>>) {
        let inner: Vec<(Step, &Value)> = match value {
            Value::Object(map) => map.iter().map(|(key, value)| (Step::Key(key.clone()), value)).collect(),
            Value::Array(list) => list.iter().enumerate().map(|(at, value)| (Step::Element(at), value)).collect(),
            _ => Vec::new(),
        };
        for (step, value) in inner {
            path.push(step);
            all.push(path.clone());
            walk(value, path, all);
            path.pop();
        }
    }
    let mut all = Vec::new();
    walk(object, &mut Vec::new(), &mut all);
    let key = |step: Option<&Step>, keys: &[&str]| matches!(step, Some(Step::Key(key)) if keys.contains(&key.as_str()));
    all.retain(|path| {
        let identity = key(path.first(), &["metadata"]) && path.len() == 2 && key(path.get(1), &["name", "namespace"]);
        !identity && !key(path.first(), &["kind", "apiVersion"])
    });
    all
}

fn value_at<'a>(value: &'a mut Value, path: &[Step]) -> &'a mut Value {
    path.iter().fold(value, |value, step| match step {
        Step::Key(key) => &mut value[key.as_str()],
        Step::Element(at) => &mut value[*at],
    })
}

fn remove(value: &mut Value, path: &[Step]) {
    let (last, path) = path.split_last().expect("a path has a step");
    match (value_at(value, path), last) {
        (Value::Object(map), Step::Key(key)) => drop(map.remove(key)),
        (Value::Array(list), Step::Element(at)) => drop(list.remove(*at)),
        (other, _) => panic!("{other} has no parts"),
    }
}

/// Returns an invalid replacement for a value: of another type, out of range, or garbage.
fn bad_value(good: &Value, choices: &mut Choices<'_>) -> Value {
    let garbage = ["???", "", "-", "A B", "10.0.0.300", "fe80::1%eth0", "10.0.0.1/24", "ü", "a..b"];
    let mut values = vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(65_536),
        json!(80.5),
        json!(u64::MAX),
        json!(1e300),
        json!([]),
        json!([{"a": 1}, 5]),
        json!({}),
        json!({"a": ["b"], "name": {"x": 1}, "ip": 1}),
        json!(garbage[choices.below(garbage.len())]),
        json!("x y ".repeat(200)),
    ];
    values.retain(|bad| match (good, bad) {
        (Value::Bool(_), Value::Bool(_)) | (Value::Array(_), Value::Array(_)) => false,
        // A map is not of another type, and unknown fields are ignored.
        (Value::Object(_), Value::Object(_)) => false,
        _ => true,
    });
    values.swap_remove(choices.below(values.len()))
}

//--- Objects

fn some<T>(choices: &mut Choices<'_>, most: usize, mut make: impl FnMut(&mut Choices<'_>) -> T) -> Vec<T> {
    (0..choices.below(most + 1)).map(|_| make(choices)).collect()
}

/// Adds a field, or omits it.
fn add(
    map: &mut Map<String, Value>, choices: &mut Choices<'_>, field: &str, make: impl FnOnce(&mut Choices<'_>) -> Value,
) {
    // Omitted once in eight times, and never after the end of the bytes.
    if choices.below(8) != 7 {
        map.insert(field.to_owned(), make(choices));
    }
}

fn port(choices: &mut Choices<'_>) -> Value {
    let mut port = Map::new();
    add(&mut port, choices, "name", |choices| json!(choices.pick(&["http", "dns", ""])));
    add(&mut port, choices, "protocol", |choices| json!(choices.pick(&["TCP", "UDP", "SCTP"])));
    add(&mut port, choices, "port", |choices| json!(choices.pick(&[80, 53, 65_535])));
    let targets = [json!(8_080), json!("http"), json!("nope")];
    add(&mut port, choices, "targetPort", |choices| targets[choices.below(3)].clone());
    Value::Object(port)
}

fn metadata(choices: &mut Choices<'_>, name: &str, ns: Option<&str>, labels: Value) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(name));
    ns.map(|ns| metadata.insert("namespace".to_owned(), json!(ns)));
    metadata.insert("labels".to_owned(), labels);
    metadata.insert("resourceVersion".to_owned(), json!("7"));
    metadata
        .insert("annotations".to_owned(), json!({"endpoints.kubernetes.io/last-change-trigger-time": "x", "a": "b"}));
    if choices.below(8) == 7 {
        metadata.insert("deletionTimestamp".to_owned(), json!("2026-01-01T00:00:00Z"));
    }
    Value::Object(metadata)
}

fn addresses(choices: &mut Choices<'_>) -> Value {
    json!(some(choices, 3, |choices| choices.pick(&ADDRESSES)))
}

fn object(choices: &mut Choices<'_>) -> Value {
    // Most objects belong to one Service, so that they are related.
    let ns = NAMESPACES[choices.below(8) / 7];
    match choices.below(8) {
        0..3 => service(choices, ns),
        3..5 => slice(choices, ns),
        5..7 => pod(choices, ns),
        _ => json!({"kind": "Namespace", "metadata": metadata(choices, ns, None, json!({"team": "x"}))}),
    }
}

fn service(choices: &mut Choices<'_>, ns: &str) -> Value {
    let mut spec = Map::new();
    let types = ["ClusterIP", "ClusterIP", "ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    add(&mut spec, choices, "type", |choices| json!(choices.pick(&types)));
    add(&mut spec, choices, "clusterIP", |choices| json!(choices.pick(&["None", "None", "10.0.0.1", "fd00::1"])));
    if choices.below(4) == 3 {
        add(&mut spec, choices, "clusterIPs", |choices| match choices.below(3) {
            0 => json!(["None"]),
            _ => addresses(choices),
        });
    }
    add(&mut spec, choices, "externalName", |choices| json!(choices.pick(&["example.org", "web.a.svc.cluster.local"])));
    add(&mut spec, choices, "ports", |choices| json!(some(choices, 3, port)));
    add(&mut spec, choices, "selector", |_| json!({"app": "x"}));
    add(&mut spec, choices, "publishNotReadyAddresses", |choices| json!(choices.flag()));
    if choices.flag() {
        let families = [json!(["IPv4"]), json!(["IPv6", "IPv4"])];
        add(&mut spec, choices, "ipFamilies", |choices| families[choices.below(2)].clone());
    }
    add(&mut spec, choices, "ipFamilyPolicy", |choices| json!(choices.pick(&["SingleStack", "PreferDualStack"])));
    let name = SERVICES[choices.below(4) / 3];
    json!({"kind": "Service", "apiVersion": "v1", "metadata": metadata(choices, name, Some(ns), json!({"l": "m"})), "spec": spec})
}

fn slice(choices: &mut Choices<'_>, ns: &str) -> Value {
    let service = SERVICES[choices.below(4) / 3];
    let endpoints = some(choices, 3, |choices| {
        let mut endpoint = Map::new();
        add(&mut endpoint, choices, "addresses", addresses);
        add(&mut endpoint, choices, "conditions", |choices| json!({"ready": !choices.flag(), "serving": true}));
        add(&mut endpoint, choices, "hostname", |choices| json!(choices.pick(&HOSTNAMES)));
        add(&mut endpoint, choices, "targetRef", |choices| json!({"kind": "Pod", "name": choices.pick(&POD_NAMES)}));
        add(&mut endpoint, choices, "zone", |choices| json!(choices.pick(&["z", "z.eu"])));
        endpoint
    });
    let labels = json!({"kubernetes.io/service-name": service, "l": "m"});
    json!({
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": metadata(choices, choices_name(service), Some(ns), labels),
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": some(choices, 3, port),
    })
}

/// Returns the name of a Service's slice.
fn choices_name(service: &str) -> &'static str {
    if service == SERVICES[0] { "s0" } else { "s1" }
}

fn pod(choices: &mut Choices<'_>, ns: &str) -> Value {
    let container = |choices: &mut Choices<'_>| {
        json!({
            "restartPolicy": "Always",
            "ports": some(choices, 2, |choices| json!({
                "name": "http", "protocol": choices.pick(&["TCP", "UDP"]), "containerPort": choices.pick(&[8_080, 9_090]),
            })),
        })
    };
    let mut spec = Map::new();
    add(&mut spec, choices, "hostname", |choices| json!(choices.pick(&HOSTNAMES)));
    add(&mut spec, choices, "subdomain", |choices| json!(choices.pick(&SERVICES)));
    add(&mut spec, choices, "containers", |choices| json!(some(choices, 2, container)));
    add(&mut spec, choices, "initContainers", |choices| json!(some(choices, 1, container)));
    let mut status = Map::new();
    add(&mut status, choices, "phase", |choices| json!(choices.pick(&["Running", "Running", "Pending", "Succeeded"])));
    add(&mut status, choices, "podIP", |choices| json!(choices.pick(&ADDRESSES)));
    add(&mut status, choices, "podIPs", |choices| {
        json!(some(choices, 2, |choices| json!({"ip": choices.pick(&ADDRESSES)})))
    });
    if choices.below(4) == 3 {
        let ready = choices.pick(&["True", "False"]);
        status.insert(
            "conditions".to_owned(),
            json!([{"type": "Ready", "status": ready}, {"type": "X", "status": "True"}]),
        );
    }
    let name = choices.pick(&["p0", "p1"]);
    json!({"kind": "Pod", "metadata": metadata(choices, name, Some(ns), json!({"app": "x", "b": "c"})), "spec": spec, "status": status})
}
