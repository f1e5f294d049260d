//! The local socket of a running server, through which `clusterdns explain`, `resolve` and `top` in the same Pod ask.
//!
//! The socket has an abstract address, which needs no writable file system. Its name has the PID namespace and the
//! process ID, so that servers in the host network do not collide. Both sides accept only a process of the same PID
//! namespace and of the same user, or root: the kernel reports that as the credentials of the peer.

use std::borrow::Cow;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::ask::{Ask, ResolveAsk, Resolved};
use super::engine::Engine;
use crate::app::top::{TopAsk, TopReport};
use crate::explain::Report;

/// The beginning of the socket's name.
const PREFIX: &str = "clusterdns/explain";
/// The maximum length of a question in bytes.
const MAX_QUESTION: u64 = 16 * 1024;
/// The maximum length of an answer in bytes.
const MAX_ANSWER: u64 = 4 << 20;
/// How long each side waits for the other one.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The number of questions that are answered at once; others wait.
const AT_ONCE: usize = 1;
/// The number of connections; further ones are closed.
const CONNECTIONS: usize = 4;

/// A question of a user.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SocketQuestion<'a> {
    Explain(Cow<'a, Ask>),
    Resolve(Cow<'a, ResolveAsk>),
    Top(Cow<'a, TopAsk>),
}

/// The answer to a question.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SocketAnswer {
    Report(Box<Report>),
    Resolved(Box<Resolved>),
    Top(Box<TopReport>),
    Error(String),
}

impl SocketAnswer {
    /// Returns the answer as it is sent.
    fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// Returns the answer of a server that has no turn for the question.
    fn busy() -> Vec<u8> {
        SocketAnswer::Error("the server is busy with other questions: try again".to_owned()).to_line()
    }
}

/// What the running server serves. Written when a configuration is applied.
pub(crate) type SharedEngine = Arc<RwLock<Option<Engine>>>;

/// Returns the number of the PID namespace.
fn pid_namespace() -> Option<String> {
    let link = std::fs::read_link("/proc/self/ns/pid").ok()?;
    let number: String = link.to_str()?.chars().filter(char::is_ascii_digit).collect();
    Some(number)
}

/// Starts to answer. A server whose socket cannot be bound works without it.
pub(crate) fn serve(engine: SharedEngine, runtime: &Handle) {
    let Some(namespace) = pid_namespace() else { return };
    let name = format!("{PREFIX}/{namespace}/{}", std::process::id());
    let bound = SocketAddr::from_abstract_name(name).and_then(|address| UnixListener::bind_addr(&address));
    let listener = bound.and_then(|listener| {
        listener.set_nonblocking(true)?;
        let _runtime = runtime.enter();
        tokio::net::UnixListener::from_std(listener)
    });
    match listener {
        Ok(listener) => drop(runtime.spawn(accept(listener, engine))),
        Err(error) => tracing::debug!(%error, "'clusterdns explain' cannot ask this server"),
    }
}

/// Accepts connections of the same user.
async fn accept(listener: tokio::net::UnixListener, engine: SharedEngine) {
    let (connections, turns) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Semaphore::new(AT_ONCE)));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptor is free.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let credentials = stream.peer_cred().ok().map(|of| (of.uid(), of.pid()));
        if !credentials.is_some_and(|(user, process)| is_trusted(user, process)) {
            continue;
        }
        let Ok(permit) = connections.clone().try_acquire_owned() else {
            // The buffer of a new connection has space for this.
            let _ = stream.try_write(&SocketAnswer::busy());
            continue;
        };
        let (engine, turns) = (engine.clone(), turns.clone());
        tokio::spawn(async move {
            // A client that fails, or is slow, gets no answer.
            let _ = tokio::time::timeout(3 * TIMEOUT, serve_connection(stream, &engine, turns)).await;
            drop(permit);
        });
    }
}

/// Reads the question of a connection, and answers it when it is its turn.
async fn serve_connection(
    mut stream: tokio::net::UnixStream, engine: &SharedEngine, turns: Arc<Semaphore>,
) -> std::io::Result<()> {
    let mut line = String::new();
    let reading = tokio::io::BufReader::new((&mut stream).take(MAX_QUESTION));
    tokio::time::timeout(TIMEOUT, { reading }.read_line(&mut line)).await??;
    let answer = match tokio::time::timeout(TIMEOUT, turns.acquire_owned()).await {
        Err(_) | Ok(Err(_)) => SocketAnswer::busy(),
        Ok(Ok(turn)) => {
            let (current, runtime) = (engine.read().clone(), Handle::current());
            let answering = move || {
                let _turn = turn;
                answer(&line, current, &runtime).to_line()
            };
            // A panic has been logged.
            tokio::task::spawn_blocking(answering).await?
        }
    };
    stream.write_all(&answer).await
}

/// Returns whether a peer may ask, or is to be believed. A process of another PID namespace has no number here.
fn is_trusted(user: u32, process: Option<i32>) -> bool {
    let own = nix::unistd::geteuid();
    (user == own.as_raw() || user == 0) && process.is_some_and(|process| process > 0)
}

/// Answers a question.
fn answer(line: &str, current: Option<Engine>, runtime: &Handle) -> SocketAnswer {
    match (serde_json::from_str::<SocketQuestion<'_>>(line), current) {
        (Err(error), _) => SocketAnswer::Error(format!("the question cannot be read: {error}")),
        (_, None) => SocketAnswer::Error("the server is still starting".to_owned()),
        (Ok(SocketQuestion::Explain(ask)), Some(engine)) => match engine.explain(&ask, runtime) {
            Ok(report) => SocketAnswer::Report(Box::new(report)),
            Err(error) => SocketAnswer::Error(error),
        },
        (Ok(SocketQuestion::Resolve(ask)), Some(engine)) => match engine.resolve(&ask, runtime) {
            Ok(resolved) => SocketAnswer::Resolved(Box::new(resolved)),
            Err(error) => SocketAnswer::Error(error),
        },
        (Ok(SocketQuestion::Top(ask)), Some(engine)) => match &engine.top {
            Some(top) => SocketAnswer::Top(Box::new(top.report(&ask.into_owned().limited()))),
            None => SocketAnswer::Error("this server was started with -top=false, and does not count".to_owned()),
        },
    }
}

/// Asks the server that runs in this PID namespace to explain a name. An error is a line for the user.
pub(super) fn ask(ask: &Ask, server: Option<u32>) -> Result<Report, String> {
    match send(&SocketQuestion::Explain(Cow::Borrowed(ask)), server, NO_SOURCE)? {
        SocketAnswer::Report(report) => Ok(*report),
        SocketAnswer::Error(error) => Err(error),
        SocketAnswer::Resolved(_) | SocketAnswer::Top(_) => Err(OTHER_VERSION.to_owned()),
    }
}

/// Asks the server that runs in this PID namespace to resolve a name. An error is a line for the user.
pub(super) fn resolve(ask: &ResolveAsk, server: Option<u32>) -> Result<Resolved, String> {
    match send(&SocketQuestion::Resolve(Cow::Borrowed(ask)), server, NO_SOURCE)? {
        SocketAnswer::Resolved(resolved) => Ok(*resolved),
        SocketAnswer::Error(error) => Err(error),
        SocketAnswer::Report(_) | SocketAnswer::Top(_) => Err(OTHER_VERSION.to_owned()),
    }
}

/// Asks the server that runs in this PID namespace who asks what. An error is a line for the user.
pub(crate) fn ask_top(ask: &TopAsk, server: Option<u32>) -> Result<TopReport, String> {
    match send(&SocketQuestion::Top(Cow::Borrowed(ask)), server, NO_SERVER)? {
        SocketAnswer::Top(report) => Ok(*report),
        SocketAnswer::Error(error) => Err(error),
        SocketAnswer::Report(_) | SocketAnswer::Resolved(_) => Err(OTHER_VERSION.to_owned()),
    }
}

/// The error if the answer is one to another question.
const OTHER_VERSION: &str = "the server that runs here has another version";

/// Sends a question to the server. `absent` is the error if there is none.
fn send(question: &SocketQuestion<'_>, server: Option<u32>, absent: &str) -> Result<SocketAnswer, String> {
    let mut answers = Vec::new();
    for name in names(server)? {
        // The socket may be that of a process that has just exited, or of another user.
        if let Ok(answer) = send_to(&name, question) {
            answers.push((name, answer));
        }
    }
    match answers.len() {
        0 => Err(absent.to_owned()),
        1 => Ok(answers.remove(0).1),
        _ => {
            let process = |(name, _): &(String, SocketAnswer)| {
                let process = name.rsplit('/').next().unwrap_or_default();
                format!("{process}{}", flags_of(process))
            };
            let processes: Vec<String> = answers.iter().map(process).collect();
            Err(format!("several servers run here: choose one with -server {}", processes.join(" or ")))
        }
    }
}

/// Returns the flags of a process in parentheses, as far as they can be read.
fn flags_of(process: &str) -> String {
    let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|byte| *byte == 0).skip(1).map(String::from_utf8_lossy).collect();
    let flags = words.join(" ").trim().to_owned();
    if flags.is_empty() { flags } else { format!(" ({flags})") }
}

/// The error when there is no server, for commands that have other sources.
const NO_SOURCE: &str = "no clusterdns server of this user runs here; run the command in its Pod \
                           (kubectl exec -n kube-system deploy/coredns -- /clusterdns explain NAME), or name a source: \
                           -kubeconfig FILE or -manifests PATH";
/// The error when there is no server, for commands that ask a server only.
const NO_SERVER: &str = "no clusterdns server of this user runs here; run the command in its Pod \
                         (kubectl exec -n kube-system deploy/coredns -- /clusterdns top)";

/// Returns the names of the sockets of servers in this PID namespace.
fn names(server: Option<u32>) -> Result<Vec<String>, String> {
    let namespace = pid_namespace().ok_or("cannot read /proc/self/ns/pid")?;
    let prefix = format!("{PREFIX}/{namespace}/");
    let sockets = std::fs::read_to_string("/proc/net/unix").map_err(|error| format!("/proc/net/unix: {error}"))?;
    let names = sockets.lines().filter_map(|line| line.split_whitespace().nth(7)?.strip_prefix('@'));
    let mut found: Vec<String> = names.filter(|name| name.starts_with(&prefix)).map(str::to_owned).collect();
    found.sort();
    found.dedup();
    if let Some(server) = server {
        found.retain(|name| name.strip_prefix(&prefix) == Some(&server.to_string()));
        if found.is_empty() {
            return Err(format!("no clusterdns server with process ID {server} runs here"));
        }
    }
    Ok(found)
}

/// Connects to a socket. One whose queue of connections is full is not waited for: the name may be that of a process
/// that accepts none.
fn connect(name: &str) -> std::io::Result<UnixStream> {
    let (kind, flags) = (SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC);
    let socket = nix::sys::socket::socket(AddressFamily::Unix, kind, flags, None)?;
    nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Sends a question to one server.
fn send_to(name: &str, question: &SocketQuestion<'_>) -> std::io::Result<SocketAnswer> {
    let stream = connect(name)?;
    // Another process may have taken the name.
    let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials)?;
    if !is_trusted(peer.uid(), Some(peer.pid())) {
        return Err(std::io::ErrorKind::PermissionDenied.into());
    }
    stream.set_read_timeout(Some(2 * TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut text = serde_json::to_vec(question)?;
    text.push(b'\n');
    // A server without a turn answers without reading.
    let _ = (&stream).write_all(&text);
    let mut line = String::new();
    BufReader::new((&stream).take(MAX_ANSWER)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{Backlog, bind, listen, socket};

    use super::*;

    /// The process that has bound the name accepts no connection.
    #[test]
    fn a_full_queue_of_connections_is_not_waited_for() {
        let name = format!("{PREFIX}/test/{}", std::process::id());
        let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        bind(listener.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes()).expect("a name")).expect("bound");
        listen(&listener, Backlog::new(0).expect("a number")).expect("it listens");
        let mut queued = Vec::new();
        let full = (0..10).find_map(|_| connect(&name).map(|stream| queued.push(stream)).err());
        assert_eq!(full.expect("the queue is full").kind(), std::io::ErrorKind::WouldBlock);
        assert!(!queued.is_empty());
    }
}
