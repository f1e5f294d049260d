//! Upstreams on loopback, from Debian's packages: Knot with a zone, Unbound in front of it, and a proxy that loses
//! packets.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::ask::{Question, ask};
use super::certificates::Authority;
use super::ports::{self, on_loopback};
use super::process::Process;
use super::wait::{SOON, eventually};
use clusterdns::wire::Type;

/// The zone that Knot serves. Its names are the only external names.
const ZONE: &str = r#"
$ORIGIN out.example.
@       3600 SOA ns hostmaster 1 3600 600 86400 60
@       3600 NS ns
ns      3600 A 192.0.2.53
a       300  A 192.0.2.1
many    300  A 192.0.2.1
many    300  A 192.0.2.2
many    300  A 192.0.2.3
both    300  A 192.0.2.4
both    300  AAAA 2001:db8::4
six     300  AAAA 2001:db8::6
Mixed   300  A 192.0.2.7
alias   120  CNAME a
chain   600  CNAME link1
link1   500  CNAME link2
link2   400  CNAME both
dangle  300  CNAME nowhere
outer   300  CNAME elsewhere.test.
mx      300  MX 10 mail
mx      300  MX 20 a
mail    300  A 192.0.2.25
srv     300  SRV 0 5 443 a
naptr   300  NAPTR 100 10 "u" "E2U+sip" "!^.*$!sip:x@out.example!" .
hinfo   300  HINFO "cpu" "os"
caa     300  CAA 0 issue "ca.example"
https   300  HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1
txt     300  TXT "short"
long    300  TXT "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789" "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789" "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789" "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789" "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789" "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
short   2    A 192.0.2.9
zero    0    A 192.0.2.10
*.wild  300  A 192.0.2.11
sub     3600 NS ns.sub
ns.sub  3600 A 192.0.2.54
"#;

/// Names for queries, including ones that do not exist and ones outside the zone.
pub const NAMES: &[&str] = &[
    "",
    "ns.",
    "a.",
    "many.",
    "both.",
    "six.",
    "MIXED.",
    "alias.",
    "chain.",
    "link1.",
    "dangle.",
    "outer.",
    "mx.",
    "srv.",
    "naptr.",
    "hinfo.",
    "caa.",
    "https.",
    "txt.",
    "long.",
    "x.wild.",
    "y.x.wild.",
    "wild.",
    "nothing.",
    "a.nothing.",
    "sub.",
    "host.sub.",
];

/// Types for queries.
pub const TYPES: &[Type] = &[
    Type::A,
    Type::AAAA,
    Type::CNAME,
    Type::MX,
    Type::NS,
    Type::SOA,
    Type::SRV,
    Type::TXT,
    Type::HTTPS,
    Type::CAA,
    Type::NAPTR,
    Type::HINFO,
    Type::PTR,
    Type(65_280),
];

/// Returns why these servers are not available on this machine, if they are not.
pub fn missing() -> Option<String> {
    ["knotd", "unbound"]
        .into_iter()
        .find(|name| program(name).is_none())
        .map(|name| format!("{name} is not installed (apt-get install knot unbound)"))
}

/// Returns the path of a program.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// A name server; dropping it kills it.
pub struct Resolver {
    process: Option<Process>,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    /// Its address for plain DNS.
    pub at: SocketAddr,
}

impl Resolver {
    /// Starts Knot with the zone.
    pub fn knot(folder: &Path) -> Resolver {
        let port = ports::free();
        let shown = folder.display();
        std::fs::write(folder.join("zone"), ZONE).expect("a file");
        let text = format!(
            "server:\n    rundir: {shown}\n    listen: 127.0.0.1@{port}\n\
             log:\n  - target: stderr\n    any: warning\ndatabase:\n    storage: {shown}\n\
             zone:\n  - domain: out.example.\n    file: {shown}/zone\n    zonefile-sync: -1\n"
        );
        std::fs::write(folder.join("knot.conf"), text).expect("a file");
        let arguments = ["-c".to_owned(), folder.join("knot.conf").display().to_string()];
        Resolver::start("knotd", &arguments, folder.join("knot.log"), on_loopback(port), "a.out.example. A")
    }

    /// Starts Unbound, which forwards to Knot. It also serves DNS over TLS and HTTPS with a certificate of this
    /// authority for `localhost` and 127.0.0.1; returns their addresses.
    pub fn unbound(folder: &Path, knot: SocketAddr, authority: &Authority) -> (Resolver, SocketAddr, SocketAddr) {
        let [port, tls, https] = [(); 3].map(|()| ports::free());
        let files = authority.server(folder, "resolver", &[]);
        let shown = folder.display();
        let knot_port = knot.port();
        let key = files.key.display();
        let certificate = files.certificate.display();
        let text = format!(
            "server:\n  interface: 127.0.0.1@{port}\n  interface: 127.0.0.1@{tls}\n  interface: 127.0.0.1@{https}\n\
             \x20 tls-port: {tls}\n  https-port: {https}\n  tls-service-key: {key}\n  tls-service-pem: {certificate}\n\
             \x20 do-daemonize: no\n  chroot: \"\"\n  username: \"\"\n  pidfile: {shown}/unbound.pid\n  directory: {shown}\n\
             \x20 use-syslog: no\n  module-config: iterator\n  do-not-query-localhost: no\n  access-control: 127.0.0.0/8 allow\n\
             forward-zone:\n  name: .\n  forward-addr: 127.0.0.1@{knot_port}\n"
        );
        std::fs::write(folder.join("unbound.conf"), text).expect("a file");
        let arguments = ["-d".to_owned(), "-c".to_owned(), folder.join("unbound.conf").display().to_string()];
        let log = folder.join("unbound.log");
        let resolver = Resolver::start("unbound", &arguments, log, on_loopback(port), "a.out.example. A");
        (resolver, on_loopback(tls), on_loopback(https))
    }

    fn start(name: &str, arguments: &[String], log: PathBuf, at: SocketAddr, question: &str) -> Resolver {
        let program = program(name).unwrap_or_else(|| panic!("{name} is not installed"));
        let mut resolver = Resolver { process: None, program, arguments: arguments.to_vec(), log, at };
        resolver.restart(question);
        resolver
    }

    /// Starts it, and waits until it responds.
    pub fn restart(&mut self, question: &str) {
        self.process = Some(Process::start(&self.program, &self.arguments, self.log.clone()));
        let question: Question = super::server::read(question);
        eventually("a resolver answers", SOON, || match ask(self.at, &question) {
            Some(answer) if answer.rcode == 0 => Ok(()),
            _ => Err(self.process.as_ref().map(Process::last_words).unwrap_or_default()),
        });
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.take();
    }

    /// Pauses or resumes it: `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        self.process.as_ref().expect("it runs").signal(name);
    }
}

/// A UDP proxy that loses some datagrams, in both directions.
pub struct Lossy {
    /// Its address.
    pub at: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl Lossy {
    /// Starts a proxy to a server that loses a percentage of datagrams.
    pub fn to(server: SocketAddr, percent: u32) -> Lossy {
        let port = ports::free();
        let front = UdpSocket::bind(on_loopback(port)).expect("a socket");
        front.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let ended = Arc::new(AtomicBool::new(false));
        let stop = ended.clone();
        std::thread::spawn(move || {
            // Each client has a socket to the server.
            let mut behind: std::collections::HashMap<SocketAddr, UdpSocket> = std::collections::HashMap::new();
            let mut buffer = [0; 4_096];
            while !stop.load(Ordering::Relaxed) {
                let Ok((len, from)) = front.recv_from(&mut buffer) else { continue };
                if fastrand::u32(..100) < percent {
                    continue;
                }
                let socket = behind.entry(from).or_insert_with(|| {
                    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
                    socket.connect(server).expect("an address");
                    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
                    let answers = socket.try_clone().expect("a handle");
                    let back = front.try_clone().expect("a handle");
                    std::thread::spawn(move || {
                        let mut buffer = [0; 4_096];
                        while let Ok(len) = answers.recv(&mut buffer) {
                            if fastrand::u32(..100) >= percent {
                                let _ = back.send_to(&buffer[..len], from);
                            }
                        }
                    });
                    socket
                });
                let _ = socket.send(&buffer[..len]);
            }
        });
        Lossy { at: on_loopback(port), ended }
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}
