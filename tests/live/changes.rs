//! A thousand random changes of every kind in several namespaces. Then the answers are those of CoreDNS, and again
//! after the API server was killed and more has changed.

use fastrand::Rng;
use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::Test;
use super::api::{Api, Refused};
use super::cluster::Cluster;
use super::compare::{Depth, Pair};
use super::corefiles::named;
use super::marker::Marker;
use super::objects::{Pod, Port, labelled, namespace, service, slice};
use super::questions::Objects;
use super::shared::GUARDED;
use super::wait::{LATER, SOON};

/// The number of namespaces; each is changed by a thread.
const SPACES: usize = 4;
/// The number of changes in each.
const CHANGES: usize = 250;
/// The number of changes in each after the relist.
const MORE: usize = 50;
/// The number of queries for each Corefile, since there are more names now.
const DEPTH: Depth = Depth::Some(6_000);

pub fn tests() -> Vec<Test> {
    vec![Test::new("changes: a thousand, and more after a relist", thousand)]
}

fn thousand() -> Result<(), Failed> {
    // `SEED=N` repeats the same changes.
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("changes: SEED={seed}");
    let with_seed = |error: Failed| format!("SEED={seed}: {}", error.message().unwrap_or_default());
    let mut cluster = GUARDED.lock();
    let corefiles =
        ["pods verified", "endpoint_pod_names", "labels", "namespace_labels", "ignore empty_service", "zonal"];
    let pair = Pair::start(&cluster, &corefiles.map(named));
    let mut hands: Vec<Hand> = (0..SPACES).map(|number| Hand::new(&cluster, number, seed)).collect();
    change(&mut hands, CHANGES);
    settle(&cluster, &pair, SOON);
    pair.compare(&Objects::of(&cluster.api), DEPTH).map_err(with_seed)?;
    cluster.restart_api_server();
    change(&mut hands, MORE);
    settle(&cluster, &pair, LATER);
    pair.compare(&Objects::of(&cluster.api), DEPTH).map_err(with_seed)?;
    for hand in &mut hands {
        let _ = hand.close();
    }
    Ok(())
}

fn change(hands: &mut [Hand], count: usize) {
    std::thread::scope(|scope| {
        for hand in hands {
            scope.spawn(move || (0..count).for_each(|_| hand.change()));
        }
    });
}

/// Waits until both servers have the last change.
fn settle(cluster: &Cluster, pair: &Pair, deadline: std::time::Duration) {
    let marker = Marker::set(&cluster.api);
    pair.wait_for(&marker, deadline);
    marker.remove(&cluster.api);
}

/// Changes a namespace.
struct Hand {
    api: Api,
    chance: Rng,
    number: usize,
    ns: String,
}

/// The maximum number of Pods in a namespace.
const PODS: u8 = 10;
/// The ports to choose from.
const PORTS: [Port; 5] =
    [("http", 80, "TCP"), ("https", 443, "TCP"), ("dns", 53, "UDP"), ("dns-tcp", 53, "TCP"), ("x", 9000, "SCTP")];

impl Hand {
    fn new(cluster: &Cluster, number: usize, seed: u64) -> Hand {
        let chance = Rng::with_seed(seed.wrapping_add(number as u64));
        let hand = Hand { api: cluster.api.clone(), chance, number, ns: format!("chance-{number}") };
        hand.api.apply(&namespace(&hand.ns, &json!({})));
        hand
    }

    /// Makes a change. If the API server rejects it, there is no change.
    fn change(&mut self) {
        let ns = self.ns.clone();
        let done = match self.chance.u8(..100) {
            0..20 => self.put_service(),
            20..28 => self.alter_service(),
            28..36 => {
                let name = self.service_name();
                self.api.delete("Service", &ns, &name)
            }
            36..56 => self.put_slice(),
            56..64 => {
                let name = self.slice_name();
                self.api.delete("EndpointSlice", &ns, &name)
            }
            64..82 => self.put_pod(),
            82..92 => {
                let name = self.pod_name();
                self.api.delete("Pod", &ns, &name)
            }
            92..97 => self.label_namespace(),
            97..98 => self.close(),
            _ => self.api.create(&namespace(&ns, &json!({}))),
        };
        let expected = [0, 403, 404, 409, 422];
        if let Err(Refused { status, message }) = done {
            assert!(expected.contains(&status), "{status} {message}");
        }
    }

    /// Removes everything; the namespace disappears later. Pods are deleted first and immediately: a Pod that is being
    /// deleted has names only in a server that has seen it before, so that two servers could differ correctly.
    fn close(&mut self) -> Result<Value, Refused> {
        for number in 0..PODS {
            let _ = self.api.delete("Pod", &self.ns, &format!("p{number}"));
        }
        self.api.delete("Namespace", "", &self.ns)
    }

    fn service_name(&mut self) -> String {
        format!("s{}", self.chance.u8(..12))
    }

    fn slice_name(&mut self) -> String {
        format!("e{}", self.chance.u8(..8))
    }

    fn pod_name(&mut self) -> String {
        format!("p{}", self.chance.u8(..PODS))
    }

    fn app(&mut self) -> String {
        format!("app-{}", self.chance.u8(..4))
    }

    /// Returns `tier=front` for two of three.
    fn tiered(&mut self, object: Value) -> Value {
        if self.chance.u8(..3) > 0 { labelled(object, &[("tier", "front")]) } else { object }
    }

    fn ports(&mut self) -> Vec<Port> {
        let count = self.chance.usize(1..=PORTS.len());
        self.chance.choose_multiple(PORTS, count)
    }

    /// Creates a Service of some kind, or replaces the one with its name.
    fn put_service(&mut self) -> Result<Value, Refused> {
        let ns = self.ns.clone();
        let mut name = self.service_name();
        let app = self.app();
        let mut ports = self.ports();
        let spec = match self.chance.u8(..10) {
            0..2 => json!({"selector": {"app": app}}),
            2 => json!({}),
            3..5 => json!({"clusterIP": "None", "selector": {"app": app}, "ipFamilyPolicy": "PreferDualStack"}),
            5..7 => json!({"clusterIP": "None"}),
            7 => {
                json!({"selector": {"app": app}, "ipFamilyPolicy": "RequireDualStack", "externalIPs": ["203.0.113.9"]})
            }
            8 => json!({"type": "LoadBalancer", "selector": {"app": app}, "publishNotReadyAddresses": true}),
            _ => {
                name = format!("alias-{}", self.chance.u8(..3));
                ports = Vec::new();
                let target = match self.chance.u8(..3) {
                    0 => "outside.example".to_owned(),
                    _ => format!("{}.{ns}.svc.cluster.local", self.service_name()),
                };
                json!({"type": "ExternalName", "externalName": target})
            }
        };
        let object = service(&ns, &name, &ports, &spec);
        let object = self.tiered(object);
        self.api.try_apply(&object).or_else(|refused| match refused.status {
            // The old kind cannot be changed into the new one.
            422 => self.api.delete("Service", &ns, &name).and_then(|_| self.api.try_apply(&object)),
            _ => Err(refused),
        })
    }

    fn alter_service(&mut self) -> Result<Value, Refused> {
        let fields = match self.chance.u8(..3) {
            0 => json!({"spec": {"publishNotReadyAddresses": self.chance.bool()}}),
            1 => json!({"metadata": {"labels": {"tier": if self.chance.bool() { "front" } else { "back" }}}}),
            _ => json!({"spec": {"selector": {"app": self.app()}}}),
        };
        let ns = self.ns.clone();
        let name = self.service_name();
        self.api.try_merge("Service", &ns, &name, &fields)
    }

    fn put_slice(&mut self) -> Result<Value, Refused> {
        let ns = self.ns.clone();
        let service = self.service_name();
        let name = self.slice_name();
        // The address family of a slice is immutable.
        let is_six = name.ends_with(['2', '5']);
        let count = self.chance.usize(..5);
        let endpoints: Value = (0..count).map(|_| self.endpoint(is_six)).collect();
        let ports = self.ports();
        let object = slice(&ns, &service, &name, if is_six { "IPv6" } else { "IPv4" }, &endpoints, &ports);
        let object = self.tiered(object);
        self.api.try_apply(&object)
    }

    fn endpoint(&mut self, is_six: bool) -> Value {
        // Few enough that Services share some.
        let number = self.chance.u8(1..40);
        let address = if is_six {
            format!("2001:db8:{}::{number:x}", self.number)
        } else {
            format!("198.18.{}.{number}", self.number)
        };
        let mut endpoint = json!({"addresses": [address], "conditions": {"ready": self.chance.u8(..4) > 0}});
        if self.chance.u8(..3) == 0 {
            endpoint["hostname"] = format!("h{number}").into();
        }
        if self.chance.bool() {
            endpoint["zone"] = if self.chance.bool() { "zone-a" } else { "zone-b" }.into();
        }
        if self.chance.u8(..3) == 0 {
            endpoint["targetRef"] = json!({"kind": "Pod", "name": format!("target-{number}"), "namespace": self.ns});
        }
        endpoint
    }

    /// Creates a Pod, or changes the state of an existing one.
    fn put_pod(&mut self) -> Result<Value, Refused> {
        let name = self.pod_name();
        let app = self.app();
        let address = self.chance.u8(1..30);
        let (four, six) =
            (format!("10.245.{}.{address}", self.number), format!("fd00:10:245:{}::{address:x}", self.number));
        let ips: &[&str] = if self.chance.bool() { &[&four, &six] } else { &[&four] };
        let mut pod = Pod::new(&self.ns, &name, &app, ips);
        pod.ready = self.chance.u8(..4) > 0;
        pod.phase =
            self.chance.choice(["Running", "Running", "Running", "Pending", "Succeeded", "Failed"]).expect("one");
        let object = self.tiered(pod.object());
        // Its label app is that of its creation.
        let _ = self.api.create(&object);
        self.api.try_set_status("Pod", &self.ns, &name, &pod.status())
    }

    fn label_namespace(&mut self) -> Result<Value, Refused> {
        let team = if self.chance.bool() { "store" } else { "db" };
        self.api.try_merge("Namespace", "", &self.ns, &json!({"metadata": {"labels": {"team": team}}}))
    }
}
