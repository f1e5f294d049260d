//! A running DNS server with a Corefile: this one, or CoreDNS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clusterdns::wire::Type;

use super::ask::{Answer, Question, ask};
use super::parts;
use super::ports::on_loopback;
use super::process::Process;
use super::wait::{SOON, eventually};

/// The program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Software {
    Clusterdns,
    CoreDns,
}

/// A running server; dropping it kills it.
pub struct Server {
    process: Process,
    /// Its address, for both transports.
    pub at: SocketAddr,
    conf: PathBuf,
}

impl Software {
    fn program(self) -> &'static Path {
        match self {
            // A comparison of CoreDNS with itself shows the quality of the comparison.
            Software::Clusterdns if std::env::var_os("SUBJECT_IS_COREDNS").is_some() => parts::path("coredns"),
            Software::Clusterdns => Path::new(env!("CARGO_BIN_EXE_clusterdns")),
            Software::CoreDns => parts::path("coredns"),
        }
    }
}

impl Server {
    /// Starts it in a new directory, and waits until it responds on a port of its Corefile.
    pub fn start(software: Software, corefile: &str, port: u16, folder: PathBuf) -> Server {
        let mut server = Server::launch(software, corefile, port, folder);
        eventually("the server answers", SOON, || {
            assert!(server.is_running(), "{software:?} has ended:\n{}", server.log());
            server.ask("localhost. A").ok_or_else(|| "no response".to_owned())
        });
        server
    }

    /// Starts it without waiting.
    pub fn launch(software: Software, corefile: &str, port: u16, folder: PathBuf) -> Server {
        Server::launch_with(software, corefile, port, folder, &[])
    }

    /// Like [`Server::launch`], with more arguments.
    pub fn launch_with(software: Software, corefile: &str, port: u16, folder: PathBuf, more: &[&str]) -> Server {
        let conf = folder.join("Corefile");
        std::fs::write(&conf, corefile).expect("a file");
        let mut arguments = vec!["-conf".to_owned(), conf.display().to_string()];
        arguments.extend(more.iter().map(|&word| word.to_owned()));
        let process = Process::start(software.program(), &arguments, folder.join("log"));
        Server { process, at: on_loopback(port), conf }
    }

    /// Returns the path of its Corefile.
    pub fn conf(&self) -> &Path {
        &self.conf
    }

    /// Writes another Corefile.
    pub fn rewrite(&self, corefile: &str) {
        std::fs::write(&self.conf, corefile).expect("a file");
    }

    /// Makes it reload its Corefile.
    pub fn reload(&self) {
        self.signal("USR1");
    }

    /// Sends a signal, named as for kill(1).
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Queries `NAME TYPE` over UDP; returns `None` without a response.
    pub fn ask(&self, question: &str) -> Option<Answer> {
        ask(self.at, &read(question))
    }

    /// Waits until `NAME TYPE` has an answer: the code, and the sorted data of the answers of that type.
    pub fn comes_to(&self, question: &str, expected: &str) {
        self.comes_to_within(SOON, question, expected);
    }

    /// Like [`Server::comes_to`], with another deadline.
    pub fn comes_to_within(&self, deadline: Duration, question: &str, expected: &str) {
        let condition = format!("{question} is answered '{expected}'");
        eventually(&condition, deadline, || match self.ask(question) {
            Some(answer) if answer.brief() == expected => Ok(()),
            Some(answer) => Err(format!("{answer}\n{}", self.last_words())),
            None => Err(format!("no response\n{}", self.last_words())),
        });
    }

    /// Returns the number of its open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).map_or(0, Iterator::count)
    }

    /// Returns its log.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Returns the last lines of its log, for a message.
    pub fn last_words(&self) -> String {
        self.process.last_words()
    }

    /// Returns whether it is running.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }
}

/// Parses `NAME TYPE`.
pub fn read(question: &str) -> Question {
    let (name, rtype) = question.split_once(' ').expect("a name and a type");
    Question::new(name, Type::from_mnemonic(rtype).expect("a type"))
}
