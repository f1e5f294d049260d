//! Tests of the queries in flight.

use std::net::SocketAddr;

use super::*;
use crate::upstream::testing::group;
use crate::upstream::{GroupRules, PlainTransport};

/// A query for a name of one letter.
struct Asker {
    packet: Vec<u8>,
    client: SocketAddr,
}

impl Waiter for Asker {
    fn packet(&self) -> &[u8] {
        &self.packet
    }

    fn change(&self) -> QueryChange {
        QueryChange::default()
    }

    fn client(&self) -> IpAddr {
        self.client.ip()
    }

    fn is_repeated_by(&self, other: &Asker) -> bool {
        (self.client, &self.packet[..2]) == (other.client, &other.packet[..2])
    }
}

impl Asker {
    fn id(&self) -> u16 {
        u16::from_be_bytes([self.packet[0], self.packet[1]])
    }
}

struct Bench {
    table: InFlight<Asker, &'static str>,
    group: Arc<Group>,
    now: Instant,
}

fn client(number: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, number])
}

impl Bench {
    fn new(limit: usize) -> Bench {
        let (group, _) = group(&[([192, 0, 2, 1], 53).into(), ([192, 0, 2, 2], 53).into()], GroupRules::default());
        let now = Instant::now();
        Bench { table: InFlight::new(0, limit, now), group, now }
    }

    /// A client asks for a name. Returns what becomes of the query and the permit that another waiter loses, or
    /// the ID of the refused one.
    fn try_to_ask(&mut self, client: u8, id: u16, name: u8) -> Result<(Admission, Option<RevokedPermit>), u16> {
        let mut packet = id.to_be_bytes().to_vec();
        packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, name, 0, 0, 1, 0, 1]);
        let waiter = Asker { packet, client: SocketAddr::new(self::client(client), 1_000) };
        let order = std::array::from_fn(|at| at as u8);
        let attempts = Attempts::new(self.group.clone(), self.group.upstreams(), order, PlainTransport::Udp, self.now);
        let begun = self.table.begin(u64::from(name.to_ascii_lowercase()), attempts, waiter, self.now);
        begun.map_err(|(waiter, error)| {
            assert_eq!(error, Error::Limit(self.group.rules.max_concurrent));
            waiter.id()
        })
    }

    /// A client asks for a name, within all limits.
    fn ask(&mut self, client: u8, id: u16, name: u8) -> Admission {
        match self.try_to_ask(client, id, name) {
            Ok((admission, None)) => admission,
            Ok((_, Some(revoked))) => panic!("{:?} is evicted", revoked.place),
            Err(id) => panic!("{id} is refused"),
        }
    }

    fn start(&mut self, client: u8, id: u16, name: u8) -> AttemptId {
        match self.ask(client, id, name) {
            Admission::Started(attempt) => attempt,
            other => panic!("{other:?}"),
        }
    }

    /// Returns the IDs of the waiters that are handed over.
    fn answered(&mut self) -> Vec<(u16, &'static str)> {
        let pop = || self.table.pop_answered().map(|(waiter, outcome)| (waiter.id(), outcome));
        std::iter::from_fn(pop).collect()
    }
}

#[test]
fn identical_queries_wait_for_one_answer_and_retransmissions_do_not_count() {
    let mut bench = Bench::new(9);
    let first = bench.start(1, 1, b'a');
    assert_eq!(bench.ask(2, 2, b'A'), Admission::Merged);
    assert_eq!(bench.ask(1, 3, b'a'), Admission::Merged);
    for (client, id) in [(1, 1), (2, 2), (1, 3)] {
        assert_eq!(bench.ask(client, id, b'a'), Admission::Repeated);
    }
    bench.start(3, 4, b'b');
    assert_eq!(bench.table.len(), 4);
    let (waiter, ended) = bench.table.end_and_pop(first.query, || "answer").expect("a waiter");
    assert_eq!((waiter.id(), ended.key), (1, u64::from(b'a')));
    // Those that have not got it count.
    assert_eq!((bench.table.len(), bench.answered()), (3, vec![(2, "answer"), (3, "answer")]));
    assert_eq!(bench.table.len(), 1);
    // What has ended takes no more waiters.
    bench.start(1, 1, b'a');
}

#[test]
fn the_oldest_waiter_of_the_heaviest_client_is_evicted() {
    let mut bench = Bench::new(4);
    // Client 1 asks before the other, and for what the other asks for, too.
    let slow = bench.start(1, 1, b'a');
    bench.start(1, 2, b'b');
    assert_eq!(bench.ask(2, 3, b'a'), Admission::Merged);
    bench.start(1, 4, b'c');
    assert!(!bench.table.is_over_limit());
    bench.start(3, 5, b'd');
    assert!(bench.table.is_over_limit());
    let evicted = bench.table.evict(client(3)).expect("one");
    assert_eq!((evicted.waiter.id(), evicted.outcome), (1, None));
    assert!(evicted.abandoned.is_none(), "the other client still waits");
    bench.start(4, 6, b'e');
    // Client 1 has still the most.
    let evicted = bench.table.evict(client(4)).expect("one");
    assert_eq!((evicted.waiter.id(), evicted.abandoned.map(|ended| ended.key)), (2, Some(u64::from(b'b'))));
    assert_eq!(bench.table.end(slow.query, "late").map(|ended| ended.key), Some(u64::from(b'a')));
    assert_eq!(bench.answered(), [(3, "late")]);
    assert_eq!(bench.table.len(), 3);
}

#[test]
fn an_evicted_waiter_of_an_ended_query_gets_its_answer() {
    let mut bench = Bench::new(2);
    let query = bench.start(1, 1, b'a');
    assert_eq!(bench.ask(1, 2, b'a'), Admission::Merged);
    bench.table.end(query.query, "answer");
    bench.start(2, 3, b'b');
    let evicted = bench.table.evict(client(2)).expect("one");
    assert_eq!((evicted.waiter.id(), evicted.outcome, evicted.abandoned.is_none()), (1, Some("answer"), true));
    // The last one of a query that has ended, whose place another query takes.
    bench.start(2, 4, b'c');
    let evicted = bench.table.evict(client(1)).expect("client 2 has more");
    assert_eq!((evicted.waiter.id(), evicted.outcome), (3, None));
    let evicted = bench.table.evict(client(1)).expect("as much as client 2");
    assert_eq!((evicted.waiter.id(), evicted.outcome), (2, Some("answer")));
    assert_eq!(bench.start(3, 5, b'd').query, query.query);
    assert_eq!((bench.answered(), bench.table.len()), (vec![], 2));
}

/// A bench whose group has *max_concurrent*.
fn with_max_concurrent(max_concurrent: usize) -> Bench {
    let rules = GroupRules { max_concurrent, ..GroupRules::default() };
    Bench { group: group(&[([192, 0, 2, 1], 53).into()], rules).0, ..Bench::new(9) }
}

#[test]
fn max_concurrent_counts_waiters() {
    let mut bench = with_max_concurrent(2);
    let query = bench.start(1, 1, b'a');
    assert_eq!(bench.ask(2, 2, b'A'), Admission::Merged);
    // A retransmission is no other query.
    assert_eq!(bench.ask(2, 2, b'a'), Admission::Repeated);
    for (id, name) in [(3, b'a'), (4, b'b')] {
        assert!(bench.group.begin(client(2), PlainTransport::Udp, bench.now).is_err());
        assert_eq!(bench.try_to_ask(2, id, name).map(|_| ()), Err(id));
    }
    assert_eq!((bench.table.len(), bench.table.queries.len()), (2, 1));
    bench.table.end_and_pop(query.query, || "answer").expect("a waiter");
    // One has ended; the other counts until it is answered.
    bench.start(2, 5, b'b');
    assert!(bench.group.begin(client(2), PlainTransport::Udp, bench.now).is_err());
    assert_eq!(bench.answered(), [(2, "answer")]);
    bench.start(2, 6, b'c');
    assert!(bench.group.begin(client(2), PlainTransport::Udp, bench.now).is_err());
}

/// Has a client ask. Returns the permit that another waiter loses.
fn evicts(bench: &mut Bench, client: u8, id: u16, name: u8) -> RevokedPermit {
    let (admission, revoked) = bench.try_to_ask(client, id, name).expect("a permit");
    assert!(matches!(admission, Admission::Started(_) | Admission::Merged));
    revoked.expect("a waiter")
}

#[test]
fn at_max_concurrent_the_oldest_query_of_a_heavier_client_is_evicted() {
    let mut bench = with_max_concurrent(3);
    for (id, name) in [(1, b'a'), (2, b'b'), (3, b'c')] {
        bench.start(1, id, name);
    }
    assert_eq!(bench.try_to_ask(1, 4, b'd').map(|_| ()), Err(4), "a client alone is refused");
    let revoked = evicts(&mut bench, 2, 5, b'd');
    assert_eq!(revoked.place, WaiterPlace { worker: 0, waiter: 0 });
    let evicted = bench.table.revoke(&revoked).expect("it waits");
    assert_eq!((evicted.waiter.id(), evicted.outcome), (1, None));
    assert_eq!(evicted.abandoned.map(|ended| ended.key), Some(u64::from(b'a')));
    assert!(bench.table.revoke(&revoked).is_none(), "it is gone");
    assert_eq!(bench.try_to_ask(2, 6, b'e').map(|_| ()), Err(6), "equal shares do not evict each other");
    // It may have its answer before it is evicted, and another waiter its place.
    let revoked = evicts(&mut bench, 3, 7, b'e');
    for name in [b'd', b'b'] {
        bench.table.end(bench.table.by_key[&u64::from(name)], "answer");
    }
    assert_eq!(bench.answered(), [(5, "answer"), (2, "answer")]);
    bench.start(4, 8, b'f');
    let place = bench.table.waiters.get(revoked.place.waiter).map(|entry| entry.waiter.id());
    assert_eq!((place, bench.table.revoke(&revoked).is_none()), (Some(8), true));
    assert_eq!(bench.table.len(), 3);
}

#[test]
fn an_answer_belongs_to_its_attempt() {
    let mut bench = Bench::new(9);
    let until = |seconds| bench.now + Duration::from_secs(seconds);
    let two = until(2);
    let four = until(4);
    let now = bench.now;
    let query = bench.start(1, 1, b'a').query;
    let next = |bench: &mut Bench, now| bench.table.get_mut(query).expect("in flight").0.attempts.next(now);
    next(&mut bench, now);
    let (first_id, first, _) = bench.table.start_udp(query, 7, now, two).expect("in flight");
    let first_upstream = bench.table.get_mut(query).expect("in flight").0.attempts.current();
    assert_eq!(bench.table.pop_timed_out(two), Some(first));
    bench.table.current(first).expect("the last").attempts.record_failure(Error::Timeout("x".into()));
    next(&mut bench, two);
    let (second_id, second, _) = bench.table.start_udp(query, 8, two, four).expect("in flight");
    assert!(bench.table.current(first).is_none(), "it is stale");
    let later = two + Duration::from_millis(100);
    let found = bench.table.find(7, first_id, later).expect("the first");
    assert_eq!((found.upstream, found.took, found.is_last), (first_upstream, later - now, false));
    let found = bench.table.find(8, second_id, later).expect("the second");
    assert_eq!((found.upstream, found.took, found.is_last), (1 - first_upstream, later - two, true));
    assert_eq!(bench.table.find(7, second_id, later), None, "it left by another socket");
    let mut through = Vec::new();
    bench.table.through(7, &mut through);
    assert!(through.is_empty(), "the first attempt has failed already");
    bench.table.through(8, &mut through);
    assert_eq!(through, [second]);
    bench.table.close(8, second_id);
    assert_eq!(bench.table.find(8, second_id, later), None, "a copy of the answer is none");
    // A stream is under way; the first answer is late still, and a break of its socket does not concern the query.
    let stream = bench.table.start_stream(query, later, four).expect("in flight");
    assert!(!bench.table.find(7, first_id, later).expect("the first").is_last);
    through.clear();
    bench.table.through(7, &mut through);
    assert!(through.is_empty());
    assert_eq!(bench.table.time_since(stream, later + Duration::from_secs(1)), Some(Duration::from_secs(1)));
    assert_eq!(bench.table.time_since(second, later), None);
    let ended = bench.table.end(query, "answer").expect("in flight");
    assert_eq!(ended.sockets[..], [7]);
    assert!(bench.table.current(stream).is_none());
    bench.answered();
    let another = bench.start(1, 2, b'b');
    assert_eq!(another.query, query, "it has the same place");
    assert!(bench.table.current(stream).is_none() && bench.table.current(another).is_some());
}

#[test]
fn any_order_of_operations_leaves_an_empty_table() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut bench = Bench::new(20);
    let mut queries: Vec<AttemptId> = Vec::new();
    for id in 0..5_000 {
        match random.u8(..8) {
            0..=3 => {
                if let Admission::Started(attempt) = bench.ask(random.u8(..6), id, b'a' + random.u8(..9)) {
                    queries.push(attempt);
                    bench.table.start_udp(attempt.query, u32::from(id % 3), bench.now, bench.now);
                }
                while bench.table.is_over_limit() {
                    bench.table.evict(client(9)).expect("a waiter");
                }
            }
            4 => drop(bench.table.evict(client(random.u8(..6)))),
            5 if !queries.is_empty() => {
                let query = queries.swap_remove(random.usize(..queries.len())).query;
                if bench.table.get_mut(query).is_some() {
                    if random.bool() {
                        drop(bench.table.end(query, "answer"));
                    } else {
                        drop(bench.table.end_and_pop(query, || "answer"));
                    }
                }
            }
            _ => drop(bench.table.pop_answered()),
        }
        assert!(bench.table.len() <= 20);
        assert_eq!(bench.table.len(), bench.table.waiters().count());
        assert_eq!(bench.table.len(), bench.table.shares.len());
    }
    while bench.table.evict(client(9)).is_some() {}
    assert_eq!(bench.table.pop_answered().map(|(waiter, _)| waiter.id()), None);
    let table = &bench.table;
    assert_eq!((table.len(), table.queries.len(), table.by_id.len(), table.by_key.len()), (0, 0, 0, 0));
    assert_eq!(table.time_to_next(bench.now), None);
}
