//! DNS as Pods see it: two nodes in network namespaces with a real API server, its controllers and kube-proxy; the
//! server in Pods of the Deployment of `deploy/base`, behind the virtual address 10.96.0.10; and many clients in other
//! Pods.
//!
//! * The whole run is in namespaces of its own (`tests/node/machine.rs`): nothing is left behind, and no packet leaves.
//! * Without root or a program the tests are ignored with the reason. With `CI=true` that is a failure.
//! * `TESTBED=DIRECTORY` is the place of the built parts, as for `tests/live.rs`.

#[path = "node/bad.rs"]
mod bad;
#[path = "node/clients.rs"]
mod clients;
#[path = "node/configs.rs"]
mod configs;
#[path = "node/e2e.rs"]
mod e2e;
#[path = "node/kubelet.rs"]
mod kubelet;
#[path = "node/layouts.rs"]
mod layouts;
#[path = "node/limits.rs"]
mod limits;
#[path = "node/local.rs"]
mod local;
#[path = "node/machine.rs"]
mod machine;
#[path = "node/names.rs"]
mod names;
#[path = "node/net.rs"]
mod net;
#[path = "node/policies.rs"]
mod policies;
#[path = "node/proxy.rs"]
mod proxy;
#[path = "node/roles.rs"]
mod roles;
#[path = "node/rollout.rs"]
mod rollout;
#[path = "node/scale.rs"]
mod scale;
#[path = "node/seccomp.rs"]
mod seccomp;
#[path = "node/table.rs"]
mod table;
#[path = "node/vip.rs"]
mod vip;
#[path = "node/world.rs"]
mod world;

/// Parts of the live tests.
#[expect(dead_code, reason = "tests/live.rs uses the rest")]
mod live {
    #[path = "../live/api.rs"]
    pub mod api;
    #[path = "../live/ask.rs"]
    pub mod ask;
    #[path = "../live/certificates.rs"]
    pub mod certificates;
    #[path = "../live/cluster.rs"]
    pub mod cluster;
    #[path = "../live/objects.rs"]
    pub mod objects;
    #[path = "../live/parts.rs"]
    pub mod parts;
    #[path = "../live/ports.rs"]
    pub mod ports;
    #[path = "../live/process.rs"]
    pub mod process;
    #[path = "../live/server.rs"]
    pub mod server;
    #[path = "../live/shop.rs"]
    pub mod shop;
    #[path = "../live/wait.rs"]
    pub mod wait;
}

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use libtest_mimic::{Arguments, Failed, Trial};
use parking_lot::{Mutex, MutexGuard};

use net::Layout;
use world::World;

/// A test: its name and its function.
pub struct Test {
    name: String,
    run: Box<dyn FnOnce() -> Result<(), Failed> + Send>,
    /// Why this machine cannot run it; that is no failure.
    missing: Option<String>,
}

impl Test {
    fn new(name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> Test {
        Test {
            name: name.into(),
            missing: None,
            run: Box::new(move || {
                catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
                    // The next test needs a cluster in its usual state.
                    WORLD.lock().take();
                    let text = panic.downcast_ref::<String>().cloned();
                    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                    Failed::from(text.unwrap_or_else(|| "a panic".to_owned()))
                })
            }),
        }
    }

    /// Leaves it out for a reason, if there is one.
    fn unless(self, missing: Option<String>) -> Test {
        Test { missing, ..self }
    }
}

/// The cluster that tests share; one test at a time uses it.
static WORLD: Mutex<Option<World>> = Mutex::new(None);

/// Returns the cluster, which the first call starts.
fn world() -> MutexGuard<'static, Option<World>> {
    let mut world = WORLD.lock();
    if world.is_none() {
        *world = Some(start(Layout::Routed));
    }
    world
}

/// Starts a cluster with another network in the place of the one that runs.
fn another_world(layout: Layout) -> MutexGuard<'static, Option<World>> {
    let mut world = WORLD.lock();
    // There is one network at a time.
    *world = None;
    *world = Some(start(layout));
    world
}

fn start(layout: Layout) -> World {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    World::start(layout, machine::folder().join(format!("{number}-{layout:?}")))
}

fn main() -> ExitCode {
    if let Some(code) = roles::play() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    // Each of the last ones needs a cluster of its own, or leaves none behind.
    let groups = [
        rollout::tests(),
        bad::tests(),
        limits::tests(),
        e2e::tests(),
        configs::tests(),
        local::tests(),
        vip::tests(),
        scale::tests(),
        layouts::tests(),
    ];
    let tests: Vec<Test> = groups.into_iter().flatten().collect();
    let is_inside = machine::is_inside();
    let matches = |test: &Test| arguments.filter.as_ref().is_none_or(|filter| test.name.contains(filter));
    let is_outside = !is_inside && !arguments.list && tests.iter().any(matches);
    let missing =
        if is_outside { machine::missing().or_else(clients::missing).or_else(live::parts::missing) } else { None };
    if is_outside && missing.is_none() {
        machine::sweep();
        // Inside there is no network.
        live::parts::path("kube-proxy");
        clients::build();
        return machine::enter();
    }
    if is_inside {
        machine::prepare();
    }
    // All of them use the cluster.
    arguments.test_threads = Some(1);
    let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let trials = tests.into_iter().map(|test| match missing.clone() {
        None if test.missing.is_some() => {
            let why = test.missing.unwrap_or_default();
            Trial::test(test.name, test.run).with_kind(why).with_ignored_flag(true)
        }
        None => Trial::test(test.name, test.run),
        Some(why) if is_ci => Trial::test(test.name, move || Err(why.into())),
        Some(why) => Trial::test(test.name, test.run).with_kind(why).with_ignored_flag(true),
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    WORLD.lock().take();
    if is_inside {
        if conclusion.has_failed() {
            eprintln!("logs: {}", machine::folder().display());
        } else {
            let _ = std::fs::remove_dir_all(machine::folder());
        }
    }
    conclusion.exit_code()
}
