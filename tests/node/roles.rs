//! What this program does when it is started again inside of a Pod's network namespace: it sends queries, as a load or
//! as a client that breaks rules, or looks names up with hickory-resolver.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::bad;
use super::live::process::Process;
use super::net::Space;

/// The name of the environment variable that has the role.
const ROLE: &str = "CLUSTERDNS_NODE_ROLE";
/// How long a query of the load waits for its response.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long a load goes on after the change that it accompanies.
const REST: Duration = Duration::from_secs(3);

/// The number of source ports of the load.
const PORTS: u128 = 64_000;

/// What became of a load.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub sent: u64,
    pub answered: u64,
    /// Responses from another address than the one asked, or with another code than NOERROR.
    pub wrong: u64,
    /// When the unanswered queries were sent, in milliseconds since the start.
    pub lost: Vec<u64>,
}

/// A load that runs.
pub struct Load {
    process: Process,
    /// The file that ends it, once it exists.
    end: PathBuf,
}

/// Plays the role that the environment names, if it names one.
pub fn play() -> Option<ExitCode> {
    let role = std::env::var(ROLE).ok()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match role.as_str() {
        "load" => load(&arguments),
        "hickory" => hickory(&arguments),
        name => bad::play(name),
    }
    Some(ExitCode::SUCCESS)
}

/// Returns a command that plays a role in a namespace.
pub fn command(space: &Space, role: &str) -> Command {
    let mut command = space.command(std::env::current_exe().expect("the path of this program"));
    command.env(ROLE, role);
    command
}

/// Plays a role in a namespace; a panic of it fails the test.
pub fn perform(space: &Space, role: &str) {
    let output = command(space, role).stdin(Stdio::null()).output().expect("this program starts");
    assert!(output.status.success(), "{role}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Load {
    /// Starts to send queries over UDP for a time, each from a new port.
    pub fn start(space: &Space, per_second: u64, seconds: u64, log: PathBuf) -> Load {
        let mut arguments = vec![format!("--net={}", space.file()), "--".to_owned(), "env".to_owned()];
        arguments.push(format!("{ROLE}=load"));
        arguments.push(std::env::current_exe().expect("the path of this program").display().to_string());
        let end = log.with_extension("end");
        arguments.extend([per_second.to_string(), seconds.to_string(), end.display().to_string()]);
        for file in [&log, &end] {
            let _ = std::fs::remove_file(file);
        }
        Load { process: Process::start(Path::new("nsenter"), &arguments, log), end }
    }

    /// Ends it before its time, after a moment in which late losses show.
    pub fn finish(mut self) -> Outcome {
        assert!(self.process.is_running(), "the load has ended before the change");
        std::thread::sleep(REST);
        std::fs::write(&self.end, "").expect("a file");
        self.outcome()
    }

    /// Waits until it has ended.
    pub fn outcome(mut self) -> Outcome {
        while self.process.is_running() {
            std::thread::sleep(Duration::from_millis(50));
        }
        let text = self.process.log();
        let line = text.lines().find_map(|line| line.strip_prefix("load: "));
        let mut numbers =
            line.unwrap_or_else(|| panic!("{text}")).split(' ').map(|word| word.parse().expect("a number"));
        let mut next = || numbers.next().expect("a number");
        let (sent, answered, wrong) = (next(), next(), next());
        Outcome { sent, answered, wrong, lost: numbers.collect() }
    }
}

/// The load: sends at a fixed rate until its time is over or the file exists that ends it, and waits for the last
/// responses.
fn load(arguments: &[String]) {
    let number = |at: usize| arguments[at].parse::<u64>().expect("a number");
    let end = Path::new(&arguments[2]);
    let (per_second, seconds) = (number(0), number(1));
    let mut last = Duration::from_secs(seconds);
    let target = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), 53));
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
    let mut waiting: HashMap<u64, (UdpSocket, u64)> = HashMap::new();
    let mut outcome = Outcome::default();
    let start = Instant::now();
    let interval = Duration::from_nanos(1_000_000_000 / per_second);
    let since = std::time::UNIX_EPOCH.elapsed().expect("a clock");
    let mut port = u16::try_from(since.as_millis() % PORTS).expect("below 65,536");
    let mut events = vec![EpollEvent::empty(); 64];
    loop {
        let now = start.elapsed();
        if now < last && end.exists() {
            last = now;
        }
        let is_sending = now < last;
        while is_sending && interval * u32::try_from(outcome.sent).expect("a short load") <= now {
            let socket = bind_next(&mut port);
            socket.set_nonblocking(true).expect("a setting");
            let id = outcome.sent;
            epoll.add(socket.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, id)).expect("added");
            let _ = socket.send_to(&bad::query(id as u16, bad::NAME, 1), target);
            waiting.insert(id, (socket, now.as_millis() as u64));
            outcome.sent += 1;
        }
        let count = epoll.wait(&mut events, EpollTimeout::from(1u8)).expect("events");
        for event in &events[..count] {
            let Some((socket, _)) = waiting.remove(&event.data()) else { continue };
            let mut bytes = [0; 512];
            let Ok((len, from)) = socket.recv_from(&mut bytes) else { continue };
            outcome.answered += 1;
            let is_right =
                from == target && len > 12 && bytes[..2] == (event.data() as u16).to_be_bytes() && bytes[3] & 15 == 0;
            outcome.wrong += u64::from(!is_right);
        }
        if !is_sending && (waiting.is_empty() || start.elapsed() > last + TIMEOUT) {
            break;
        }
        // Sockets of lost queries are not held forever.
        let overdue = start.elapsed().saturating_sub(TIMEOUT).as_millis() as u64;
        let lost: Vec<u64> = waiting.iter().filter(|(_, (_, sent))| *sent < overdue).map(|(id, _)| *id).collect();
        outcome.lost.extend(lost.iter().filter_map(|id| waiting.remove(id)).map(|(_, sent)| sent));
    }
    outcome.lost.extend(waiting.into_values().map(|(_, sent)| sent));
    outcome.lost.sort_unstable();
    let lost: String = outcome.lost.iter().map(|time| format!(" {time}")).collect();
    println!("load: {} {} {}{lost}", outcome.sent, outcome.answered, outcome.wrong);
    std::io::stdout().flush().expect("written");
}

/// Returns a socket at the next port. A port is not used again for a minute, in which connection tracking would send
/// its query to the server of the previous one, even if that is gone. The first port of a load is that of its time.
fn bind_next(port: &mut u16) -> UdpSocket {
    loop {
        *port = (*port + 1) % PORTS as u16;
        // A few are in use.
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, *port + 1_024)) {
            return socket;
        }
    }
}

/// Looks names up as `tests/node/clients` says.
fn hickory(questions: &[String]) {
    use hickory_resolver::TokioResolver;
    use hickory_resolver::proto::rr::RData;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let resolver = TokioResolver::builder_tokio().expect("the system's configuration").build().expect("a resolver");
        for question in questions {
            let (kind, name) = question.split_once('=').expect("a question");
            let found = match kind {
                "host" => resolver.lookup_ip(name).await.map(|found| found.iter().map(|ip| ip.to_string()).collect()),
                "srv" => resolver.srv_lookup(name).await.map(|found| {
                    let records = found.answers().iter().filter_map(|record| match &record.data {
                        RData::SRV(srv) => {
                            Some(format!("{}:{}", srv.target.to_string().trim_end_matches('.'), srv.port))
                        }
                        _ => None,
                    });
                    records.collect()
                }),
                _ => {
                    let address: std::net::IpAddr = name.parse().expect("an address");
                    resolver.reverse_lookup(address).await.map(|found| {
                        let records = found.answers().iter().filter_map(|record| match &record.data {
                            RData::PTR(name) => Some(name.0.to_string().trim_end_matches('.').to_owned()),
                            _ => None,
                        });
                        records.collect()
                    })
                }
            };
            let result = match found {
                Ok(list) => {
                    let mut list: Vec<String> = list;
                    list.sort();
                    list.dedup();
                    if list.is_empty() { "-".to_owned() } else { list.join(" ") }
                }
                Err(error) if error.is_no_records_found() || error.is_nx_domain() => "-".to_owned(),
                Err(error) => format!("!{error}"),
            };
            println!("{question}\t{result}");
        }
    });
}
