//! The case of Kubernetes' end-to-end suite with very many Services (`test/e2e/network/dns_scale_records.go`). The
//! suite creates 10,000 of them, for which the API server needs minutes on two cores; `CLUSTERDNS_NODE_SERVICES=10000`
//! does that here, too.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::Test;
use super::kubelet::restarts;
use super::live::objects::{namespace, service};
use super::live::wait::{SOON, eventually};
use super::world::{VIP, World};

/// The Services, unless the environment says how many.
const SERVICES: usize = 2_000;
/// The namespaces that they are in.
const NAMESPACES: usize = 2;
/// The suite looks up one of this many.
const STEP: usize = 20;
/// The requests to the API server that create Services at the same time.
const THREADS: usize = 8;

/// The cluster is not used afterwards.
pub fn tests() -> Vec<Test> {
    vec![Test::new("e2e: Should answer DNS query for maximum number of services per cluster", || {
        let mut world = super::world();
        very_many_services(world.as_mut().expect("started"));
        *world = None;
    })]
}

/// Creates the Services, and then looks some of them up from both nodes.
fn very_many_services(world: &mut World) {
    let count = std::env::var("CLUSTERDNS_NODE_SERVICES");
    let count = count.map_or(SERVICES, |text| text.parse().expect("a number of Services"));
    let mode = world.mode();
    // Earlier cases kill servers.
    let before = restarts(&world.two_pods());
    // It would write its rules again and again.
    world.proxy = None;
    let spaces: Vec<String> = (0..NAMESPACES).map(|number| format!("performancedns-{number}")).collect();
    for space in &spaces {
        world.cluster.api.apply(&namespace(space, &json!({})));
    }
    let begin = Instant::now();
    let next = AtomicUsize::new(0);
    let create = |number: usize| {
        let object = service(&spaces[number % NAMESPACES], &format!("svc-{number}"), &[("", 80, "TCP")], &json!({}));
        eventually("a Service is created", SOON, || {
            world.cluster.api.create(&object).map_err(|refused| format!("{refused:?}"))
        })["spec"]["clusterIP"]
            .as_str()
            .expect("an address")
            .to_owned()
    };
    let created: BTreeMap<usize, String> = std::thread::scope(|scope| {
        let worker = || {
            std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < count))
                .map(|number| (number, create(number)))
                .collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    println!("{count} Services created in {:?}", begin.elapsed());
    world.set_proxy(mode);
    world.wait_for_dns();
    let asked: Vec<usize> = (0..count).step_by(STEP).collect();
    let name = |number: &usize| format!("svc-{number}.{}.svc.cluster.local", spaces[number % NAMESPACES]);
    let wanted: Vec<&str> = asked.iter().map(|number| created[number].as_str()).collect();
    let file = world.folder.join("very-many-names");
    std::fs::write(&file, asked.iter().map(|number| name(number) + "\n").collect::<String>()).expect("a file");
    for client in &world.clients {
        eventually("every Service that is looked up has its address", SOON, || {
            let mut command = client.command("dig");
            command.arg(format!("@{VIP}")).args(["+short", "+tries=1", "+time=2", "-f"]).arg(&file);
            let text = String::from_utf8_lossy(&command.output().expect("dig runs").stdout).into_owned();
            if text.lines().eq(wanted.iter().copied()) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(200));
            let right = text.lines().zip(&wanted).filter(|(seen, wanted)| seen == *wanted).count();
            Err(format!("{right} of {} are right", wanted.len()))
        });
    }
    assert_eq!(before, restarts(&world.two_pods()), "a server has ended");
    super::limits::check_memory(world);
}
