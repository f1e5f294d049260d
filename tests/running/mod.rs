//! Shared by the tests of the program: starts it, queries it and sends it signals.

// Each test uses only part of this module.
#![allow(dead_code)]

pub mod api;
pub mod upstream;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clusterdns::wire::hickory::decode;

/// The time limit of every operation.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// What is added to the next port that is tried.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// Returns a port that is free at every address, over UDP and TCP, and that the kernel gives to no connection: those
/// begin at 32,768.
pub fn port_free_everywhere() -> u16 {
    loop {
        let port = 10_000 + std::process::id() as u16 % 10_000 + NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        if UdpSocket::bind(("::", port)).is_ok() && TcpListener::bind(("::", port)).is_ok() {
            return port;
        }
    }
}

/// Returns the command that runs the program in the root of the project.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clusterdns"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command
}

/// Runs the program with these words until it exits.
pub fn run<W: AsRef<OsStr>>(words: &[W]) -> Output {
    program().args(words).output().expect("failed to start the program")
}

/// Requests a page and returns its status and body.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let (head, body) = request(address, "GET", path);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), body)
}

/// Sends an HTTP request. Returns the head of the response and its body.
pub fn request(address: SocketAddr, method: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).expect("connected");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

/// Returns exit status, standard output and standard error.
pub fn status_and_output(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Creates a directory of this name for this test run.
pub fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Writes a file, and returns its path.
pub fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

/// A running server, killed on drop, and the address from its startup lines.
pub struct Running {
    pub child: Child,
    /// Its DNS address, for UDP and TCP.
    pub at: SocketAddr,
    /// The lines that it printed at startup.
    pub lines: Vec<String>,
    /// The lines that it has printed since.
    later: Arc<Mutex<String>>,
}

impl Running {
    /// Starts it on a free port and waits for its last startup line.
    pub fn start(words: &[&str]) -> Running {
        Running::start_as(program(), words)
    }

    /// Like [`Running::start`], with limits set by the shell's `ulimit`.
    pub fn start_within(limits: &str, words: &[&str]) -> Running {
        let mut command = Command::new("sh");
        command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
        command.args(["-c", &format!("ulimit {limits} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_clusterdns")]);
        Running::start_as(command, words)
    }

    /// Like [`Running::start`], with another command.
    pub fn start_as(mut command: Command, words: &[&str]) -> Running {
        let child = command.args(words).args(["-dns.port", "0"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("failed to start the program");
        let mut port = None;
        let mut startup = Vec::new();
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
        loop {
            let mut line = String::new();
            let read = lines.read_line(&mut line).expect("a line");
            if read == 0 {
                let mut errors = String::new();
                child.stderr.take().expect("a pipe").read_to_string(&mut errors).expect("text");
                panic!("the program exited at startup: {errors}");
            }
            if line.starts_with('.') {
                port = line.rsplit(':').next().and_then(|port| port.split_whitespace().next()?.parse().ok());
            }
            let is_last = line.contains("pid ");
            startup.push(line);
            if is_last {
                break;
            }
        }
        // Later output is read as well, because a full pipe would block the program.
        let later = Arc::<Mutex<String>>::default();
        let log = later.clone();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                log.lock().expect("not poisoned").push_str(&format!("{line}\n"));
            }
        });
        let at = SocketAddr::from(([127, 0, 0, 1], port.expect("a line for the zone")));
        Running { child, at, lines: startup, later }
    }

    /// Sends an A query over UDP and returns the response code and the sorted addresses.
    pub fn ask(&self, name: &str) -> (u8, Vec<String>) {
        let name = clusterdns::wire::NameBuf::from_text(name).expect("a name");
        let packet = [&[7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.as_wire(), &[0, 1, 0, 1]].concat();
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        socket.send_to(&packet, self.at).expect("sent");
        let mut answer = [0; 4096];
        let len = socket.recv(&mut answer).expect("an answer");
        let message = decode(&answer[..len]).expect("a message");
        let mut addresses: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
        addresses.sort();
        (message.metadata.response_code.low(), addresses)
    }

    /// Returns what it has logged since startup.
    pub fn log(&self) -> String {
        self.later.lock().expect("not poisoned").clone()
    }

    /// Returns the address of a directive's HTTP listener that was configured with port 0.
    pub fn page(&self, directive: &str) -> SocketAddr {
        let start = format!("[INFO] plugin/{directive}: listening at ");
        let address = self.lines.iter().find_map(|line| line.strip_prefix(&start)?.trim().parse().ok());
        address.expect("a line with the address")
    }

    /// Sends a signal, such as `-TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill runs").success());
    }

    /// Waits until it exits, and returns the exit status.
    pub fn wait(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                return status.code();
            }
            assert!(start.elapsed() < TIMEOUT, "the program did not exit in time");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // When a test fails, its output is shown with the program's.
        if std::thread::panicking() {
            // Gives a crashing program a moment to exit.
            std::thread::sleep(Duration::from_millis(200));
            let status = self.child.try_wait();
            let _ = self.child.kill();
            let mut errors = String::new();
            let _ = self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut errors));
            eprintln!("output of the program (status {status:?}):\n{}{}{errors}", self.lines.concat(), self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
