//! The limits that the Deployment sets for its container: what the process may do, and how much memory it may have.

use super::kubelet::{Seen, restarts};
use super::live::wait::{SOON, eventually};
use super::net::Node;
use super::world::World;
use super::{Test, bad, roles};

/// The load of each of the two clients while others break rules, in queries per second.
const LOAD: u64 = 500;
/// Its seconds.
const SECONDS: u64 = 12;

pub fn tests() -> Vec<Test> {
    [
        ("user, capabilities, read-only files and system calls", confined as fn(&World)),
        ("memory under load and with bad clients", memory),
    ]
    .map(|(name, run)| {
        Test::new(format!("limits: {name}"), move || {
            let world = super::world();
            run(world.as_ref().expect("started"));
        })
    })
    .into()
}

/// Returns a field of the status of a Pod's process.
fn field(pod: &Seen, name: &str) -> String {
    let process = pod.process.expect("a running process");
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
    let value = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    value.unwrap_or_else(|| panic!("no {name}: {text}")).trim().to_owned()
}

fn confined(world: &World) {
    for pod in world.two_pods() {
        // The user of the Deployment, one capability (to listen at port 53), and no way to more.
        for (name, wanted) in [
            ("Uid", "65532\t65532\t65532\t65532"),
            ("Gid", "65532\t65532\t65532\t65532"),
            ("CapEff", "0000000000000400"),
            ("CapPrm", "0000000000000400"),
            ("CapBnd", "0000000000000400"),
            ("NoNewPrivs", "1"),
            // A filter of system calls.
            ("Seccomp", "2"),
        ] {
            assert_eq!(field(&pod, name), wanted, "{}: {name}", pod.name);
        }
        // Even root could not write there.
        let root = format!("/proc/{}/root", pod.process.expect("a running process"));
        for folder in ["", "/etc/coredns", "/var/run/secrets/kubernetes.io/serviceaccount"] {
            let error = std::fs::write(format!("{root}{folder}/new"), "").expect_err("a read-only file system");
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{folder}: {error}");
        }
    }
    // The filter is the one meant: it refuses chroot(2), to root too, and it lets an ordinary program run.
    let programs = world.folder.join("programs");
    let run = |words: &[&str]| {
        let mut command = Node::A.space().command(programs.join("confine"));
        command.arg(programs.join("seccomp.list")).args(words).output().expect("it runs")
    };
    let refused = run(&["/usr/sbin/chroot", "/", "/usr/bin/true"]);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && error.contains("Operation not permitted"), "{error}");
    assert!(run(&["/usr/bin/true"]).status.success());
}

/// Checks that no server has come near its memory limit: the peak of its resident memory since its start, which
/// includes the pages of its program file. A container at its limit would have been killed.
pub fn check_memory(world: &World) {
    let deployment = world.deployment();
    let limit = &deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"];
    let limit: u64 =
        limit.as_str().and_then(|text| text.strip_suffix("Mi")).and_then(|number| number.parse().ok()).expect("Mi");
    for pod in world.two_pods() {
        let peak = field(&pod, "VmHWM");
        let peak: u64 = peak.trim_end_matches(" kB").parse().expect("kB");
        println!("{}: at most {} MiB of {limit} MiB", pod.name, peak / 1_024);
        assert!(peak / 1_024 < limit, "{}: {peak} kB of {limit} MiB", pod.name);
    }
}

fn memory(world: &World) {
    let before = world.two_pods();
    let loads = [0, 1].map(|client| world.load(client, LOAD, SECONDS));
    std::thread::scope(|scope| {
        for (name, _) in bad::CLIENTS {
            for client in &world.clients {
                scope.spawn(move || roles::perform(client, name));
            }
        }
    });
    for load in loads {
        let outcome = load.outcome();
        assert_eq!(outcome.wrong, 0, "{outcome:?}");
        println!("beside bad clients: {} of {} lost", outcome.lost.len(), outcome.sent);
        assert!(outcome.lost.len() as u64 <= outcome.sent / 100, "bad clients cost others: {outcome:?}");
    }
    eventually("both servers are ready", SOON, || {
        let pods = world.kubelet.pods();
        if pods.iter().all(|pod| pod.ready) { Ok(()) } else { Err(world.report()) }
    });
    assert_eq!(restarts(&before), restarts(&world.two_pods()), "a server has ended: {}", world.report());
    check_memory(world);
}
