//! What tests of the program share: it is started, asked and signalled.

// Each test uses its part of this module.
#![allow(dead_code)]

pub mod api;
pub mod upstream;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clusterdns::wire::hickory::decode;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clusterdns"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command
}

pub fn run<W: AsRef<OsStr>>(words: &[W]) -> Output {
    program().args(words).output().expect("the program runs")
}

/// Asks for a page; gives its status and body.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), body.to_owned())
}

/// Exit status, standard output and standard error.
pub fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A folder of this test run's own.
pub fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

pub fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

/// A server that runs until this is dropped, and the address that its first line names.
pub struct Running {
    pub child: Child,
    /// Where it answers.
    pub at: SocketAddr,
    /// What it said at start.
    pub lines: Vec<String>,
    /// What it has said since.
    later: Arc<Mutex<String>>,
}

impl Running {
    /// Starts it on a free port and waits for its last line at start.
    pub fn start(words: &[&str]) -> Running {
        Running::start_as(program(), words)
    }

    /// As [`Running::start`], with these limits of the shell's `ulimit`.
    pub fn start_within(limits: &str, words: &[&str]) -> Running {
        let mut command = Command::new("sh");
        command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
        command.args(["-c", &format!("ulimit {limits} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_clusterdns")]);
        Running::start_as(command, words)
    }

    /// The same of another command.
    pub fn start_as(mut command: Command, words: &[&str]) -> Running {
        let child = command.args(words).args(["-dns.port", "0"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("the program runs");
        let (mut port, mut said) = (None, Vec::new());
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
        loop {
            let mut line = String::new();
            let read = lines.read_line(&mut line).expect("a line");
            if read == 0 {
                let mut errors = String::new();
                child.stderr.take().expect("a pipe").read_to_string(&mut errors).expect("text");
                unreachable!("it has ended: {errors}");
            }
            if line.starts_with('.') {
                port = line.rsplit(':').next().and_then(|port| port.split_whitespace().next()?.parse().ok());
            }
            let is_last = line.contains("pid ");
            said.push(line);
            if is_last {
                break;
            }
        }
        // What it logs later is read, so that it is never in its way.
        let later = Arc::<Mutex<String>>::default();
        let said_later = later.clone();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                said_later.lock().expect("not poisoned").push_str(&format!("{line}\n"));
            }
        });
        let at = SocketAddr::from(([127, 0, 0, 1], port.expect("a line for the zone")));
        Running { child, at, lines: said, later }
    }

    /// Asks for addresses; gives the code and them.
    pub fn ask(&self, name: &str) -> (u8, Vec<String>) {
        let name = clusterdns::wire::NameBuf::from_text(name).expect("a name");
        let packet = [&[7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.as_wire(), &[0, 1, 0, 1]].concat();
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.send_to(&packet, self.at).expect("sent");
        let mut answer = [0; 4096];
        let len = socket.recv(&mut answer).expect("an answer");
        let message = decode(&answer[..len]).expect("a message");
        let mut addresses: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
        addresses.sort();
        (message.metadata.response_code.low(), addresses)
    }

    /// What it has logged since its start.
    pub fn log(&self) -> String {
        self.later.lock().expect("not poisoned").clone()
    }

    /// Where a directive's pages are that listens at any port.
    pub fn page(&self, directive: &str) -> SocketAddr {
        let start = format!("[INFO] plugin/{directive}: listening at ");
        let address = self.lines.iter().find_map(|line| line.strip_prefix(&start)?.trim().parse().ok());
        address.expect("a line with the address")
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill runs").success());
    }

    pub fn wait(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                return status.code();
            }
            assert!(start.elapsed() < PATIENCE, "it ends");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of a test that fails what the program says is of interest.
        if std::thread::panicking() {
            // If it is dying, it may take a moment.
            std::thread::sleep(Duration::from_millis(200));
            let status = self.child.try_wait();
            let _ = self.child.kill();
            let mut errors = String::new();
            let _ = self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut errors));
            eprintln!("the program, {status:?}, said:\n{}{}{errors}", self.lines.concat(), self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
