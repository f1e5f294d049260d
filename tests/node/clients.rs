//! The clients: how each is compiled and run, and how it reads resolv.conf.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::machine::{find, output, shared};
use super::net::Space;

/// A question to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Addresses of a name.
    Host,
    /// Services of a name (SRV).
    Srv,
    /// The name of an address (PTR).
    Ptr,
    /// Balancers of a name, as gRPC looks them up: the addresses of the targets of `_grpclb._tcp`.
    Balancer,
}

/// For which names a client uses the search list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Names with fewer dots than `ndots` get the list first and are tried as they are last; others the other way
    /// round.
    Full,
    /// The same, but a name with `ndots` dots is only tried as it is.
    NotBehind,
    /// Only names without a dot.
    NoDots,
    /// None.
    Never,
}

/// A client.
pub struct Client {
    pub name: &'static str,
    /// What to know about it, for the page.
    pub habits: &'static str,
    kinds: &'static [(Kind, Search)],
    /// Whether it repeats a truncated response over TCP.
    pub tcp: bool,
    /// What it reports instead of using a search list with the root in it, if it cannot.
    pub root_search: Option<&'static str>,
    /// The longest search list that it uses, in domains and in bytes of the domains with the spaces between them.
    pub longest: (usize, usize),
    /// The command, to which questions are appended.
    command: fn() -> Vec<String>,
}

/// Names, SRV and PTR with the search list.
const ALL: &[(Kind, Search)] = &[(Kind::Host, Search::Full), (Kind::Srv, Search::Full), (Kind::Ptr, Search::Never)];
/// Libraries that have no function for SRV.
const NO_SRV: &[(Kind, Search)] = &[(Kind::Host, Search::Full), (Kind::Ptr, Search::Never)];
/// Clients without a search list.
const NO_SEARCH: &[(Kind, Search)] =
    &[(Kind::Host, Search::Never), (Kind::Srv, Search::Never), (Kind::Ptr, Search::Never)];

/// A search list of any length.
const ANY: (usize, usize) = (usize::MAX, usize::MAX);

/// All clients.
pub const CLIENTS: &[Client] = &[
    Client {
        name: "glibc",
        habits: "glibc 2.36: `getaddrinfo`, `getnameinfo`, `res_search`. A and AAAA leave one socket at the same time; \
            `single-request` and `single-request-reopen` change that. Names with fewer dots than `ndots` go through \
            the search list first. No EDNS without `options edns0`. TC: again over TCP. After SERVFAIL the next name \
            server is tried, then the search goes on; after REFUSED the list is left.",
        kinds: ALL,
        tcp: true,
        root_search: None,
        longest: ANY,
        command: || vec![built("libc-glibc")],
    },
    Client {
        name: "musl",
        habits: "`getaddrinfo` of musl 1.2.3 (Alpine 3.16 and 3.17), statically linked. Sends A and AAAA to all name \
            servers at once and takes the first response. A name with `ndots` dots is never tried with the search \
            list. NODATA ends the search; SERVFAIL and REFUSED end it after the whole timeout of 5 s. No EDNS. A \
            `search` line of more than 255 bytes, keyword and line end included, is ignored: 247 bytes of domains. A \
            `.` in the list makes it send broken queries until it gives up. `res_search` does not search. TC is \
            ignored: the records of the truncated response are the result, 48 addresses at most (musl has TCP since \
            1.2.4).",
        kinds: &[(Kind::Host, Search::NotBehind), (Kind::Srv, Search::Never), (Kind::Ptr, Search::Never)],
        tcp: false,
        root_search: Some("!Try again"),
        longest: (usize::MAX, 247),
        command: || vec![built("libc-musl")],
    },
    Client {
        name: "busybox nslookup",
        habits: "BusyBox 1.35. Sends A and AAAA for every name of the search list at the same time, prints every denial, \
            and searches for names without a dot only: `nslookup web.shop` fails in every cluster (1.29 has no \
            search list; 1.28 and older ask the C library). Other programs of the image ask the C library: `ping \
            web.shop` works. `nslookup` of `_http._tcp.web` is not searched either. No EDNS, no TCP. Exits with an \
            error if one of the responses is a denial. With a `.` in the search list, no short name is found.",
        kinds: &[(Kind::Host, Search::NoDots), (Kind::Srv, Search::NoDots), (Kind::Ptr, Search::Never)],
        tcp: false,
        root_search: Some("-"),
        longest: ANY,
        command: || script("tools.sh", &["busybox"]),
    },
    Client {
        name: "dig",
        habits: "BIND's dig 9.18 with `+search`; without it, the search list is not used. It uses eight domains at most, \
            and a name with `ndots` dots is only tried as it is. EDNS with 1232 bytes, a cookie, and AD. TC: again \
            over TCP.",
        kinds: &[(Kind::Host, Search::NotBehind), (Kind::Srv, Search::NotBehind), (Kind::Ptr, Search::Never)],
        tcp: true,
        root_search: None,
        longest: (8, usize::MAX),
        command: || script("tools.sh", &["dig"]),
    },
    Client {
        name: "kdig",
        habits: "Knot's kdig 3.2, which has no search list. No EDNS unless an option asks for it. TC: again over TCP.",
        kinds: NO_SEARCH,
        tcp: true,
        root_search: None,
        longest: ANY,
        command: || script("tools.sh", &["kdig"]),
    },
    Client {
        name: "Go",
        habits: "Go's own resolver, Go 1.26. It is the default, also with cgo on Linux, unless the environment, \
            resolv.conf or nsswitch.conf asks for what it lacks; here `GODEBUG=netdns=go`. A and AAAA from two \
            sockets at the same time. EDNS with 1232 bytes. TC: again over TCP. SERVFAIL of one type with an answer \
            of the other one gives the answer.",
        kinds: ALL,
        tcp: true,
        root_search: None,
        longest: ANY,
        command: || vec!["env".into(), "GODEBUG=netdns=go".into(), built("clients-go")],
    },
    Client {
        name: "Go, cgo",
        habits: "Go with the C library for addresses and PTR, where Go's own resolver lacks what the environment, \
            resolv.conf or nsswitch.conf asks for; here `GODEBUG=netdns=cgo`. SRV by Go's own resolver.",
        kinds: ALL,
        tcp: true,
        root_search: None,
        longest: ANY,
        command: || vec!["env".into(), "GODEBUG=netdns=cgo".into(), built("clients-go")],
    },
    Client {
        name: "gRPC",
        habits: "The `dns` resolver of gRPC 1.84 for Go, with grpclb linked in: addresses, and before them SRV of \
            `_grpclb._tcp.NAME`, whose denial costs a round of the search list for each channel. Also TXT of \
            `_grpc_config.NAME`, another round of the list, unless `GRPC_ENABLE_TXT_SERVICE_CONFIG=false` or \
            `WithDisableServiceConfig`.",
        kinds: &[(Kind::Host, Search::Full), (Kind::Balancer, Search::Full)],
        tcp: true,
        root_search: None,
        longest: ANY,
        command: || vec![built("clients-go"), "grpc".into()],
    },
    Client {
        name: "Node lookup",
        habits: "`dns.lookup` of Node.js 20, which connections use: the C library in a thread pool of four.",
        kinds: NO_SRV,
        tcp: true,
        root_search: None,
        longest: ANY,
        command: || vec![program("node"), source("lookup.js"), "lookup".into()],
    },
    Client {
        name: "Node resolve",
        habits: "`dns.resolve*` of Node.js 20: its own c-ares, 1.34 in official builds, without the search list. No EDNS. \
            TC: again over TCP.",
        kinds: NO_SEARCH,
        tcp: true,
        root_search: None,
        longest: ANY,
        command: || vec![program("node"), source("lookup.js"), "resolve".into()],
    },
    Client {
        name: "Python",
        habits: "`socket.getaddrinfo` and `gethostbyaddr` of CPython 3.11: the C library.",
        kinds: NO_SRV,
        tcp: true,
        root_search: None,
        longest: ANY,
        command: || vec![program("python3"), source("lookup.py")],
    },
    Client {
        name: "Java",
        habits: "`InetAddress` of JDK 17: the C library, with a cache of its own (30 s, denials 10 s). SRV by JNDI, which \
            has a resolver of its own and no search list.",
        kinds: &[(Kind::Host, Search::Full), (Kind::Srv, Search::Never), (Kind::Ptr, Search::Never)],
        tcp: true,
        root_search: None,
        longest: ANY,
        command: || {
            vec![
                program("java"),
                "-Xshare:auto".into(),
                "-XX:TieredStopAtLevel=1".into(),
                "-cp".into(),
                built("java"),
                "Lookup".into(),
            ]
        },
    },
    Client {
        name: "Netty",
        habits: "The resolver of Netty 4.1.48 (`DnsNameResolver`), which many Java frameworks use instead of the JDK's; \
            truncated responses over TCP only where the program has asked for it, as this one has. EDNS with 4096 bytes. A and AAAA from \
            one socket at the same time. Reads the search list and `ndots` of resolv.conf, but not `use-vc`; its own \
            timeout is five seconds. Has a cache of its own. Its queries for SRV and PTR do not use the search list.",
        kinds: &[(Kind::Host, Search::Full), (Kind::Srv, Search::Never), (Kind::Ptr, Search::Never)],
        tcp: true,
        root_search: None,
        longest: ANY,
        command: || {
            let path = format!("{}:{}", netty().expect("checked at the start"), built("java"));
            let options = ["-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp"].map(str::to_owned);
            [vec![program("java")], options.into(), vec![path, "NettyLookup".to_owned()]].concat()
        },
    },
    Client {
        name: ".NET",
        habits: "`System.Net.Dns` of .NET Core 3.1: the C library of its image (glibc here, musl in Alpine images). SRV is \
            not in the standard library.",
        kinds: NO_SRV,
        tcp: true,
        root_search: None,
        longest: ANY,
        command: || {
            let packages = dotnet().expect("checked at the start").display().to_string();
            vec![program("python3"), "-B".into(), source("lookup_dotnet.py"), packages]
        },
    },
    Client {
        name: "c-ares",
        habits: "c-ares 1.18: `ares_getaddrinfo`, `ares_search`. TC: again over TCP. A `.` in the search list is an error \
            (newer versions accept it). SERVFAIL and REFUSED end the search. The library is in Envoy and in some \
            builds of curl.",
        kinds: ALL,
        tcp: true,
        root_search: Some("!Misformatted domain name"),
        longest: ANY,
        command: || vec![built("cares")],
    },
    Client {
        name: "adig",
        habits: "The tool of c-ares 1.34, with `+search`. EDNS with 1232 bytes, a cookie, and with `+dns0x20` letters in \
            mixed case, which a response must repeat. The part of an SRV target that is compressed against the \
            question comes back in its mixed case, from CoreDNS too. TC: again over TCP.",
        kinds: ALL,
        tcp: true,
        root_search: None,
        longest: ANY,
        command: || [vec!["env".into(), format!("ADIG={}", built("adig"))], script("tools.sh", &["adig"])].concat(),
    },
    Client {
        name: "hickory",
        habits: "Rust's hickory-resolver 0.26 with the system's configuration: EDNS only with `options edns0`, although \
            its own default is to send it. TC: again over TCP. Sends to two name servers at once.",
        kinds: ALL,
        tcp: true,
        root_search: None,
        longest: ANY,
        command: || {
            let program = std::env::current_exe().expect("the path of this program").display().to_string();
            vec!["env".into(), "CLUSTERDNS_NODE_ROLE=hickory".into(), program]
        },
    },
    Client {
        name: "nginx",
        habits: "The `resolver` of nginx 1.22, which does not read resolv.conf: no search list, names must be complete. \
            (Names in the configuration that are known at its start are looked up by the C library.) It begins with \
            a server of its choice. A and AAAA at the same time, no EDNS. TC: again over TCP. A denial of one type \
            with an answer of the other one gives the answer.",
        kinds: &[(Kind::Host, Search::Never)],
        tcp: true,
        root_search: None,
        longest: ANY,
        command: || script("nginx.sh", &[]),
    },
    Client {
        name: "systemd-resolved",
        habits: "glibc through the stub of systemd-resolved 252, as on nodes. EDNS, first with a large size; falls \
            back to plain DNS after lost packets. Keeps a cache. It does not ask DNS for names without a dot, nor for \
            names below `local` unless a domain of the search list covers them: glibc reports a temporary error.",
        kinds: ALL,
        tcp: true,
        root_search: None,
        longest: ANY,
        command: || {
            let package = systemd().expect("checked at the start").display().to_string();
            [script("resolved.sh", &[&package]), vec![built("libc-glibc")]].concat()
        },
    },
];

impl Client {
    /// Returns how it searches for a kind of question, or `None` if it cannot ask it.
    pub fn search(&self, kind: Kind) -> Option<Search> {
        self.kinds.iter().find(|(known, _)| *known == kind).map(|(_, search)| *search)
    }

    /// Asks all questions that it can ask, in a Pod's namespaces with this resolv.conf; returns the results by
    /// question.
    pub fn ask(
        &self, space: &Space, resolv_conf: &Path, questions: &[(Kind, &str)],
    ) -> BTreeMap<(Kind, String), String> {
        let questions: Vec<(Kind, &str)> =
            questions.iter().filter(|(kind, _)| self.search(*kind).is_some()).copied().collect();
        let mut command = in_pod(space, resolv_conf);
        command.args(["timeout", "60"]).args((self.command)());
        command.args(questions.iter().map(|(kind, name)| format!("{}={name}", kind.word())));
        let run = command.output().unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let text = String::from_utf8_lossy(&run.stdout).into_owned();
        let mut lines = text.lines().filter_map(|line| line.split_once('\t'));
        let results = questions.iter().map(|(kind, name)| {
            let question = format!("{}={name}", kind.word());
            let result = match lines.next() {
                Some((asked, result)) if asked == question => result.to_owned(),
                other => format!("!no result: {other:?}, {}", String::from_utf8_lossy(&run.stderr)),
            };
            ((*kind, (*name).to_owned()), result)
        });
        results.collect()
    }
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Host => "host",
            Kind::Srv | Kind::Balancer => "srv",
            Kind::Ptr => "ptr",
        }
    }
}

/// Returns a command that runs another one with the files of a Pod: its resolv.conf, no other names, no daemons.
pub fn in_pod(space: &Space, resolv_conf: &Path) -> Command {
    let script = "mount --bind \"$1\" /etc/resolv.conf; mount --bind \"$2\" /etc/hosts; \
        mount --bind \"$3\" /etc/nsswitch.conf; mount -t tmpfs tmpfs /run; shift 3; exec \"$@\"";
    let mut command = space.command("unshare");
    command.args(["--mount", "sh", "-ec", script, "pod"]).arg(resolv_conf);
    command.args([source("hosts"), source("nsswitch.conf")]);
    command
}

/// Returns why a client cannot be built or run, if one cannot.
pub fn missing() -> Option<String> {
    let programs = [("node", "nodejs"), ("java", "default-jre-headless"), ("javac", "default-jdk-headless")];
    let programs = [&programs[..], &[("nginx", "nginx-light"), ("cmake", "cmake")]].concat();
    let absent: Vec<&str> =
        programs.iter().filter(|(name, _)| find(name).is_none()).map(|(_, package)| *package).collect();
    if !absent.is_empty() {
        return Some(format!("not installed: apt-get install {}", absent.join(" ")));
    }
    if !Path::new("/usr/include/ares.h").exists() {
        return Some("not installed: apt-get install libc-ares-dev".to_owned());
    }
    if !Path::new("/usr/include/seccomp.h").exists() || !Path::new(super::seccomp::PROFILE).exists() {
        return Some("not installed: apt-get install libseccomp-dev golang-github-containers-common".to_owned());
    }
    if netty().is_none() {
        return Some("not installed: apt-get install libnetty-java".to_owned());
    }
    if dotnet().is_none() {
        return Some(".NET is not there: see .ci/run".to_owned());
    }
    systemd().is_none().then(|| "systemd-resolved is not there: see .ci/run".to_owned())
}

/// Builds adig from the source in the package of Rust's binding.
const BUILD_ADIG: &str = r#"
cargo fetch --quiet --locked --manifest-path "$1/Cargo.toml"
manifest=$(cargo metadata --quiet --locked --offline --format-version 1 --manifest-path "$1/Cargo.toml" |
  grep -o '"[^"]*/c-ares-sys-[^"/]*/Cargo.toml"' | head -n 1 | tr -d '"')
# What a moved checkout has built names its old place.
rm -rf "$2/cares-build"
cmake -S "$(dirname "$manifest")/c-ares" -B "$2/cares-build" -DCARES_STATIC=ON -DCARES_SHARED=OFF -DCARES_INSTALL=OFF
cmake --build "$2/cares-build" --target adig
cp "$2/cares-build/bin/adig" "$2/adig""#;

/// Compiles the clients. Unchanged ones stay.
pub fn build() {
    let target = shared();
    std::fs::create_dir_all(target.join("java")).expect("a folder");
    let compile = |from: &str, to: &str, command: &mut Command| {
        let age = |path: PathBuf| path.metadata().and_then(|data| data.modified()).ok();
        if age(target.join(to)).is_none_or(|built| age(source(from).into()).is_some_and(|source| source > built)) {
            output(command);
        }
    };
    let at = |name: &str| target.join(name);
    compile(
        "libc.c",
        "libc-glibc",
        Command::new("gcc").arg(source("libc.c")).arg("-o").arg(at("libc-glibc")).arg("-lresolv"),
    );
    compile(
        "libc.c",
        "libc-musl",
        Command::new("musl-gcc").args(["-static", "-o"]).arg(at("libc-musl")).arg(source("libc.c")),
    );
    compile(
        "../confine.c",
        "confine",
        Command::new("gcc").arg(source("../confine.c")).arg("-o").arg(at("confine")).arg("-lseccomp"),
    );
    compile(
        "cares.c",
        "cares",
        Command::new("gcc").args(["-w"]).arg(source("cares.c")).arg("-o").arg(at("cares")).arg("-lcares"),
    );
    compile(
        "java/Lookup.java",
        "java/Lookup.class",
        Command::new("javac").arg("-d").arg(at("java")).arg(source("java/Lookup.java")),
    );
    compile(
        "java/NettyLookup.java",
        "java/NettyLookup.class",
        Command::new("javac")
            .arg("-cp")
            .arg(format!("{}:{}", netty().expect("checked at the start"), built("java")))
            .arg("-d")
            .arg(at("java"))
            .arg(source("java/NettyLookup.java")),
    );
    compile(
        "cares/Cargo.toml",
        "adig",
        Command::new("sh").arg("-euc").arg(BUILD_ADIG).arg("adig").arg(source("cares")).arg(&target),
    );
    compile(
        "go/main.go",
        "clients-go",
        Command::new("go")
            .args(["build", "-o"])
            .arg(at("clients-go"))
            .arg(".")
            .current_dir(source("go"))
            .env("CGO_ENABLED", "1"),
    );
}

/// The place of what is built or downloaded for tests.
fn testbed() -> PathBuf {
    let testbed = std::env::var_os("TESTBED").map(PathBuf::from);
    testbed.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".testbed"))
}

/// Returns the class path of Netty's resolver, from Debian's packages.
fn netty() -> Option<String> {
    let parts = ["common", "buffer", "codec", "codec-dns", "resolver", "resolver-dns", "transport"];
    let files = parts.map(|part| format!("/usr/share/java/netty-{part}.jar"));
    let files = [&files[..], &["/usr/share/java/jctools-core.jar".to_owned()]].concat();
    files.iter().all(|file| Path::new(file).exists()).then(|| files.join(":"))
}

/// Returns the directory of the packages with the runtime of .NET and its host for Python; `.ci/run` creates it.
fn dotnet() -> Option<PathBuf> {
    Some(testbed().join("dotnet")).filter(|folder| folder.join("dotnetcore2/bin/dotnet").is_file())
}

/// Returns the directory with the files of Debian's packages of systemd-resolved; `.ci/run` creates it.
fn systemd() -> Option<PathBuf> {
    let root = testbed();
    [root.join("systemd"), PathBuf::from("/lib/systemd")].into_iter().find(|folder| folder.is_dir() && holds(folder))
}

fn holds(folder: &Path) -> bool {
    ["systemd-resolved", "lib/systemd/systemd-resolved", "usr/lib/systemd/systemd-resolved"]
        .iter()
        .any(|name| folder.join(name).is_file())
}

fn built(name: &str) -> String {
    shared().join(name).display().to_string()
}

/// Returns the path of a file of `tests/node/clients`.
pub fn source(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node/clients").join(name).display().to_string()
}

fn script(name: &str, arguments: &[&str]) -> Vec<String> {
    let mut words = vec!["sh".to_owned(), source(name)];
    words.extend(arguments.iter().map(|&word| word.to_owned()));
    words
}

fn program(name: &str) -> String {
    find(name).expect("checked at the start").display().to_string()
}
