//! A forwarded query allocates nothing. The test has a process of its own, since it counts the allocations of the whole
//! process; its upstream and its client allocate nothing either.

#[path = "../benches/counting/mod.rs"]
mod counting;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use clusterdns::chain::{Block, Chain, Exchange, Plugin, Router, Step, UpstreamQuery, Wait};
use clusterdns::serve::{ListenSpec, Server, ServerOptions, Service, Settings};
use clusterdns::upstream::{
    BoxFuture, DropReason, Error, Group, GroupCounters, GroupRules, ShedReason, Upstream, UpstreamDriver,
    UpstreamTransport,
};
use clusterdns::wire::{NameBuf, Rcode};
use counting::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A driver and counters without any effect.
struct NoEffect;

impl UpstreamDriver for NoEffect {
    fn exchange(&self, _: Vec<u8>, _: IpAddr, _: Duration) -> BoxFuture<Result<Vec<u8>, Error>> {
        Box::pin(std::future::ready(Err(Error::Full)))
    }
    fn record_answer(&self, _: Rcode, _: Duration) {}
    fn record_failure(&self) {}
    fn has_answered(&self) -> bool {
        false
    }
    fn record_socket(&self, _: bool) {}
    fn record_dropped(&self, _: DropReason) {}
}

impl GroupCounters for NoEffect {
    fn record_all_down(&self) {}
    fn record_over_limit(&self) {}
    fn record_shed(&self, _: ShedReason) {}
}

struct Forward(Arc<Group>);

impl Plugin for Forward {
    fn name(&self) -> &'static str {
        "forward"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let client = exchange.client;
        let begun = self.0.begin(client.remote.ip(), client.transport.forwarded_over(), exchange.now);
        let attempts = begun.expect("no limit");
        Step::Pending(Wait::Upstream(UpstreamQuery { attempts, change: Default::default() }))
    }
}

/// Returns the processor time of this process so far, in clock ticks.
fn processor_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("a file of the kernel");
    // The name of the program is in parentheses and may have any characters; user and system time are fields 14 and 15.
    let fields = stat.rsplit(')').next().expect("fields").split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

/// The number of measured queries.
const QUERIES: u64 = 4_096;

#[test]
fn a_forwarded_query_allocates_nothing() {
    let upstream = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = upstream.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((len, from)) = upstream.recv_from(&mut buffer) {
            buffer[2] |= 0x80;
            let _ = upstream.send_to(&buffer[..len], from);
        }
    });
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut options = ServerOptions::new(runtime.handle().clone());
    options.workers = NonZeroUsize::new(1);
    let servers =
        vec![Arc::new(Upstream::new(address, UpstreamTransport::Dns, None, Arc::default(), Box::new(NoEffect)))];
    let rules = GroupRules { max_concurrent: 1_000, ..GroupRules::default() };
    let group = Group::new(servers, rules, options.dispatcher.clone(), Box::new(NoEffect));
    let chain = Chain::new(vec![Arc::new(Forward(Arc::new(group)))]);
    let router = Router::new(vec![Block { zones: vec![NameBuf::from_text(".").expect("the root")], chain }], false);
    let spec = ListenSpec {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        service: Service::new(Arc::new(router), Settings::default()),
    };
    let server = Server::start(vec![spec], options).expect("a server");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.connect(server.local_addresses()[0]).expect("an address");
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let mut packet = *b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x08aaaaaaaa\x07example\0\0\x01\0\x01";
    let mut answer = [0; 512];
    let mut ask = |number: u64| {
        packet[..2].copy_from_slice(&(number as u16).to_be_bytes());
        for (at, byte) in packet[13..21].iter_mut().enumerate() {
            *byte = b'a' + (number >> (4 * at) & 15) as u8;
        }
        client.send(&packet).expect("sent");
        let len = client.recv(&mut answer).expect("an answer");
        assert_eq!((len, answer[..2] == packet[..2]), (packet.len(), true));
    };
    (0..1_024).for_each(&mut ask);
    let before = counting::allocations();
    (0..QUERIES).for_each(&mut ask);
    let allocations = (counting::allocations() - before) as u64;
    println!("{allocations} allocations for {QUERIES} forwarded queries");
    // Every 512 queries, a socket is replaced by one with a new port, which takes a few allocations.
    assert!(allocations < QUERIES / 64, "{allocations}");
    // An idle server takes no processor time. Ten ticks are 100 ms.
    let before = processor_ticks();
    std::thread::sleep(Duration::from_millis(500));
    let ticks = processor_ticks() - before;
    assert!(ticks < 10, "{ticks} ticks");
    server.stop(Duration::from_secs(10));
}
