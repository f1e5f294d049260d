//! Which server a query goes to next, and when it has failed (CoreDNS `Forward.ServeDNS`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Error, MAX_UPSTREAMS};
use crate::upstream::group::{Group, Transport, Upstream};
use crate::wire::Message;

/// How long a query may take in all (CoreDNS plugin/forward `defaultTimeout`).
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Failed failures for each server, where nothing else is said.
const ATTEMPTS_PER_UPSTREAM: u32 = 2;
/// Failed failures where any number may be made: what fails at once would be tried without end.
const MOST_ATTEMPTS: u32 = 64;

/// A query on its way through the servers of a group.
pub struct Attempts {
    group: Arc<Group>,
    /// The servers as they were when it began.
    upstreams: Arc<Vec<Arc<Upstream>>>,
    order: [u8; MAX_UPSTREAMS],
    /// The place in the order that is looked at next.
    at: u8,
    /// The server that is asked.
    current: u8,
    /// Servers that were passed over in this round since they are down.
    down: u8,
    /// Codes that made the next server be asked.
    failovers: u8,
    /// Attempts that failed.
    failures: u32,
    /// Use a stream.
    stream: bool,
    /// The server's answer over UDP was cut; ask it again over TCP.
    cut: bool,
    deadline: Instant,
    error: Option<Error>,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum NextStep {
    /// Send it over UDP and wait until then.
    Udp(Instant),
    /// Send it over a stream, which ends by then.
    Stream(Instant),
    /// There is no answer.
    End(Error),
}

/// What an answer is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is the client's.
    Deliver,
    /// UpstreamQuery again: another server, or the same one over TCP.
    Again,
}

impl Attempts {
    pub(super) fn new(
        group: Arc<Group>, upstreams: Arc<Vec<Arc<Upstream>>>, order: [u8; MAX_UPSTREAMS], stream: bool, now: Instant,
    ) -> Attempts {
        let stream = group.rules.force_tcp || stream && !group.rules.prefer_udp;
        let (deadline, error) = (now + PATIENCE, None);
        let (at, current, down, failovers, failures, cut) = (0, 0, 0, 0, 0, false);
        Attempts { group, upstreams, order, at, current, down, failovers, failures, stream, cut, deadline, error }
    }

    /// The group.
    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// The server that the last move was for.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstreams[usize::from(self.current)]
    }

    /// Whether a stream is used, as far as that is known before a server is chosen: part of what makes two queries alike.
    pub fn is_stream(&self) -> bool {
        self.stream
    }

    /// When the query ends, whatever happens.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The next move.
    pub fn next(&mut self, now: Instant) -> NextStep {
        let rules = &self.group.rules;
        let len = self.upstreams.len() as u8;
        let most = rules.max_attempts.unwrap_or(ATTEMPTS_PER_UPSTREAM * u32::from(len));
        let most = if most == 0 { MOST_ATTEMPTS } else { most };
        if len == 0 || now >= self.deadline || self.failures >= most {
            return self.end();
        }
        if self.cut {
            return NextStep::Stream((now + rules.read_timeout).min(self.deadline));
        }
        loop {
            if self.at >= len {
                (self.at, self.down) = (0, 0);
            }
            self.current = self.order[usize::from(self.at)];
            self.at += 1;
            let fails = self.upstream().fails.load(Ordering::Relaxed);
            if rules.max_fails == 0 || fails <= rules.max_fails {
                break;
            }
            self.down += 1;
            if self.down < len {
                continue;
            }
            self.group.counts.all_down();
            if rules.failfast {
                return self.end();
            }
            // The checks may be what is broken: any server, then.
            self.current = fastrand::u8(..len);
            break;
        }
        let until = (now + rules.read_timeout).min(self.deadline);
        match self.upstream().transport {
            Transport::Dns if !self.stream => NextStep::Udp(until),
            // A connection that was kept and is dead is made anew within the same attempt.
            _ => NextStep::Stream(until),
        }
    }

    /// The attempt failed.
    pub fn failed(&mut self, error: Error) {
        if self.group.rules.max_fails > 0 {
            self.upstream().care.failed();
        }
        self.failures += 1;
        self.cut = false;
        self.error = Some(error);
    }

    /// An answer came after so long. What is cut is asked for again over TCP with *prefer_udp*.
    pub fn judge(&mut self, message: &Message<'_>, took: Duration) -> Judgement {
        let rcode = message.rcode();
        self.upstream().care.answered(rcode, took);
        let rules = &self.group.rules;
        let over_udp = !self.stream && !self.cut && self.upstream().transport == Transport::Dns;
        if message.is_truncated() && over_udp && rules.prefer_udp {
            self.cut = true;
            return Judgement::Again;
        }
        self.cut = false;
        if rules.failover.contains(&rcode) {
            self.failovers += 1;
            if usize::from(self.failovers) < self.upstreams.len() {
                return Judgement::Again;
            }
        }
        Judgement::Deliver
    }

    fn end(&mut self) -> NextStep {
        NextStep::End(self.error.take().unwrap_or(Error::NoHealthy))
    }
}

impl Drop for Attempts {
    fn drop(&mut self) {
        self.group.end();
    }
}
