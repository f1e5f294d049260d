//! Programs that run beside the tests and never outlive them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};

/// A running program; dropping it kills it.
pub struct Process {
    child: Child,
    log: PathBuf,
}

/// A request to the thread that starts programs.
type Order = (Command, Sender<std::io::Result<Child>>);

impl Process {
    /// Starts a program whose standard output and error are appended to a file.
    pub fn start(program: &Path, arguments: &[String], log: PathBuf) -> Process {
        let file = File::options().create(true).append(true).open(&log).expect("a log file");
        // The kernel kills it when the thread that started it ends, however this program exits.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a second handle")).stderr(file);
        let child = start(command).unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Process { child, log }
    }

    /// Returns its process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the text of its log file, including that of earlier programs with the same file.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Returns the last lines of the log, for a message.
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Returns whether it is running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal, named as for kill(1).
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill runs");
        assert!(status.success(), "kill -{name} {pid}: {status}");
    }

    /// Waits until it exits.
    pub fn wait(mut self) {
        self.child.wait().expect("a status");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a child from a thread that lives as long as this program: for the kernel, the parent is a thread (prctl(2),
/// PR_SET_PDEATHSIG), and threads of tests end earlier.
fn start(command: Command) -> std::io::Result<Child> {
    static THREAD: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let thread = THREAD.get_or_init(|| {
        let (orders, taken) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, done) in taken {
                let _ = done.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (done, child) = channel();
    thread.lock().expect("never poisoned").send((command, done)).expect("the thread lives");
    child.recv().expect("the thread answers")
}
