//! The machine that the tests run on: what it must have, and the namespaces that keep a run apart from it.
//!
//! The program starts itself again in new namespaces of networks, mounts and processes. They exist as long as that
//! process, so that nothing of a run is left behind, however it ends, and runs do not see each other. The network has
//! no way out.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Set inside of the namespaces: the process ID of the program outside.
const INSIDE: &str = "CLUSTERDNS_NODE_TEST";
/// The programs that a run needs, with Debian's package of each.
const PROGRAMS: [(&str, &str); 16] = [
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("capsh", "libcap2-bin"),
    ("setcap", "libcap2-bin"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("unbound", "unbound"),
    ("busybox", "busybox"),
    ("dig", "bind9-dnsutils"),
    ("kdig", "knot-dnsutils"),
    ("gcc", "gcc"),
    ("musl-gcc", "musl-tools"),
    ("python3", "python3"),
];

/// Returns why the tests cannot run on this machine, if they cannot.
pub fn missing() -> Option<String> {
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(name, _)| find(name).is_none()).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        return Some(format!("not installed: apt-get install {}", missing.join(" ")));
    }
    let script = "mount -t tmpfs tmpfs /run && mkdir /run/netns && ip netns add a && ip link add v type veth";
    let tried = isolated().args(["sh", "-c", script]).output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr);
            Some(format!("no network namespaces, which need root: {}", reason.trim()))
        }
        Err(error) => Some(format!("unshare: {error}")),
    }
}

/// Returns the path of a program.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Shims of version managers are slow.
    let folders = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(PathBuf::from).into_iter();
    folders.chain(std::env::split_paths(&path)).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Returns whether this is the program inside of the namespaces.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs this program again, inside of new namespaces; returns its exit code.
pub fn enter() -> ExitCode {
    let mut command = isolated();
    command.arg(std::env::current_exe().expect("the path of this program")).args(std::env::args_os().skip(1));
    command.env(INSIDE, std::process::id().to_string());
    match command.status() {
        Ok(status) => match status.code() {
            Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
            None => {
                eprintln!("the tests ended by signal {:?}", status.signal());
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprintln!("unshare: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the command that runs another one in new namespaces; it is killed when this program ends.
fn isolated() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--mount", "--pid", "--fork"]);
    command.args(["--kill-child", "--mount-proc", "--"]);
    command
}

/// Prepares the namespaces.
pub fn prepare() {
    // `ip netns` has its files there; sockets of the machine's daemons must not be reachable.
    run("mount -t tmpfs tmpfs /run");
    run("mkdir -p /run/netns");
    run("ip link set lo up");
}

/// Returns the directory of this run.
pub fn folder() -> PathBuf {
    all().join(std::env::var(INSIDE).unwrap_or_else(|_| std::process::id().to_string()))
}

/// Returns the directory of things that runs share, such as compiled clients.
pub fn shared() -> PathBuf {
    all().join("built")
}

fn all() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("node")
}

/// Removes files of earlier runs.
pub fn sweep() {
    let Ok(entries) = std::fs::read_dir(all()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name != "built" && !Path::new("/proc").join(&name).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Runs a command given as words; an error fails the test.
pub fn run(line: &str) -> String {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().expect("a program"));
    output(command.args(words))
}

/// Runs a command and returns its output; an error fails the test.
pub fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout
}
