//! The program in a real cluster, beside CoreDNS. etcd, Kubernetes' API server and its controllers run on loopback;
//! they are built from pinned sources when they are first needed (`tests/live/build`, which takes minutes and needs
//! Go). No kubelet and no network are needed. Each test is one line of the list; tests share clusters.
//!
//! * `TESTBED=DIRECTORY` is the place of the built parts, for several checkouts; the default is `.testbed`.
//! * Without Go the tests are ignored with a message. With `CI=true` that is a failure.
//! * `SUBJECT_IS_COREDNS=1` runs CoreDNS in place of this program. A test that fails then has an error, or checks an
//!   intended difference.

#[path = "live/access.rs"]
mod access;
#[path = "live/alike.rs"]
mod alike;
#[path = "live/allowed.rs"]
mod allowed;
#[path = "live/api.rs"]
mod api;
#[path = "live/ask.rs"]
mod ask;
#[path = "live/autopaths.rs"]
mod autopaths;
#[path = "support/broken_names.rs"]
mod broken_names;
#[path = "live/certificates.rs"]
mod certificates;
#[path = "live/changes.rs"]
mod changes;
#[path = "live/cluster.rs"]
mod cluster;
#[path = "live/compare.rs"]
mod compare;
#[path = "live/corefiles.rs"]
mod corefiles;
#[path = "live/deploy.rs"]
mod deploy;
#[path = "live/etcd.rs"]
mod etcd;
#[path = "live/explanations.rs"]
mod explanations;
#[path = "live/following.rs"]
mod following;
#[path = "live/geoip.rs"]
mod geoip;
#[path = "live/grpc.rs"]
mod grpc;
#[path = "live/lines.rs"]
mod lines;
#[path = "live/marker.rs"]
mod marker;
#[path = "live/metrics.rs"]
mod metrics;
#[path = "live/objects.rs"]
mod objects;
#[path = "live/outages.rs"]
mod outages;
#[path = "live/outside.rs"]
mod outside;
#[path = "live/parts.rs"]
mod parts;
#[path = "live/ports.rs"]
mod ports;
#[path = "live/process.rs"]
mod process;
#[path = "live/proxies.rs"]
mod proxies;
#[path = "live/questions.rs"]
mod questions;
#[path = "live/reloads.rs"]
mod reloads;
#[path = "live/resolvers.rs"]
mod resolvers;
#[path = "live/rewrites.rs"]
mod rewrites;
#[path = "live/server.rs"]
mod server;
#[path = "live/shared.rs"]
mod shared;
#[path = "live/shop.rs"]
mod shop;
#[path = "live/siit.rs"]
mod siit;
#[path = "live/start.rs"]
mod start;
#[path = "live/stream.rs"]
mod stream;
#[path = "live/taps.rs"]
mod taps;
#[path = "live/templates.rs"]
mod templates;
#[path = "live/traces.rs"]
mod traces;
#[path = "live/views.rs"]
mod views;
#[path = "live/wait.rs"]
mod wait;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// A test: its name and its function.
pub struct Test {
    name: String,
    run: Box<dyn FnOnce() -> Result<(), Failed> + Send>,
}

impl Test {
    fn new(name: impl Into<String>, run: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Test {
        Test { name: name.into(), run: Box::new(run) }
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(shared::THREADS);
    // By cluster, with long tests first.
    let groups = [
        [changes::tests(), access::tests(), start::tests(), deploy::tests()].into_iter().flatten().collect(),
        outages::tests(),
        [following::tests(), alike::tests(), autopaths::tests(), metrics::tests(), reloads::tests()]
            .into_iter()
            .flatten()
            .collect(),
        [
            outside::tests(),
            rewrites::tests(),
            lines::tests(),
            allowed::tests(),
            templates::tests(),
            views::tests(),
            taps::tests(),
            proxies::tests(),
            traces::tests(),
            grpc::tests(),
            geoip::tests(),
            siit::tests(),
            etcd::tests(),
            explanations::tests(),
        ]
        .into_iter()
        .flatten()
        .collect(),
    ];
    let tests = in_turn(groups);
    let missing = parts::missing().or_else(resolvers::missing);
    let trials = tests.into_iter().map(|test| match missing.clone() {
        None => Trial::test(test.name, test.run),
        Some(why) if std::env::var("CI").is_ok_and(|ci| ci == "true") => {
            Trial::test(test.name, move || Err(why.into()))
        }
        Some(why) => Trial::test(test.name, test.run).with_kind(why).with_ignored_flag(true),
    });
    shared::sweep();
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    shared::end(conclusion.has_failed());
    conclusion.exit_code()
}

/// Interleaves the groups, so that the first tests use different clusters.
fn in_turn(groups: [Vec<Test>; 4]) -> Vec<Test> {
    let mut groups = groups.map(Vec::into_iter);
    let mut tests = Vec::new();
    loop {
        let before = tests.len();
        tests.extend(groups.iter_mut().filter_map(Iterator::next));
        if tests.len() == before {
            return tests;
        }
    }
}
