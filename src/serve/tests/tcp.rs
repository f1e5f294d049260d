//! TCP.

use std::net::Shutdown;
use std::num::NonZeroU32;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;

use super::*;
use crate::serve::{TcpLimits, Timeouts};

/// Timeouts that a test can wait for.
const SHORT: Settings = Settings {
    timeouts: Timeouts {
        read: Duration::from_millis(60),
        write: Duration::from_millis(60),
        idle: Duration::from_millis(120),
    },
    ..Settings::DEFAULT
};

/// A server and one connection to it.
fn connected(settings: Settings) -> (Rig, TcpStream) {
    let rig = start(&["127.0.0.1:0"], settings, |_| ());
    let stream = tcp_client(rig.at("127.0.0.1"));
    (rig, stream)
}

#[test]
fn a_pending_query_does_not_delay_later_ones() {
    let (rig, mut stream) = connected(Settings::default());
    send(&mut stream, &framed(&[query(1, "later."), query(2, "a."), query(3, "later."), query(4, "a.")]));
    assert_eq!(read(&next(&mut stream).expect("an answer")), (2, Rcode::NOERROR, 1));
    assert_eq!(read(&next(&mut stream).expect("an answer")), (4, Rcode::NOERROR, 1));
    rig.gate.add_permits(2);
    let mut late: Vec<_> = (0..2).map(|_| read(&next(&mut stream).expect("an answer")).0).collect();
    late.sort_unstable();
    assert_eq!(late, [1, 3]);
}

#[test]
fn pending_queries_of_a_connection_are_limited_and_none_is_lost() {
    let rig = start(&["127.0.0.1:0"], Settings::default(), |options| options.tcp.waiting_per_connection = 2);
    let mut stream = tcp_client(rig.at("127.0.0.1"));
    let queries: Vec<_> = (0..10).map(|id| query(id, if id % 5 == 4 { "a." } else { "later." })).collect();
    send(&mut stream, &framed(&queries));
    rig.wait_until("two wait", |server| server.waiting() == 2);
    let mut ids = Vec::new();
    rig.gate.add_permits(8);
    for _ in 0..10 {
        assert!(rig.server().waiting() <= 2);
        ids.push(read(&next(&mut stream).expect("an answer")).0);
    }
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..10));
}

#[test]
fn messages_may_come_in_any_pieces() {
    let (_rig, mut stream) = connected(Settings::default());
    stream.set_nodelay(true).expect("no delay");
    let bytes = framed(&[query(1, "a."), query(2, "www.example.org."), query(3, "b.")]);
    for byte in &bytes {
        send(&mut stream, std::slice::from_ref(byte));
    }
    (1..4).for_each(|id| assert_eq!(read(&next(&mut stream).expect("an answer")).0, id));
    let many: Vec<_> = (0..5_000).map(|id| query(id, "a.")).collect();
    let bytes = framed(&many);
    let mut writer = stream.try_clone().expect("a clone");
    let sender = std::thread::spawn(move || bytes.chunks(1_013).for_each(|chunk| send(&mut writer, chunk)));
    (0..5_000).for_each(|id| assert_eq!(read(&next(&mut stream).expect("an answer")).0, id));
    sender.join().expect("all sent");
}

#[test]
fn bad_messages_get_their_code_or_no_response() {
    let (rig, mut stream) = connected(Settings::default());
    let mut response = query(1, "a.");
    response[2] = 0x80;
    let mut update = query(2, "a.");
    update[2] = 5 << 3;
    let claim = [&[0, 3, 0, 0, 0xff, 0xff][..], &[0; 6]].concat();
    send(&mut stream, &framed(&[response, vec![], vec![1; 11], update, claim, query(4, "panic."), query(5, "a.")]));
    let answers: Vec<_> = (0..4).map(|_| read(&next(&mut stream).expect("an answer"))).collect();
    assert_eq!(
        answers,
        [(2, Rcode::NOTIMP, 0), (3, Rcode::FORMERR, 0), (4, Rcode::SERVFAIL, 0), (5, Rcode::NOERROR, 1)]
    );
    send(&mut stream, &framed(&[query(6, "latepanic.")]));
    assert_eq!(read(&next(&mut stream).expect("an answer")), (6, Rcode::SERVFAIL, 0));
    assert_eq!((rig.server().counts().unanswered, rig.server().counts().panics), (3, 2));
    // A query that is too long is judged by its header, and is the last.
    let mut long = query(7, "a.");
    long.resize(5_000, 0);
    send(&mut stream, &framed(&[long, query(8, "a.")]));
    assert_eq!(read(&next(&mut stream).expect("an answer")), (7, Rcode::FORMERR, 0));
    assert_eq!(next(&mut stream), None);
}

#[test]
fn half_a_connection_still_gets_its_answers() {
    let (rig, mut stream) = connected(Settings::default());
    send(&mut stream, &framed(&[query(1, "later."), query(2, "a."), query(3, "big.")]));
    send(&mut stream, &[0, 40, 1]);
    stream.shutdown(Shutdown::Write).expect("half closed");
    assert_eq!(read(&next(&mut stream).expect("an answer")).0, 2);
    assert_eq!(read(&next(&mut stream).expect("an answer")), (3, Rcode::NOERROR, 2_000));
    rig.gate.add_permits(1);
    assert_eq!(read(&next(&mut stream).expect("an answer")).0, 1);
    assert_eq!(next(&mut stream), None);
    rig.wait_until("it is closed", |server| server.open_connections() == 0);
}

#[test]
fn the_connection_of_a_client_that_sends_nothing_is_closed() {
    let (rig, mut stream) = connected(SHORT);
    // Nothing at all.
    assert_eq!(next(&mut stream), None);
    assert_eq!(rig.server().counts().connections_timed_out, 0);
    // The start of a message.
    let mut stream = tcp_client(rig.at("127.0.0.1"));
    send(&mut stream, &[0xff, 0xff]);
    assert_eq!(next(&mut stream), None);
    // A byte at a time does not extend the timeout.
    let mut stream = tcp_client(rig.at("127.0.0.1"));
    let start = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(10))).expect("a timeout");
    send(&mut stream, &framed(&[query(1, "a.")]));
    assert!(next(&mut stream).is_some());
    send(&mut stream, &[0xff, 0xff]);
    while stream.write_all(&[0]).is_ok() && start.elapsed() < TIMEOUT {
        let _ = stream.read(&mut [0]);
    }
    assert!(start.elapsed() < TIMEOUT);
    rig.wait_until("both are counted", |server| server.counts().connections_timed_out == 2);
    // After an answer, idleness ends it, later than the rest of a message would.
    let mut stream = tcp_client(rig.at("127.0.0.1"));
    send(&mut stream, &framed(&[query(1, "a.")]));
    assert!(next(&mut stream).is_some());
    let start = Instant::now();
    assert_eq!(next(&mut stream), None);
    assert!(start.elapsed() > Duration::from_millis(100));
}

#[test]
fn a_connection_whose_client_never_reads_is_reset() {
    let (rig, mut stream) = connected(SHORT);
    let queries = framed(&(0..500).map(|id| query(id, "big.")).collect::<Vec<_>>());
    stream.set_write_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    let start = Instant::now();
    while start.elapsed() < TIMEOUT && rig.server().counts().connections_timed_out == 0 {
        let _ = stream.write(&queries);
    }
    assert_eq!(rig.server().counts().connections_timed_out, 1);
    rig.wait_until("it is closed", |server| server.open_connections() == 0);
}

/// Reads until the end. Returns the bytes, and whether the end is orderly (a FIN, not a reset).
fn read_to_end(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes);
    (bytes, end.is_ok())
}

/// N13.
#[test]
fn an_idle_connection_ends_in_order_and_its_last_answer_arrives_whole() {
    let rig = start(&["127.0.0.1:0"], SHORT, |_| ());
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    // The client's side takes little, so that most of the answer is still in the server's when the time is over.
    socket.set_recv_buffer_size(2_048).expect("a small buffer");
    socket.connect(&rig.at("127.0.0.1").into()).expect("a connection");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    send(&mut stream, &framed(&[query(1, "big.")]));
    let mut start = vec![0; 2_048];
    stream.read_exact(&mut start).expect("the start of an answer");
    rig.wait_until("the time is over", |server| server.open_connections() == 0);
    let (rest, is_orderly) = read_to_end(&mut stream);
    let len = usize::from(u16::from_be_bytes([start[0], start[1]]));
    assert_eq!((start.len() + rest.len(), is_orderly), (2 + len, true));
}

/// N13.
#[test]
fn a_client_that_has_ended_its_side_gets_its_answers_however_long_they_take() {
    let (rig, mut stream) = connected(SHORT);
    send(&mut stream, &framed(&[query(1, "later.")]));
    // Longer than a client may take for the rest of this.
    send(&mut stream, &[0, 40, 1]);
    stream.shutdown(Shutdown::Write).expect("half closed");
    rig.wait_until("it is pending", |server| server.waiting() == 1);
    let pending_since = Instant::now();
    rig.wait_until("it takes a while", |_| pending_since.elapsed() > 5 * SHORT.timeouts.idle);
    rig.gate.add_permits(1);
    assert_eq!(read(&next(&mut stream).expect("an answer")).0, 1);
    assert_eq!(read_to_end(&mut stream), (Vec::new(), true));
}

/// N12: in one segment, then with the length in two.
#[test]
fn a_slow_query_in_front_delays_no_other() {
    let (rig, mut stream) = connected(Settings::default());
    stream.set_nodelay(true).expect("no delay");
    let slow = framed(&[query(1, "later.")]);
    let bytes = framed(&[query(1, "later."), query(2, "a.")]);
    for split in [bytes.len(), 1, slow.len() + 1] {
        let (first, second) = bytes.split_at(split);
        send(&mut stream, first);
        if split == slow.len() + 1 {
            // So that half of the second length is read with it.
            rig.wait_until("the slow one is pending", |server| server.waiting() == 1);
        }
        send(&mut stream, second);
        assert_eq!(read(&next(&mut stream).expect("an answer")), (2, Rcode::NOERROR, 1));
        rig.gate.add_permits(1);
        assert_eq!(read(&next(&mut stream).expect("an answer")), (1, Rcode::NOERROR, 1));
    }
}

#[test]
fn a_client_that_sends_without_pause_does_not_hold_up_the_end() {
    let (mut rig, stream) = connected(Settings::default());
    let mut writer = stream.try_clone().expect("a clone");
    let queries = framed(&(0..500).map(|id| query(id, "a.")).collect::<Vec<_>>());
    let writes = std::thread::spawn(move || while writer.write_all(&queries).is_ok() {});
    let mut reader = stream;
    let reads = std::thread::spawn(move || {
        while reader.read(&mut [0; 65_536]).is_ok_and(|len| len > 0) {}
        let _ = reader.shutdown(Shutdown::Both);
    });
    rig.wait_until("it is answered", |server| server.counts().answered > 1_000);
    assert!(rig.stop(2 * TIMEOUT) < TIMEOUT);
    writes.join().expect("it ends");
    reads.join().expect("it ends");
}

/// A connection from another address of this machine.
pub(super) fn connect_from(ip: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((ip, 0)).into()).expect("an address");
    socket.connect(&to.into()).expect("a connection");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    stream
}

#[test]
fn the_longest_idle_connection_is_closed_first() {
    let limits = TcpLimits { connections: 4, connections_per_address: 3, ..TcpLimits::default() };
    let rig = start(&["127.0.0.1:0"], Settings::default(), |options| options.tcp = limits);
    let at = rig.at("127.0.0.1");
    let mut idle: Vec<_> = (0..3).map(|_| tcp_client(at)).collect();
    rig.wait_until("all are open", |server| server.open_connections() == 3);
    // Beyond the limit of an address: its idlest is closed.
    let mut new = tcp_client(at);
    send(&mut new, &framed(&[query(1, "a.")]));
    assert!(next(&mut new).is_some());
    assert_eq!(next(&mut idle[0]), None);
    // Beyond the limit of all: the idlest of the heaviest address is closed.
    let mut others = [connect_from([127, 0, 0, 2], at), connect_from([127, 0, 0, 3], at)];
    for stream in &mut others {
        send(stream, &framed(&[query(1, "a.")]));
        assert!(next(stream).is_some());
    }
    assert_eq!(next(&mut idle[1]), None);
    assert_eq!(rig.server().counts().connections_refused, 0);
    assert!(rig.server().open_connections() <= 4);
}

#[test]
fn busy_connections_of_the_same_client_are_not_closed() {
    let limits = TcpLimits { connections: 5, connections_per_address: 2, ..TcpLimits::default() };
    let rig = start(&["127.0.0.1:0"], Settings::default(), |options| options.tcp = limits);
    let at = rig.at("127.0.0.1");
    let mut busy: Vec<_> = (0..2).map(|_| tcp_client(at)).collect();
    for stream in &mut busy {
        send(stream, &framed(&[query(1, "later.")]));
    }
    rig.wait_until("both wait", |server| server.waiting() == 2);
    assert_eq!(next(&mut tcp_client(at)), None);
    assert_eq!(rig.server().counts().connections_refused, 1);
    rig.gate.add_permits(2);
    for stream in &mut busy {
        assert!(next(stream).is_some());
    }
}

/// E15.
#[test]
fn a_connection_ends_after_as_many_queries_as_it_may_bring() {
    let settings = Settings { queries_per_connection: NonZeroU32::new(3), ..Settings::default() };
    let (rig, mut stream) = connected(settings);
    let queries: Vec<_> = (0..5).map(|id| query(id, if id == 1 { "later." } else { "a." })).collect();
    send(&mut stream, &framed(&queries));
    assert_eq!(read(&next(&mut stream).expect("an answer")).0, 0);
    assert_eq!(read(&next(&mut stream).expect("an answer")).0, 2);
    rig.gate.add_permits(1);
    assert_eq!(read(&next(&mut stream).expect("an answer")).0, 1);
    assert_eq!(next(&mut stream), None);
}

#[test]
fn a_server_that_stops_answers_what_it_has_read() {
    let (mut rig, mut stream) = connected(Settings::default());
    let at = rig.at("127.0.0.1");
    send(&mut stream, &framed(&[query(1, "later."), query(2, "a.")]));
    assert_eq!(read(&next(&mut stream).expect("an answer")).0, 2);
    // Sent, and in the server's socket, but perhaps not read.
    send(&mut stream, &framed(&[query(3, "a.")]));
    let mut other = tcp_client(at);
    send(&mut other, &framed(&[query(4, "a.")]));
    let gate = rig.gate.clone();
    rig.runtime.spawn(async move { gate.add_permits(1) });
    let clients = std::thread::spawn(move || {
        let mut ids: Vec<_> = std::iter::from_fn(|| next(&mut stream)).map(|answer| read(&answer).0).collect();
        ids.sort_unstable();
        (ids, next(&mut other).map(|answer| read(&answer).0), next(&mut other))
    });
    assert!(rig.stop(TIMEOUT) < Duration::from_secs(5));
    assert_eq!(clients.join().expect("clients"), (vec![1, 3], Some(4), None));
    assert!(TcpStream::connect(at).is_err());
}

/// E01: what a client sends while the server stops is answered, and the connection ends behind the answer.
#[test]
fn a_server_that_stops_closes_a_connection_behind_an_answer() {
    let (mut rig, mut stream) = connected(Settings::default());
    send(&mut stream, &framed(&[query(1, "a.")]));
    assert_eq!(read(&next(&mut stream).expect("an answer")).0, 1);
    let server = rig.server.take().expect("a server");
    let stopping = std::thread::spawn(move || server.stop(TIMEOUT));
    std::thread::sleep(Duration::from_millis(50));
    send(&mut stream, &framed(&[query(2, "a."), query(3, "a.")]));
    let ids: Vec<_> = std::iter::from_fn(|| next(&mut stream)).map(|answer| read(&answer).0).collect();
    assert_eq!(ids, [2, 3]);
    drop(stream);
    stopping.join().expect("it stops");
}

/// Blocks the thread on the name `hold` until the test continues.
struct Hold {
    has_begun: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Plugin for Hold {
    fn name(&self) -> &'static str {
        "hold"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        if exchange.question().label(0) == b"hold" {
            self.has_begun.send(()).expect("the test waits");
            self.go_on.lock().recv_timeout(TIMEOUT).expect("the test continues");
        }
        exchange.reply().answer(Type::A, 5, Rdata::A([10, 0, 0, 1]));
        Step::Answered
    }
}

#[test]
fn new_connections_do_not_delay_the_queries_of_open_ones() {
    let rig = start(&["127.0.0.1:0"], Settings::default(), |_| ());
    let ((has_begun, begun), (go_on, continues)) = (channel(), channel());
    let chain = Chain::new(vec![Arc::new(Hold { has_begun, go_on: Mutex::new(continues) })]);
    let block = Block { zones: vec![NameBuf::from_text(".").expect("the root")], chain };
    rig.service.replace(Arc::new(Router::new(vec![block], false)), Settings::default(), None);
    let at = rig.at("127.0.0.1");
    let mut open = [tcp_client(at), tcp_client(at)];
    for stream in &mut open {
        send(stream, &framed(&[query(1, "a.")]));
        assert_eq!(read(&next(stream).expect("an answer")).0, 1);
    }
    // The only thread of the runtime waits in the first query, while the others arrive.
    send(&mut open[0], &framed(&[query(2, "hold.")]));
    begun.recv_timeout(TIMEOUT).expect("the first query");
    send(&mut open[1], &framed(&[query(3, "hold.")]));
    let _new: Vec<TcpStream> = (0..200).map(|_| tcp_client(at)).collect();
    go_on.send(()).expect("a query waits");
    begun.recv_timeout(TIMEOUT).expect("the second query");
    let accepted = rig.server().counts().connections;
    assert!(accepted < 64, "{accepted} were accepted before an open connection had its turn");
    go_on.send(()).expect("a query waits");
    let ids = open.each_mut().map(|stream| read(&next(stream).expect("an answer")).0);
    assert_eq!(ids, [2, 3]);
}
