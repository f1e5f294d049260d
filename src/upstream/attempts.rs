//! Which upstream a query goes to next, and when it has failed (CoreDNS `Forward.ServeDNS`). No I/O, no clock.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{AttemptTap, Error, MAX_UPSTREAMS, TappedAttempt};
use crate::upstream::group::{Group, Upstream, UpstreamTransport};
use crate::wire::Rcode;

/// No attempt starts later than this after the first one (CoreDNS plugin/forward `defaultTimeout`). One that has
/// started has its whole time.
pub(super) const LAST_START: Duration = Duration::from_secs(5);
/// Failed attempts for each upstream, where the configuration has no number (CoreDNS
/// `defaultConnectAttemptsPerUpstream`).
const ATTEMPTS_PER_UPSTREAM: u32 = 2;
/// Failed attempts where the configuration allows any number: one that fails at once would be repeated without end.
const MAX_ATTEMPTS: u32 = 64;

/// The transport on which plain DNS queries an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlainTransport {
    /// UDP. A truncated response is passed on: the client retries over TCP.
    Udp,
    /// UDP, and TCP when the response is truncated.
    UdpThenTcp,
    /// TCP.
    Tcp,
}

/// The attempts of one query at the upstreams of a group.
pub struct Attempts {
    group: Arc<Group>,
    /// The upstreams as they were when the query came.
    upstreams: Arc<Vec<Arc<Upstream>>>,
    order: [u8; MAX_UPSTREAMS],
    /// The place in the order that is looked at next.
    at: u8,
    /// The upstream of the last attempt.
    current: u8,
    /// Upstreams that were passed over in this round because they are down.
    down: u8,
    /// Answers with whose code the next upstream was queried.
    failovers: u8,
    /// Attempts that failed.
    failures: u32,
    /// The last attempt failed when every upstream was down already.
    exhausted: bool,
    transport: PlainTransport,
    /// The last answer over UDP was truncated; the same upstream is queried over TCP.
    truncated: bool,
    /// No attempt starts at this time or later.
    last_start: Instant,
    /// The attempt in flight ends at this time, whatever its timeout.
    deadline: Option<Instant>,
    error: Option<Error>,
    /// Observers of the attempts.
    taps: Vec<Box<dyn AttemptTap>>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum NextStep {
    /// Send the query over UDP and wait until this time.
    Udp(Instant),
    /// Send the query over a stream and wait so long for the answer.
    Stream(Duration),
    /// Give up.
    End(Error),
}

/// Which attempt an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The upstream, see [`Attempts::current`].
    pub upstream: u8,
    /// The time between the attempt and its answer.
    pub took: Duration,
    /// It came over UDP.
    pub over_udp: bool,
    /// No other attempt has started since.
    pub is_last: bool,
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The client gets it.
    Deliver,
    /// Another upstream is queried, or the same one over TCP.
    Retry,
    /// The answer to the last attempt is still waited for.
    Ignore,
}

impl Group {
    /// Starts a query. It uses `transport` unless the rules say otherwise. Its permit is taken when it is sent; a query
    /// that would get none is refused here already.
    pub fn begin(self: &Arc<Self>, client: IpAddr, transport: PlainTransport, now: Instant) -> Result<Attempts, Error> {
        if self.permits.as_ref().is_some_and(|permits| !permits.admits(client)) {
            return Err(self.refuse());
        }
        let upstreams = self.upstreams();
        let order = self.order(upstreams.len());
        Ok(Attempts::new(self.clone(), upstreams, order, transport, now))
    }
}

impl Attempts {
    pub(super) fn new(
        group: Arc<Group>, upstreams: Arc<Vec<Arc<Upstream>>>, order: [u8; MAX_UPSTREAMS], transport: PlainTransport,
        now: Instant,
    ) -> Attempts {
        let transport = match &group.rules {
            rules if rules.force_tcp => PlainTransport::Tcp,
            rules if rules.prefer_udp => PlainTransport::UdpThenTcp,
            _ => transport,
        };
        Attempts {
            group,
            upstreams,
            order,
            at: 0,
            current: 0,
            down: 0,
            failovers: 0,
            failures: 0,
            exhausted: false,
            transport,
            truncated: false,
            last_start: now + LAST_START,
            deadline: None,
            error: None,
            taps: Vec::new(),
        }
    }

    /// Ends the attempts at this time.
    #[must_use]
    pub fn ending_at(mut self, deadline: Option<Instant>) -> Attempts {
        self.deadline = deadline;
        self.last_start = self.no_later(self.last_start);
        self
    }

    /// Returns this time, or that of the end of the attempts if it is earlier.
    pub fn no_later(&self, time: Instant) -> Instant {
        self.deadline.map_or(time, |deadline| time.min(deadline))
    }

    /// Sets the observers of the attempts.
    #[must_use]
    pub fn tapped_by(self, taps: Vec<Box<dyn AttemptTap>>) -> Attempts {
        Attempts { taps, ..self }
    }

    /// Returns whether the attempts have observers.
    pub fn is_tapped(&self) -> bool {
        !self.taps.is_empty()
    }

    /// Notifies the observers that the query was sent, in the last attempt.
    pub fn record_sent(&self, is_stream: bool, local: Option<SocketAddr>, query: &[u8], now: Instant) {
        let attempt = TappedAttempt { upstream: self.upstream(), is_stream, local, started: now };
        self.taps.iter().for_each(|tap| tap.sent(&attempt, query));
    }

    /// Notifies the observers of a response.
    pub fn record_response(&self, answered: Answered, local: Option<SocketAddr>, response: &[u8], now: Instant) {
        let attempt = TappedAttempt {
            upstream: self.upstream_at(answered.upstream),
            is_stream: !answered.over_udp,
            local,
            started: now.checked_sub(answered.took).unwrap_or(now),
        };
        self.taps.iter().for_each(|tap| tap.ended(&attempt, Some(response), now));
    }

    /// Notifies the observers that the last attempt, which took this time, has failed.
    pub fn record_unanswered(&self, took: Duration, now: Instant) {
        let started = now.checked_sub(took).unwrap_or(now);
        let attempt = TappedAttempt { upstream: self.upstream(), is_stream: !self.uses_udp(), local: None, started };
        self.taps.iter().for_each(|tap| tap.ended(&attempt, None, now));
    }

    /// Returns the group.
    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Returns the number of the last attempt's upstream within the group.
    pub fn current(&self) -> u8 {
        self.current
    }

    /// Returns the upstream of the last attempt.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstreams[usize::from(self.current)]
    }

    /// Returns the upstream with a number that [`Attempts::current`] has returned.
    pub fn upstream_at(&self, number: u8) -> &Arc<Upstream> {
        &self.upstreams[usize::from(number)]
    }

    /// Returns the transport of plain DNS. Queries that differ in it are not merged.
    pub fn transport(&self) -> PlainTransport {
        self.transport
    }

    /// Returns the next step.
    pub fn next(&mut self, now: Instant) -> NextStep {
        let rules = &self.group.rules;
        let len = self.upstreams.len() as u8;
        let most = rules.max_attempts.unwrap_or(ATTEMPTS_PER_UPSTREAM * u32::from(len));
        let most = if most == 0 { MAX_ATTEMPTS } else { most };
        let until = self.no_later(now + rules.read_timeout);
        let stream = NextStep::Stream(until.saturating_duration_since(now));
        // The repetition over TCP belongs to an attempt that has started.
        if self.truncated {
            return stream;
        }
        if len == 0 || self.exhausted || now >= self.last_start || self.failures >= most {
            return self.end();
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
            self.group.counters.record_all_down();
            if rules.failfast {
                return self.end();
            }
            // The health checks may be what is broken: any upstream gets one attempt.
            self.current = fastrand::u8(..len);
            break;
        }
        if self.uses_udp() { NextStep::Udp(until) } else { stream }
    }

    /// Returns whether the last attempt uses UDP.
    fn uses_udp(&self) -> bool {
        let is_plain = self.upstream().transport == UpstreamTransport::Dns;
        is_plain && self.transport != PlainTransport::Tcp && !self.truncated
    }

    /// Records that the last attempt failed.
    pub fn record_failure(&mut self, error: Error) {
        if self.group.rules.max_fails > 0 {
            self.upstream().driver.record_failure();
        }
        self.record_unsent(error);
    }

    /// Records that the last attempt was not made because of a limit of this server, which says nothing of the
    /// upstream.
    pub fn record_unsent(&mut self, error: Error) {
        self.failures += 1;
        // CoreDNS asks on only as long as an upstream in this round is not down.
        self.exhausted = usize::from(self.down) >= self.upstreams.len();
        self.truncated = false;
        self.error = Some(error);
    }

    /// Decides what becomes of an answer with this code, and counts it for the upstream that it came from.
    pub fn judge(&mut self, rcode: Rcode, is_truncated: bool, answered: Answered) -> Verdict {
        self.upstream_at(answered.upstream).driver.record_answer(rcode, answered.took);
        let rules = &self.group.rules;
        if is_truncated && answered.over_udp && self.transport == PlainTransport::UdpThenTcp {
            if !answered.is_last {
                return Verdict::Ignore;
            }
            self.truncated = true;
            return Verdict::Retry;
        }
        if rules.failover.contains(&rcode) {
            if !answered.is_last {
                return Verdict::Ignore;
            }
            self.truncated = false;
            self.failovers += 1;
            if usize::from(self.failovers) < self.upstreams.len() {
                return Verdict::Retry;
            }
        }
        Verdict::Deliver
    }

    fn end(&mut self) -> NextStep {
        NextStep::End(self.error.take().unwrap_or(Error::NoHealthy))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::upstream::testing::{group, set_down};
    use crate::upstream::{GroupRules, UpstreamPolicy};

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn addresses(count: usize) -> Vec<SocketAddr> {
        (0..count).map(|number| SocketAddr::from(([192, 0, 2, number as u8], 53))).collect()
    }

    fn rules() -> GroupRules {
        GroupRules { policy: UpstreamPolicy::Sequential, ..GroupRules::default() }
    }

    /// Returns the attempts of a query without a response: times in seconds and upstreams, then the time of the end.
    /// `states` has a letter for each upstream: `u`p or `d`own.
    fn unanswered(states: &str, rules: GroupRules) -> String {
        let (group, _) = group(&addresses(states.len()), rules);
        states.chars().enumerate().for_each(|(number, state)| set_down(&group, number, state == 'd'));
        let start = Instant::now();
        let mut now = start;
        let mut text = String::new();
        let mut attempts = group.begin(CLIENT, PlainTransport::Udp, start).expect("no limit");
        loop {
            let until = match attempts.next(now) {
                NextStep::Udp(until) => until,
                NextStep::Stream(read_timeout) => now + read_timeout,
                NextStep::End(_) => return format!("{text}end {:.1}", (now - start).as_secs_f64()),
            };
            text += &format!("{:.1} {}, ", (now - start).as_secs_f64(), char::from(b'a' + attempts.current()));
            now = until;
            attempts.record_failure(Error::Timeout("x".into()));
        }
    }

    /// The expectations are those of CoreDNS 1.15.0 under the same test.
    #[test]
    fn unresponsive_upstreams_are_queried_as_often_and_as_long_as_by_coredns() {
        let seconds = Duration::from_secs;
        for (states, rules, expected) in [
            ("u", rules(), "0.0 a, 2.0 a, end 4.0"),
            ("uu", rules(), "0.0 a, 2.0 b, 4.0 a, end 6.0"),
            ("uuu", rules(), "0.0 a, 2.0 b, 4.0 c, end 6.0"),
            // Known to be down: one attempt more, in case that the checks are what is broken.
            ("d", rules(), "0.0 a, end 2.0"),
            ("d", GroupRules { max_attempts: Some(0), ..rules() }, "0.0 a, end 2.0"),
            ("d", GroupRules { max_fails: 0, ..rules() }, "0.0 a, 2.0 a, end 4.0"),
            ("d", GroupRules { failfast: true, ..rules() }, "end 0.0"),
            ("du", rules(), "0.0 b, 2.0 b, 4.0 b, end 6.0"),
            ("uuu", GroupRules { max_attempts: Some(1), ..rules() }, "0.0 a, end 2.0"),
            // An attempt that has started has its whole time.
            ("u", GroupRules { read_timeout: seconds(7), ..rules() }, "0.0 a, end 7.0"),
            ("uu", GroupRules { read_timeout: seconds(3), ..rules() }, "0.0 a, 3.0 b, end 6.0"),
            ("uu", GroupRules { force_tcp: true, ..rules() }, "0.0 a, 2.0 b, 4.0 a, end 6.0"),
            (
                "uu",
                GroupRules { read_timeout: Duration::from_millis(300), ..rules() },
                "0.0 a, 0.3 b, 0.6 a, 0.9 b, end 1.2",
            ),
        ] {
            assert_eq!(unanswered(states, rules.clone()), expected, "{states}: {rules:?}");
        }
        // Any of them, once.
        let all_down = unanswered("ddd", rules());
        assert!(
            all_down.starts_with("0.0 ") && all_down.ends_with(", end 2.0") && all_down.matches(',').count() == 1,
            "{all_down}"
        );
        let any_number = GroupRules { read_timeout: Duration::from_millis(300), max_attempts: Some(0), ..rules() };
        let many = unanswered("uu", any_number);
        assert!(many.matches(',').count() == 17 && many.ends_with("end 5.1"), "{many}");
    }

    #[test]
    fn attempts_end_at_the_deadline() {
        let (group, notes) = group(&addresses(2), rules());
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut attempts =
            group.begin(CLIENT, PlainTransport::Udp, start).expect("no limit").ending_at(Some(at(3_000)));
        assert_eq!(attempts.next(start), NextStep::Udp(at(2_000)));
        attempts.record_failure(Error::Timeout("x".into()));
        // The second attempt has no more than the rest of the time.
        assert_eq!(attempts.next(at(2_000)), NextStep::Udp(at(3_000)));
        attempts.record_failure(Error::Timeout("y".into()));
        assert_eq!(attempts.next(at(3_000)), NextStep::End(Error::Timeout("y".into())));
        assert_eq!(notes.lock().failed, [0, 1], "the health of both is checked");
        let mut attempts = group.begin(CLIENT, PlainTransport::Tcp, start).expect("no limit").ending_at(Some(at(500)));
        assert_eq!(attempts.next(at(100)), NextStep::Stream(Duration::from_millis(400)));
        assert_eq!(attempts.no_later(at(9_000)), at(500));
        // The time was over before the first attempt.
        let mut attempts =
            group.begin(CLIENT, PlainTransport::Udp, at(800)).expect("no limit").ending_at(Some(at(500)));
        assert_eq!(attempts.next(at(800)), NextStep::End(Error::NoHealthy));
    }

    /// Judges an answer: its code, and whether it is truncated.
    fn judge(
        attempts: &mut Attempts, (rcode, is_truncated): (Rcode, bool), upstream: u8, over_udp: bool, is_last: bool,
    ) -> Verdict {
        let took = Duration::from_millis(u64::from(upstream));
        attempts.judge(rcode, is_truncated, Answered { upstream, took, over_udp, is_last })
    }

    #[test]
    fn an_answer_counts_for_the_upstream_that_it_came_from() {
        let (group, notes) = group(&addresses(2), GroupRules { failover: vec![Rcode::SERVFAIL], ..rules() });
        let now = Instant::now();
        let mut attempts = group.begin(CLIENT, PlainTransport::Udp, now).expect("no limit");
        attempts.next(now);
        attempts.record_failure(Error::Timeout("x".into()));
        attempts.next(now);
        // A late answer of the first with a code for failover has no effect: the second was queried already.
        assert_eq!(judge(&mut attempts, (Rcode::SERVFAIL, false), 0, true, false), Verdict::Ignore);
        assert_eq!(judge(&mut attempts, (Rcode::NXDOMAIN, false), 0, true, false), Verdict::Deliver);
        let notes = notes.lock();
        assert_eq!((&notes.failed[..], &notes.answered[..]), (&[0][..], &[(0, Duration::ZERO); 2][..]));
    }

    #[test]
    fn a_truncated_answer_leads_to_tcp_once() {
        let prefer_udp = GroupRules { prefer_udp: true, ..rules() };
        for (rules, transport) in [
            (prefer_udp.clone(), PlainTransport::Udp),
            (prefer_udp, PlainTransport::Tcp),
            (rules(), PlainTransport::UdpThenTcp),
        ] {
            let (group, _) = group(&addresses(1), rules);
            let now = Instant::now();
            let mut attempts = group.begin(CLIENT, transport, now).expect("no limit");
            let truncated = (Rcode::NOERROR, true);
            assert!(matches!(attempts.next(now), NextStep::Udp(_)));
            assert_eq!(judge(&mut attempts, truncated, 0, true, true), Verdict::Retry);
            // Even if no other attempt would start any more.
            assert!(matches!(attempts.next(now + 2 * LAST_START), NextStep::Stream(_)));
            assert_eq!(judge(&mut attempts, truncated, 0, true, false), Verdict::Ignore);
            assert_eq!(judge(&mut attempts, truncated, 0, false, true), Verdict::Deliver);
        }
    }

    #[test]
    fn the_rules_come_before_the_transport_of_the_client() {
        let force_tcp = GroupRules { force_tcp: true, prefer_udp: true, ..rules() };
        let now = Instant::now();
        for (rules, transport, uses_udp) in [
            (rules(), PlainTransport::Udp, true),
            (rules(), PlainTransport::UdpThenTcp, true),
            (rules(), PlainTransport::Tcp, false),
            (force_tcp.clone(), PlainTransport::Udp, false),
            (force_tcp, PlainTransport::UdpThenTcp, false),
        ] {
            let (group, _) = group(&addresses(1), rules);
            let next = group.begin(CLIENT, transport, now).expect("no limit").next(now);
            assert_eq!(matches!(next, NextStep::Udp(_)), uses_udp, "{transport:?}");
        }
    }

    #[test]
    fn a_truncated_answer_is_passed_on_to_a_client_that_can_retry() {
        let (group, _) = group(&addresses(1), rules());
        let now = Instant::now();
        let mut attempts = group.begin(CLIENT, PlainTransport::Udp, now).expect("no limit");
        attempts.next(now);
        assert_eq!(judge(&mut attempts, (Rcode::NOERROR, true), 0, true, true), Verdict::Deliver);
    }

    #[test]
    fn a_limit_of_this_server_is_no_failure_of_the_upstream() {
        let (group, notes) = group(&addresses(1), rules());
        let now = Instant::now();
        let mut attempts = group.begin(CLIENT, PlainTransport::Udp, now).expect("no limit");
        for _ in 0..2 {
            assert!(matches!(attempts.next(now), NextStep::Udp(_)));
            attempts.record_unsent(Error::Full);
        }
        assert_eq!(attempts.next(now), NextStep::End(Error::Full));
        assert!(notes.lock().failed.is_empty());
    }
}
