//! Compares two servers: this one and CoreDNS, with the same Corefile in the same cluster.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clusterdns::wire::Rcode;
use libtest_mimic::Failed;

use super::allowed::{Allowed, everywhere, is_alias, is_allowed};
use super::ask::{Answer, Question, ask_all};
use super::cluster::{Access, Cluster};
use super::corefiles::Corefile;
use super::marker::Marker;
use super::ports::{self, on_loopback};
use super::questions::Objects;
use super::server::{Server, Software};
use super::wait::SOON;

/// The number of differences in a message.
const SHOWN: usize = 15;

/// The two servers, with the same Corefiles, each on its own port.
pub struct Pair {
    /// This server.
    pub ours: Server,
    theirs: Server,
    blocks: Vec<Block>,
}

/// A Corefile and its port.
struct Block {
    corefile: Corefile,
    ours: SocketAddr,
    theirs: SocketAddr,
    allowed: Vec<Allowed>,
}

/// The number of queries.
#[derive(Clone, Copy)]
pub enum Depth {
    /// All.
    Full,
    /// About this many of them, chosen at random.
    Some(usize),
}

impl Pair {
    /// Starts both.
    pub fn start(cluster: &Cluster, corefiles: &[Corefile]) -> Pair {
        let access = cluster.access();
        let start = |software| {
            let (text, ports) = together(corefiles, &access);
            let folder = cluster.folder();
            std::thread::spawn(move || (Server::start(software, &text, ports[0], folder), ports))
        };
        // At the same time, since each waits for its first list.
        let both = [Software::Clusterdns, Software::CoreDns].map(start);
        let [(ours, our_ports), (theirs, their_ports)] = both.map(|server| server.join().expect("it starts"));
        let blocks = corefiles.iter().zip(our_ports.into_iter().zip(their_ports)).map(|(corefile, ports)| {
            let own = corefile.differs.iter().map(|line| Allowed::parse(line).expect("a line of this form"));
            let allowed = everywhere().iter().cloned().chain(own).collect();
            Block { corefile: *corefile, ours: on_loopback(ports.0), theirs: on_loopback(ports.1), allowed }
        });
        let blocks = blocks.collect();
        Pair { ours, theirs, blocks }
    }

    /// Waits until both know everything that was done before the marker was set.
    pub fn wait_for(&self, marker: &Marker, deadline: Duration) {
        for block in &self.blocks {
            for (at, server) in [(block.ours, &self.ours), (block.theirs, &self.theirs)] {
                marker.wait(at, server, &block.corefile, deadline);
            }
        }
    }

    /// Waits until this server does.
    pub fn wait_for_ours(&self, marker: &Marker, deadline: Duration) {
        for block in &self.blocks {
            marker.wait(block.ours, &self.ours, &block.corefile, deadline);
        }
    }

    /// Restarts CoreDNS, whose list at its start is the reference.
    pub fn renew_theirs(&mut self, cluster: &Cluster) {
        let corefiles: Vec<Corefile> = self.blocks.iter().map(|block| block.corefile).collect();
        let (text, ports) = together(&corefiles, &cluster.access());
        self.theirs = Server::start(Software::CoreDns, &text, ports[0], cluster.folder());
        for (block, port) in self.blocks.iter_mut().zip(ports) {
            block.theirs = on_loopback(port);
        }
    }

    /// Compares the answers to all queries.
    pub fn compare(&self, objects: &Objects, depth: Depth) -> Result<(), Failed> {
        for block in &self.blocks {
            block.compare(objects, depth).map_err(|wrong| format!("{}: {wrong}", block.corefile.name))?;
        }
        Ok(())
    }
}

impl Block {
    /// Differing queries are repeated until they agree, so that a server may be a moment behind.
    fn compare(&self, objects: &Objects, depth: Depth) -> Result<(), String> {
        let mut questions = objects.questions(self.corefile.zones);
        if let Depth::Some(wanted) = depth {
            let share = wanted as f64 / questions.len() as f64;
            questions.retain(|_| fastrand::f64() < share);
        }
        let total = questions.len();
        let start = Instant::now();
        let (mut found, mut allowed) = (0, 0);
        let mut differences = Vec::new();
        // On a busy machine one round may take all the time.
        for round in 1.. {
            let [ours, theirs] = [self.ours, self.theirs].map(|at| ask_all(at, &questions));
            differences = Vec::new();
            for ((question, ours), theirs) in questions.into_iter().zip(ours).zip(theirs) {
                if ours.is_some() && self.is_same(&ours, &theirs) {
                    found += usize::from(!ours.is_some_and(|answer| answer.sections[0].is_empty()));
                } else if self.is_allowed(&question, &ours, &theirs) {
                    allowed += 1;
                } else {
                    differences.push((question, ours, theirs));
                }
            }
            if differences.is_empty() || (start.elapsed() > SOON && round >= 4) {
                break;
            }
            questions = differences.iter().map(|(question, ..)| question.clone()).collect();
        }
        let counts = format!("{total} questions, {allowed} allowed to differ, {} differ", differences.len());
        if !differences.is_empty() {
            return Err(format!("{counts}\n{}", shown(&differences)));
        }
        // Two servers that know nothing agree as well.
        if found < total / 100 { Err(format!("{counts}, and only {found} have answers")) } else { Ok(()) }
    }

    fn is_same(&self, ours: &Option<Answer>, theirs: &Option<Answer>) -> bool {
        let lower = |answer: &Option<Answer>| answer.as_ref().map(Answer::in_lower_case);
        ours == theirs || self.corefile.lowers && lower(ours) == lower(theirs)
    }

    fn is_allowed(&self, question: &Question, ours: &Option<Answer>, theirs: &Option<Answer>) -> bool {
        let (Some(ours), Some(theirs)) = (ours, theirs) else { return false };
        // The expressions refer to the usual zone.
        let mut name = question.name.to_lowercase();
        for zone in self.corefile.zones {
            if let Some(rest) = name.strip_suffix(zone) {
                name = format!("{rest}cluster.local");
                break;
            }
        }
        let text = format!("{name} {}", question.rtype);
        let (mut ours, mut theirs) = (ours.clone(), theirs.clone());
        if self.corefile.lowers {
            (ours, theirs) = (ours.in_lower_case(), theirs.in_lower_case());
        }
        if self.corefile.falls_through {
            (ours, theirs) = (without_denying_zone(&ours, &theirs), without_denying_zone(&theirs, &ours));
            // Nothing denies the target of an alias that falls through (row 143), so that there is no SOA.
            let [answer, authority, _] = &ours.sections;
            if authority.is_empty() && !answer.is_empty() && answer.iter().all(|record| is_alias(record)) {
                theirs.sections[1].clear();
            }
        }
        is_allowed(&self.allowed, &text, &theirs, &ours)
    }
}

/// Returns a response without a next plugin as if the name had been denied like `other`.
fn without_denying_zone(answer: &Answer, other: &Answer) -> Answer {
    let has_no_zone =
        answer.rcode == Rcode::SERVFAIL.0 && answer.flags.is_empty() && answer.sections.concat().is_empty();
    if !has_no_zone {
        return answer.clone();
    }
    let sections = [Vec::new(), other.sections[1].clone(), Vec::new()];
    Answer { rcode: Rcode::NXDOMAIN.0, flags: other.flags.clone(), sections, ..answer.clone() }
}

/// Joins the Corefiles, and returns their ports.
fn together(corefiles: &[Corefile], access: &Access) -> (String, Vec<u16>) {
    let ports: Vec<u16> = corefiles.iter().map(|_| ports::free()).collect();
    let api = format!("kubeconfig {}", access.kubeconfig.display());
    let texts = corefiles.iter().zip(&ports).map(|(corefile, port)| corefile.text(&api, *port));
    (texts.collect(), ports)
}

/// Formats some of the differences, and a summary of all.
fn shown(differences: &[(Question, Option<Answer>, Option<Answer>)]) -> String {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let head = |answer: &Option<Answer>| answer.as_ref().map_or("no response".to_owned(), Answer::head);
    for (question, ours, theirs) in differences {
        *kinds.entry(format!("{}: {} | {}", question.rtype, head(ours), head(theirs))).or_default() += 1;
    }
    let text = |answer: &Option<Answer>| answer.as_ref().map_or("no response".to_owned(), Answer::to_string);
    let lines = differences.iter().take(SHOWN).map(|(question, ours, theirs)| {
        format!("{question}\n    ours: {}\n    CoreDNS: {}\n", text(ours), text(theirs))
    });
    let kinds = kinds.iter().map(|(kind, count)| format!("{count} x {kind}\n"));
    lines.chain(kinds).collect()
}
