//! Queries that go to upstreams, which here are sockets of the test.

use parking_lot::Mutex;

use super::*;
use crate::chain::{Failure, UpstreamQuery};
use crate::upstream::testing::{Notes, group_with};
use crate::upstream::{DropReason, Error, Group, GroupRules, ShedReason};

/// An answer with two records, which comes whole.
fn exchange(mut packet: Vec<u8>) -> Result<Vec<u8>, Error> {
    packet[2] |= 0x80;
    packet[7] = 2;
    packet.extend(A.repeat(2));
    if packet[13..].starts_with(b"short") {
        packet.truncate(packet.len() - 1);
    }
    Ok(packet)
}

/// An A record for the question's name.
const A: &[u8] = &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 9, 8, 7];

/// Sends every query to a group.
struct Forward(Arc<Group>);

impl Plugin for Forward {
    fn name(&self) -> &'static str {
        "forward"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        if exchange.question().label(0) == b"cluster" {
            exchange.reply().answer(Type::A, 5, Rdata::A([10, 0, 0, 1]));
            return Step::Answered;
        }
        let transport = exchange.client.transport.forwarded_over();
        match self.0.begin(exchange.client.remote.ip(), transport, exchange.now) {
            Ok(attempts) => Step::Pending(Wait::Upstream(UpstreamQuery { attempts, change: Default::default() })),
            Err(error) => exchange.fail(error.rcode(), Failure::Upstream(error)),
        }
    }
}

/// A server that forwards, and the socket that it forwards to.
struct Relay {
    rig: Rig,
    upstream: UdpSocket,
    notes: Arc<Mutex<Notes>>,
}

fn relay(rules: GroupRules, change: impl FnOnce(&mut ServerOptions)) -> Relay {
    let upstream = udp_client("127.0.0.1");
    let address = upstream.local_addr().expect("an address");
    let mut options = None;
    let rig = start(&["127.0.0.1:0"], Settings::default(), |made| {
        change(made);
        options = Some(made.dispatcher.clone());
    });
    let (group, notes) = group_with(&[address], rules, options.expect("options"), exchange);
    let chain = Chain::new(vec![Arc::new(Forward(group))]);
    let block = Block { zones: vec![NameBuf::from_text(".").expect("the root")], chain };
    rig.service.replace(Arc::new(Router::new(vec![block], false)), Settings::default(), None);
    Relay { rig, upstream, notes }
}

impl Relay {
    fn at(&self) -> SocketAddr {
        self.rig.at("127.0.0.1")
    }

    /// Returns the next query that comes.
    fn forwarded(&self) -> (Vec<u8>, SocketAddr) {
        receive(&self.upstream)
    }

    /// Answers a query with one address.
    fn answer(&self, (query, from): &(Vec<u8>, SocketAddr)) {
        self.upstream.send_to(&answer_to(query), from).expect("sent");
    }
}

fn answer_to(query: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2] |= 0x80;
    answer[7] = 1;
    answer.extend(A);
    answer
}

fn ask(client: &UdpSocket, at: SocketAddr, id: u16, name: &str) {
    client.send_to(&query(id, name), at).expect("sent");
}

#[test]
fn a_query_is_forwarded_under_another_id_and_comes_back_under_its_own() {
    let relay = relay(GroupRules::default(), |_| ());
    let client = udp_client("127.0.0.1");
    let mut ids = Vec::new();
    for id in 0..40 {
        ask(&client, relay.at(), id, &format!("Name{id}.Example."));
        let forwarded = relay.forwarded();
        assert_eq!(forwarded.0[2..], query(id, &format!("Name{id}.Example."))[2..]);
        ids.push(u16::from_be_bytes([forwarded.0[0], forwarded.0[1]]));
        relay.answer(&forwarded);
        assert_eq!(read(&receive(&client).0), (id, Rcode::NOERROR, 1));
    }
    assert!(ids.iter().enumerate().filter(|&(at, &id)| at == usize::from(id)).count() < 3, "{ids:?}");
    // Ports change, too, though not for each query.
    relay.rig.wait_until("none waits", |server| server.waiting() == 0);
}

/// D17.
#[test]
fn alike_queries_are_forwarded_once() {
    let relay = relay(GroupRules::default(), |_| ());
    // Many flows, so that both workers have some.
    let clients: Vec<UdpSocket> = (0..32).map(|_| udp_client("127.0.0.1")).collect();
    for (id, client) in clients.iter().enumerate() {
        ask(client, relay.at(), id as u16, if id % 2 == 0 { "web.example." } else { "WEB.example." });
    }
    let tcp = query(99, "other.example.");
    relay.rig.wait_until("all wait", |server| server.counts().later == 32);
    let forwarded = relay.forwarded();
    relay.answer(&forwarded);
    for (id, client) in clients.iter().enumerate() {
        let answer = receive(client).0;
        assert_eq!(read(&answer), (id as u16, Rcode::NOERROR, 1));
        let name = if id % 2 == 0 { b"web" } else { b"WEB" };
        assert_eq!(&answer[13..16], name);
    }
    // Nothing else has been forwarded: the next that comes is another question.
    clients[0].send_to(&tcp, relay.at()).expect("sent");
    assert_eq!(relay.forwarded().0[12..18], tcp[12..18]);
}

#[test]
fn answers_to_other_questions_are_dropped() {
    let relay = relay(GroupRules::default(), |_| ());
    let client = udp_client("127.0.0.1");
    ask(&client, relay.at(), 1, "web.example.");
    let (query, from) = relay.forwarded();
    let good = answer_to(&query);
    let changed = |at: usize, to: u8| {
        let mut answer = good.clone();
        answer[at] = to;
        answer
    };
    // Another ID, another name, another type, a query, no header, nothing.
    for forged in
        [changed(0, good[0] ^ 1), changed(13, b'x'), changed(27, 28), query.clone(), good[..9].to_vec(), vec![]]
    {
        relay.upstream.send_to(&forged, from).expect("sent");
    }
    // From another port, which the kernel drops.
    client.send_to(&good, from).expect("sent");
    relay.upstream.send_to(&good, from).expect("sent");
    assert_eq!(read(&receive(&client).0), (1, Rcode::NOERROR, 1));
    let dropped = relay.notes.lock().dropped.clone();
    let count = |why| dropped.iter().filter(|&&of| of == why).count();
    assert_eq!((count(DropReason::NoQuery), count(DropReason::OtherQuestion)), (1, 4), "{dropped:?}");
    // One that comes twice is late.
    relay.upstream.send_to(&good, from).expect("sent");
    let deadline = Instant::now() + TIMEOUT;
    while relay.notes.lock().dropped.len() < 6 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
}

#[test]
fn garbage_is_no_answer_and_the_next_attempt_may_have_one() {
    let relay = relay(GroupRules::default(), |_| ());
    let client = udp_client("127.0.0.1");
    ask(&client, relay.at(), 1, "web.example.");
    let (query, from) = relay.forwarded();
    // A record whose name leads nowhere.
    let mut garbage = answer_to(&query);
    let at = garbage.len() - 16;
    garbage[at] = 0xff;
    relay.upstream.send_to(&garbage, from).expect("sent");
    let again = relay.forwarded();
    relay.answer(&again);
    assert_eq!(read(&receive(&client).0), (1, Rcode::NOERROR, 1));
    // Cut off in the middle of a record: the client gets TC and comes over TCP.
    ask(&client, relay.at(), 2, "cut.example.");
    let (query, from) = relay.forwarded();
    let whole = answer_to(&query);
    relay.upstream.send_to(&whole[..whole.len() - 3], from).expect("sent");
    let answer = receive(&client).0;
    assert_eq!(read(&answer), (2, Rcode::NOERROR, 0));
    assert_eq!(answer[2] & 2, 2);
}

#[test]
fn an_unresponsive_upstream_is_queried_again_and_then_the_query_fails() {
    let rules = GroupRules { read_timeout: Duration::from_millis(60), ..GroupRules::default() };
    let relay = relay(rules, |_| ());
    let client = udp_client("127.0.0.1");
    ask(&client, relay.at(), 1, "web.example.");
    let first = relay.forwarded();
    let second = relay.forwarded();
    assert_eq!(first.0[2..], second.0[2..]);
    assert_eq!(read(&receive(&client).0), (1, Rcode::SERVFAIL, 0));
    assert_eq!(relay.notes.lock().failed.len(), 2);
    // A late answer to the first attempt is as good as one to the second.
    ask(&client, relay.at(), 2, "late.example.");
    let first = relay.forwarded();
    relay.forwarded();
    relay.answer(&first);
    assert_eq!(read(&receive(&client).0), (2, Rcode::NOERROR, 1));
}

#[test]
fn a_closed_port_fails_queries_at_once() {
    let relay = relay(GroupRules { read_timeout: Duration::from_secs(60), ..GroupRules::default() }, |_| ());
    let Relay { rig, upstream, notes } = relay;
    drop(upstream);
    let client = udp_client("127.0.0.1");
    for id in 0..100 {
        client.send_to(&query(id, &format!("n{id}.example.")), rig.at("127.0.0.1")).expect("sent");
    }
    for _ in 0..100 {
        assert_eq!(read(&receive(&client).0).1, Rcode::SERVFAIL);
    }
    assert_eq!(notes.lock().failed.len(), 200);
}

#[test]
fn what_is_cut_comes_over_a_stream_where_udp_is_preferred() {
    // With TC, or with an end before that of the record, as of a datagram that a middlebox or a buffer has cut.
    for (prefer_udp, has_flag, records) in [(true, true, 2), (true, false, 2), (false, true, 1), (false, false, 0)] {
        let relay = relay(GroupRules { prefer_udp, ..GroupRules::default() }, |_| ());
        let client = udp_client("127.0.0.1");
        ask(&client, relay.at(), 1, "web.example.");
        let (query, from) = relay.forwarded();
        let mut cut = answer_to(&query);
        if has_flag {
            cut[2] |= 2;
        } else {
            cut.truncate(cut.len() - 1);
        }
        // The network may double it.
        for _ in 0..2 {
            relay.upstream.send_to(&cut, from).expect("sent");
        }
        let answer = receive(&client).0;
        assert_eq!(read(&answer), (1, Rcode::NOERROR, records));
        assert_eq!(answer[2] & 2 != 0, !prefer_udp);
    }
}

/// TC sends the client to a stream, which is where the message comes from.
#[test]
fn a_message_over_a_stream_that_ends_early_is_malformed() {
    let relay = relay(GroupRules::default(), |_| ());
    let mut client = tcp_client(relay.at());
    super::send(&mut client, &framed(&[query(7, "short.example.")]));
    assert_eq!(read(&next(&mut client).expect("an answer")), (7, Rcode::SERVFAIL, 0));
    assert_eq!(relay.notes.lock().failed.len(), 2);
}

#[test]
fn clients_on_tcp_use_a_stream_unless_udp_is_preferred() {
    let relay = relay(GroupRules::default(), |_| ());
    let mut client = tcp_client(relay.at());
    super::send(&mut client, &framed(&[query(7, "web.example.")]));
    assert_eq!(read(&next(&mut client).expect("an answer")), (7, Rcode::NOERROR, 2));
    assert_eq!(relay.notes.lock().exchanges, 1);

    let relay = self::relay(GroupRules { prefer_udp: true, ..GroupRules::default() }, |_| ());
    let mut client = tcp_client(relay.at());
    super::send(&mut client, &framed(&[query(7, "web.example.")]));
    relay.answer(&relay.forwarded());
    assert_eq!(read(&next(&mut client).expect("an answer")), (7, Rcode::NOERROR, 1));
}

/// One worker, whose table has this limit.
fn limited(limit: usize) -> impl FnOnce(&mut ServerOptions) {
    move |options| {
        options.forwarded = limit;
        options.workers = NonZeroUsize::new(1);
    }
}

/// D14, D15; benches/overload.py has them at their full size.
#[test]
fn in_a_full_table_the_oldest_query_is_evicted() {
    let relay = relay(GroupRules::default(), limited(4));
    let client = udp_client("127.0.0.1");
    (0..10).for_each(|id| ask(&client, relay.at(), id, &format!("n{id}.example.")));
    let forwarded: Vec<_> = (0..10).map(|_| relay.forwarded()).collect();
    for id in 0..6 {
        assert_eq!(read(&receive(&client).0), (id, Rcode::SERVFAIL, 0));
    }
    assert_eq!(relay.notes.lock().shed, [ShedReason::Evicted; 6]);
    assert!(relay.notes.lock().failed.is_empty(), "the limit says nothing of the upstream");
    relay.rig.wait_until("four wait", |server| server.waiting() == 4);
    forwarded.iter().for_each(|query| relay.answer(query));
    for id in 6..10 {
        assert_eq!(read(&receive(&client).0), (id, Rcode::NOERROR, 1));
    }
    relay.rig.wait_until("none waits", |server| server.waiting() == 0);
}

#[test]
fn a_client_with_many_slow_queries_takes_no_place_of_another_client() {
    let relay = relay(GroupRules::default(), limited(8));
    let greedy = udp_client("127.0.0.1");
    let modest = udp_client("127.0.0.2");
    let mut tcp = tcp_client(relay.at());
    ask(&modest, relay.at(), 1, "first.example.");
    let first = relay.forwarded();
    for id in 0..40 {
        ask(&greedy, relay.at(), id, &format!("slow{id}.example."));
        relay.forwarded();
        if id == 20 {
            ask(&modest, relay.at(), 2, "second.example.");
            let second = relay.forwarded();
            relay.answer(&second);
            assert_eq!(read(&receive(&modest).0), (2, Rcode::NOERROR, 1));
        }
    }
    for id in 0..33 {
        assert_eq!(read(&receive(&greedy).0), (id, Rcode::SERVFAIL, 0));
    }
    relay.answer(&first);
    assert_eq!(read(&receive(&modest).0), (1, Rcode::NOERROR, 1));
    // A client of TCP counts like one of UDP: from the same address it takes the place of its own queries.
    super::send(&mut tcp, &framed(&[query(7, "third.example.")]));
    assert_eq!(read(&next(&mut tcp).expect("an answer")), (7, Rcode::NOERROR, 2));
    relay.rig.wait_until("seven wait", |server| server.waiting() == 7);
}

#[test]
fn a_retransmission_is_no_other_waiter() {
    let relay = relay(GroupRules::default(), limited(9));
    let client = udp_client("127.0.0.1");
    let other = udp_client("127.0.0.1");
    for _ in 0..3 {
        ask(&client, relay.at(), 1, "web.example.");
    }
    ask(&client, relay.at(), 2, "web.example.");
    ask(&other, relay.at(), 1, "web.example.");
    relay.rig.wait_until("all have come", |server| server.counts().later == 5);
    relay.rig.wait_until("three wait", |server| server.waiting() == 3);
    relay.answer(&relay.forwarded());
    let mut ids = [read(&receive(&client).0).0, read(&receive(&client).0).0];
    ids.sort_unstable();
    assert_eq!((ids, read(&receive(&other).0).0), ([1, 2], 1));
    client.set_nonblocking(true).expect("a mode");
    assert!(client.recv(&mut [0; 512]).is_err());
}

#[test]
fn waiters_of_one_query_have_a_limit_and_all_get_the_answer() {
    let relay = relay(GroupRules::default(), limited(100));
    let clients: Vec<UdpSocket> = (0..150).map(|_| udp_client("127.0.0.1")).collect();
    for (id, client) in clients.iter().enumerate() {
        ask(client, relay.at(), id as u16, "web.example.");
    }
    relay.rig.wait_until("all have come", |server| server.counts().later == 150);
    let forwarded = relay.forwarded();
    relay.rig.wait_until("the others are evicted", |server| server.waiting() == 100);
    let mut failed = 0;
    relay.answer(&forwarded);
    // The cluster's names do not wait for the answers to all of them.
    let other = udp_client("127.0.0.1");
    ask(&other, relay.at(), 1, "cluster.example.");
    assert_eq!(read(&receive(&other).0), (1, Rcode::NOERROR, 1));
    for (id, client) in clients.iter().enumerate() {
        let (of, rcode, _) = read(&receive(client).0);
        assert_eq!(of, id as u16);
        failed += usize::from(rcode == Rcode::SERVFAIL);
    }
    assert_eq!(failed, 50);
    relay.rig.wait_until("none waits", |server| server.waiting() == 0);
}

#[test]
fn max_concurrent_refuses_and_recovers() {
    let relay = relay(GroupRules { max_concurrent: 2, ..GroupRules::default() }, |_| ());
    let client = udp_client("127.0.0.1");
    (0..5).for_each(|id| ask(&client, relay.at(), id, &format!("n{id}.example.")));
    let forwarded: Vec<_> = (0..2).map(|_| relay.forwarded()).collect();
    for _ in 0..3 {
        assert_eq!(read(&receive(&client).0).1, Rcode::REFUSED);
    }
    forwarded.iter().for_each(|query| relay.answer(query));
    (0..2).for_each(|_| assert_eq!(read(&receive(&client).0).1, Rcode::NOERROR));
    ask(&client, relay.at(), 9, "again.example.");
    relay.answer(&relay.forwarded());
    assert_eq!(read(&receive(&client).0), (9, Rcode::NOERROR, 1));
}

#[test]
fn at_max_concurrent_queries_of_a_greedy_client_are_evicted_for_those_of_others() {
    let rules = GroupRules { max_concurrent: 32, prefer_udp: true, ..GroupRules::default() };
    let relay = relay(rules, |options| options.workers = NonZeroUsize::new(2));
    let client = |address| (0..15).map(|_| udp_client(address)).collect::<Vec<UdpSocket>>();
    // Many flows, so that both workers have some.
    let (greedy, more, modest) = (client("127.0.0.1"), client("127.0.0.1"), client("127.0.0.2"));
    let mut forwarded = Vec::new();
    let mut tcp = tcp_client(relay.at());
    super::send(&mut tcp, &framed(&[query(99, "tcp.example.")]));
    relay.forwarded();
    for (id, socket) in greedy.iter().chain(&more).enumerate() {
        ask(socket, relay.at(), id as u16, &format!("n{id}.example."));
        let query = relay.forwarded();
        if id >= 14 {
            forwarded.push(query);
        }
    }
    // The last permit, for the name that another client asks for, too: that query goes on for the other one.
    ask(&more[0], relay.at(), 30, "shared.example.");
    forwarded.push(relay.forwarded());
    ask(&more[1], relay.at(), 31, "more.example.");
    assert_eq!(read(&receive(&more[1]).0), (31, Rcode::REFUSED, 0));
    for (id, socket) in modest.iter().enumerate() {
        ask(socket, relay.at(), id as u16, &format!("modest{id}.example."));
        forwarded.push(relay.forwarded());
        match id.checked_sub(1) {
            None => assert_eq!(read(&next(&mut tcp).expect("an answer")), (99, Rcode::REFUSED, 0)),
            Some(oldest) => assert_eq!(read(&receive(&greedy[oldest]).0), (oldest as u16, Rcode::REFUSED, 0)),
        }
    }
    // 15 and 17: with one more the client has as many as the greedy one, and no query is evicted for the next.
    ask(&modest[0], relay.at(), 50, "shared.example.");
    assert_eq!(read(&receive(&greedy[14]).0), (14, Rcode::REFUSED, 0));
    ask(&modest[1], relay.at(), 51, "shared.example.");
    assert_eq!(read(&receive(&modest[1]).0), (51, Rcode::REFUSED, 0));
    assert_eq!(relay.notes.lock().shed, []);
    assert_eq!(relay.notes.lock().over_limit, 18);
    forwarded.iter().for_each(|query| relay.answer(query));
    for (sockets, first, another) in [(&more, 15, 30), (&modest, 0, 50)] {
        let mut ids = vec![];
        for (at, socket) in sockets.iter().enumerate() {
            for _ in 0..if at == 0 { 2 } else { 1 } {
                let (id, rcode, records) = read(&receive(socket).0);
                assert_eq!((rcode, records), (Rcode::NOERROR, 1), "{id}");
                ids.push(id);
            }
        }
        ids.sort_unstable();
        assert!(ids.into_iter().eq((first..first + 15).chain([another])));
    }
    relay.rig.wait_until("none waits", |server| server.waiting() == 0);
}

#[test]
fn the_end_waits_for_what_is_on_its_way() {
    let mut relay = relay(GroupRules::default(), |_| ());
    let client = udp_client("127.0.0.1");
    ask(&client, relay.at(), 1, "web.example.");
    let forwarded = relay.forwarded();
    std::thread::scope(|scope| {
        let upstream = &relay.upstream;
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            upstream.send_to(&answer_to(&forwarded.0), forwarded.1).expect("sent");
        });
        assert!(relay.rig.stop(TIMEOUT) < TIMEOUT);
    });
    assert_eq!(read(&receive(&client).0), (1, Rcode::NOERROR, 1));
}

#[test]
fn a_query_that_is_in_flight_at_the_end_fails() {
    let mut relay = relay(GroupRules { prefer_udp: true, ..GroupRules::default() }, |_| ());
    let udp = udp_client("127.0.0.1");
    let mut tcp = tcp_client(relay.at());
    ask(&udp, relay.at(), 1, "web.example.");
    super::send(&mut tcp, &framed(&[query(2, "shop.example.")]));
    let _in_flight = [relay.forwarded(), relay.forwarded()];
    relay.rig.stop(Duration::from_millis(400));
    assert_eq!(read(&receive(&udp).0), (1, Rcode::SERVFAIL, 0));
    assert_eq!(read(&next(&mut tcp).expect("a response")), (2, Rcode::SERVFAIL, 0));
}

#[test]
fn ports_change() {
    let relay = relay(GroupRules::default(), |options| options.workers = NonZeroUsize::new(1));
    let client = udp_client("127.0.0.1");
    let mut ports = std::collections::BTreeSet::new();
    for id in 0..3_000 {
        ask(&client, relay.at(), id, &format!("n{id}.example."));
        let forwarded = relay.forwarded();
        ports.insert(forwarded.1.port());
        relay.answer(&forwarded);
        receive(&client);
    }
    assert!((6..60).contains(&ports.len()), "{ports:?}");
}
