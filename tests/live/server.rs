//! A DNS server that runs with a Corefile: this one, or CoreDNS beside it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clusterdns::wire::Type;

use super::ask::{Answer, Question, ask};
use super::parts;
use super::patience::{SOON, eventually};
use super::ports::on_loopback;
use super::process::Process;

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Software {
    Clusterdns,
    CoreDns,
}

/// A running server; dropping it kills it.
pub struct Server {
    process: Process,
    /// Where it listens, for both transports.
    pub at: SocketAddr,
    conf: PathBuf,
}

impl Software {
    fn program(self) -> &'static Path {
        match self {
            // To compare CoreDNS with itself shows what the comparison is worth.
            Software::Clusterdns if std::env::var_os("SUBJECT_IS_COREDNS").is_some() => parts::path("coredns"),
            Software::Clusterdns => Path::new(env!("CARGO_BIN_EXE_clusterdns")),
            Software::CoreDns => parts::path("coredns"),
        }
    }
}

impl Server {
    /// Starts it in a folder of its own and waits until it answers anything on a port of its Corefile.
    pub fn start(software: Software, corefile: &str, port: u16, folder: PathBuf) -> Server {
        let mut server = Server::launch(software, corefile, port, folder);
        eventually("the server answers", SOON, || {
            assert!(server.is_running(), "{software:?} has ended:\n{}", server.log());
            server.ask("localhost. A").ok_or_else(|| "silence".to_owned())
        });
        server
    }

    /// Starts it and waits for nothing.
    pub fn launch(software: Software, corefile: &str, port: u16, folder: PathBuf) -> Server {
        Server::launch_with(software, corefile, port, folder, &[])
    }

    /// As [`Server::launch`], with more arguments.
    pub fn launch_with(software: Software, corefile: &str, port: u16, folder: PathBuf, more: &[&str]) -> Server {
        let conf = folder.join("Corefile");
        std::fs::write(&conf, corefile).expect("a file");
        let mut arguments = vec!["-conf".to_owned(), conf.display().to_string()];
        arguments.extend(more.iter().map(|&word| word.to_owned()));
        let process = Process::start(software.program(), &arguments, folder.join("log"));
        Server { process, at: on_loopback(port), conf }
    }

    /// Its Corefile.
    pub fn conf(&self) -> &Path {
        &self.conf
    }

    /// Writes another Corefile.
    pub fn rewrite(&self, corefile: &str) {
        std::fs::write(&self.conf, corefile).expect("a file");
    }

    /// Has it load its Corefile anew.
    pub fn reload(&self) {
        self.signal("USR1");
    }

    /// Sends a signal, named as for kill(1).
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Asks `NAME TYPE` over UDP; `None` where nothing comes.
    pub fn ask(&self, question: &str) -> Option<Answer> {
        ask(self.at, &read(question))
    }

    /// Waits until `NAME TYPE` has this answer: the rcode, and the data of the answers of that type, sorted.
    pub fn comes_to(&self, question: &str, expected: &str) {
        self.comes_to_within(SOON, question, expected);
    }

    /// As [`Server::comes_to`], with another deadline.
    pub fn comes_to_within(&self, deadline: Duration, question: &str, expected: &str) {
        let told = format!("{question} is answered '{expected}'");
        eventually(&told, deadline, || match self.ask(question) {
            Some(answer) if answer.brief() == expected => Ok(()),
            Some(answer) => Err(format!("{answer}\n{}", self.last_words())),
            None => Err(format!("silence\n{}", self.last_words())),
        });
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).map_or(0, Iterator::count)
    }

    /// Its lines so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The last of its lines, for a message.
    pub fn last_words(&self) -> String {
        self.process.last_words()
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }
}

/// Reads `NAME TYPE`.
pub fn read(question: &str) -> Question {
    let (name, rtype) = question.split_once(' ').expect("a name and a type");
    Question::new(name, Type::from_mnemonic(rtype).expect("a type"))
}
