//! Tests of answers, against an etcd in this process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::watch;

use super::*;
use crate::net::grpc::{self, GrpcCode, GrpcStatus};
use crate::plugins::testing::{self, client, code, n, packet, read, show};
use crate::upstream::Metrics;
use crate::upstream::testing::{Http2Reply, runtime, slow_http2_server};
use crate::wire::{Class, Type};

/// The faults of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    /// It answers nothing.
    Unresponsive,
    /// It answers with what is no message.
    Garbage,
    /// It answers with 10 MB.
    Huge,
    /// It answers with 100,000 records.
    Many,
    /// It refuses every token but the current one.
    Auth,
}

/// An etcd.
#[derive(Default)]
struct FakeEtcd {
    records: Mutex<BTreeMap<String, (String, i64)>>,
    fault: Mutex<Fault>,
    /// The number of range requests, and of authentications; the last one is the current token.
    ranges: AtomicUsize,
    logins: AtomicUsize,
    /// The number of requests about leases that have come, and of those that were answered.
    lease_requests: watch::Sender<usize>,
    lease_responses: AtomicUsize,
    /// The number of requests about leases that will come. None is answered before as many have come as may be sent at
    /// once.
    expected_leases: AtomicUsize,
}

/// The fields of requests and responses, by their numbers.
#[derive(Clone, PartialEq, prost::Message)]
struct TwoFields {
    #[prost(bytes = "vec", tag = "1")]
    first: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    second: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Ttl {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "3")]
    ttl: i64,
}

impl FakeEtcd {
    /// Responds to a request; to one about a lease when others have come.
    async fn respond_slowly(self: Arc<Self>, request: Request<Vec<u8>>) -> Option<Http2Reply> {
        if request.uri().path() == "/etcdserverpb.Lease/LeaseTimeToLive" {
            let mut number = 0;
            self.lease_requests.send_modify(|count| {
                number = *count;
                *count += 1;
            });
            let in_flight = number + 1 - self.lease_responses.load(Ordering::SeqCst);
            assert!(in_flight <= store::LEASES_AT_ONCE, "{in_flight} requests at once");
            let of_group = (number / store::LEASES_AT_ONCE + 1) * store::LEASES_AT_ONCE;
            let expected = of_group.min(self.expected_leases.load(Ordering::SeqCst));
            let mut requests = self.lease_requests.subscribe();
            requests.wait_for(|count| *count >= expected).await.expect("a sender");
            self.lease_responses.fetch_add(1, Ordering::SeqCst);
        }
        self.respond(&request)
    }

    fn respond(&self, request: &Request<Vec<u8>>) -> Option<Http2Reply> {
        let message = &request.body()[5..];
        let fault = *self.fault.lock();
        match fault {
            Fault::Unresponsive => return None,
            Fault::Garbage => return reply(vec![0x12, 9, 1], GrpcCode::Ok),
            Fault::Huge => return reply(vec![0; 10_000_000], GrpcCode::Ok),
            Fault::Many => return reply([0x12, 0].repeat(100_000), GrpcCode::Ok),
            Fault::None | Fault::Auth => {}
        }
        match request.uri().path() {
            "/etcdserverpb.KV/Range" => {
                self.ranges.fetch_add(1, Ordering::Relaxed);
                let token = request.headers().get("token").map(|token| token.to_str().expect("text").to_owned());
                if fault == Fault::Auth && token != Some(format!("token-{}", self.logins.load(Ordering::Relaxed))) {
                    return reply(Vec::new(), GrpcCode::Unauthenticated);
                }
                let TwoFields { first, second } = TwoFields::decode(message).expect("a request");
                let (from, to) = (String::from_utf8(first).expect("a key"), String::from_utf8(second).expect("a key"));
                let mut body = Vec::new();
                for (key, (value, lease)) in &*self.records.lock() {
                    let is_wanted = if to.is_empty() { *key == from } else { *key >= from && *key < to };
                    if is_wanted {
                        let (key, value) = (key.clone().into_bytes(), value.clone().into_bytes());
                        let record = store::KeyValue { key, value, lease: *lease }.encode_to_vec();
                        body.extend(TwoFields { first: Vec::new(), second: record }.encode_to_vec());
                    }
                }
                reply(body, GrpcCode::Ok)
            }
            "/etcdserverpb.Lease/LeaseTimeToLive" => {
                let Ttl { id, .. } = Ttl::decode(message).expect("a request");
                reply(Ttl { id, ttl: if id == 9 { -1 } else { id } }.encode_to_vec(), GrpcCode::Ok)
            }
            "/etcdserverpb.Auth/Authenticate" => {
                let TwoFields { first, second } = TwoFields::decode(message).expect("a request");
                if (&first[..], &second[..]) != (b"user", b"secret") {
                    return reply(Vec::new(), GrpcCode::InvalidArgument);
                }
                let number = self.logins.fetch_add(1, Ordering::Relaxed) + 1;
                let second = format!("token-{number}").into_bytes();
                reply(TwoFields { first: Vec::new(), second }.encode_to_vec(), GrpcCode::Ok)
            }
            other => panic!("{other}"),
        }
    }

    fn put(&self, key: &str, value: &str, lease: i64) {
        self.records.lock().insert(format!("/skydns/{key}"), (value.to_owned(), lease));
    }
}

fn reply(message: Vec<u8>, code: GrpcCode) -> Option<Http2Reply> {
    let mut trailers = HeaderMap::new();
    GrpcStatus::new(code, "").write(&mut trailers);
    let body = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    let body = if code == GrpcCode::Ok { body } else { Vec::new() };
    let response = Response::builder().header("content-type", grpc::CONTENT_TYPE).body(body);
    Some((response.expect("a response"), trailers))
}

/// An etcd, and the plugin in front of one that answers with REFUSED.
struct Bed {
    runtime: tokio::runtime::Runtime,
    etcd: Arc<FakeEtcd>,
    address: SocketAddr,
}

impl Bed {
    fn new(records: &[(&str, &str)]) -> Bed {
        let (runtime, etcd) = (runtime(), Arc::new(FakeEtcd::default()));
        records.iter().for_each(|(key, value)| etcd.put(key, value, 0));
        let server = etcd.clone();
        let (address, _) = slow_http2_server(&runtime, None, move |request| server.clone().respond_slowly(request));
        Bed { runtime, etcd, address }
    }

    fn plugin(&self, lines: &str) -> Arc<Etcd> {
        let lines = lines.replace("SERVER", &format!("http://{}", self.address));
        let own = if lines.contains("endpoint") { String::new() } else { format!("endpoint http://{}", self.address) };
        let config = read(&format!("etcd {{\n {own}\n {lines}\n}}"), parse).0.expect("a configuration");
        let registry = UpstreamRegistry::new(self.runtime.handle().clone(), Arc::<Metrics>::default());
        Arc::new(Etcd::new(&config, &registry).expect("a plugin"))
    }

    fn ask(&self, plugin: &Arc<Etcd>, name: &str, qtype: Type) -> (String, Option<String>) {
        let plugins: Vec<Arc<dyn Plugin>> = vec![plugin.clone(), code(Rcode::REFUSED, None)];
        let state =
            self.runtime.block_on(testing::send_and_wait(plugins, &packet(name, qtype, None), client("127.0.0.1:53")));
        let question = Question::new(n(name).as_name(), qtype, Class::IN);
        (show(&state, &question), state.failure.map(|failure| failure.to_string()))
    }

    /// Returns the response without an SOA, of which there has to be one exactly if there is no answer.
    fn brief(&self, plugin: &Arc<Etcd>, name: &str, qtype: Type) -> String {
        let (text, _) = self.ask(plugin, name, qtype);
        text.split_once(" Soa").map_or_else(|| text.clone(), |(before, _)| format!("{before} soa"))
    }
}

#[test]
fn names_have_the_records_of_their_keys() {
    let bed = Bed::new(&[
        ("example/a/1", r#"{"host":"10.0.0.1"}"#),
        ("example/a/2", r#"{"host":"10.0.0.2","ttl":5}"#),
        ("example/a/3", r#"{"host":"2001:db8::1"}"#),
        ("example/alias", r#"{"host":"a.example"}"#),
        ("example/loop1", r#"{"host":"loop2.example"}"#),
        ("example/loop2", r#"{"host":"loop1.example"}"#),
        ("example/dns/apex/x", r#"{"host":"10.0.0.9"}"#),
        ("example/bad", "{"),
        ("example/badname", r#"{"host":"a b..c"}"#),
    ]);
    let plugin = bed.plugin("");
    for (name, qtype, expected) in [
        ("a.example", Type::A, "NOERROR aa 10.0.0.1 10.0.0.2"),
        ("A.example", Type::AAAA, "NOERROR aa 2001:db8::1"),
        ("1.a.example", Type::A, "NOERROR aa 10.0.0.1"),
        ("a.example", Type::TXT, "NOERROR aa soa"),
        ("a.example", Type::HTTPS, "NOERROR aa soa"),
        ("alias.example", Type::A, "NOERROR aa a.example. 10.0.0.1 10.0.0.2"),
        ("alias.example", Type::CNAME, "NOERROR aa a.example."),
        ("loop1.example", Type::A, "NOERROR aa soa"),
        ("example", Type::A, "NOERROR aa 10.0.0.9"),
        ("none.example", Type::A, "NXDOMAIN aa soa"),
        ("bad.example", Type::A, "SERVFAIL aa soa"),
        ("badname.example", Type::A, "SERVFAIL aa soa"),
        ("elsewhere.test", Type::A, "REFUSED"),
    ] {
        assert_eq!(bed.brief(&plugin, name, qtype), expected, "{name} {qtype}");
    }
    let falling = bed.plugin("fallthrough");
    assert_eq!(bed.brief(&falling, "none.example", Type::A), "REFUSED");
    assert_eq!(bed.brief(&falling, "a.example", Type::MX), "NOERROR aa soa");
    let strict = bed.plugin("no_apex_fallback");
    bed.etcd.records.lock().remove("/skydns/example/dns/apex/x");
    assert_eq!(bed.brief(&strict, "example", Type::A), "NXDOMAIN aa soa");
    let (_, failure) = bed.ask(&plugin, "bad.example", Type::A);
    assert!(failure.expect("a reason").starts_with("/skydns/example/bad: "));
}

#[test]
fn the_ttl_follows_from_the_lease() {
    let bed = Bed::new(&[]);
    for (name, lease) in [("none", 0), ("short", 10), ("long", 500), ("over", 9), ("forever", i64::MAX)] {
        bed.etcd.put(&format!("example/{name}"), r#"{"host":"10.0.0.1"}"#, lease);
    }
    let plugin = bed.plugin("max-lease-ttl 1h");
    for (name, ttl) in [("none", 300), ("short", 30), ("long", 500), ("over", 300), ("forever", 3_600)] {
        let plugins: Vec<Arc<dyn Plugin>> = vec![plugin.clone()];
        let packet = packet(&format!("{name}.example"), Type::A, None);
        let state = bed.runtime.block_on(testing::send_and_wait(plugins, &packet, client("127.0.0.1:53")));
        assert_eq!(state.reply.records()[0].ttl, ttl, "{name}");
    }
}

#[test]
fn the_times_of_many_leases_are_requested_together_and_for_a_moment_only_once() {
    let bed = Bed::new(&[]);
    // Of 2,000 records, each lease has two.
    for number in 0..2_000 {
        bed.etcd.put(
            &format!("example/a/x{number}"),
            &format!(r#"{{"host":"10.0.{}.{}"}}"#, number / 250, number % 250),
            40 + number / 2,
        );
    }
    bed.etcd.expected_leases.store(1_000, Ordering::SeqCst);
    let plugin = bed.plugin("");
    let requests = || *bed.etcd.lease_requests.borrow();
    let (text, failure) = bed.ask(&plugin, "a.example", Type::SRV);
    assert!(text.starts_with("NOERROR aa ") && failure.is_none(), "{failure:?}");
    assert_eq!(requests(), 1_000);
    // The times are used again for queries of the same second, and are requested again later.
    let now = Instant::now() + Duration::from_secs(60);
    for (after, expected) in [(0, 1_010), (999, 1_010), (1_000, 1_020), (1_500, 1_020)] {
        bed.etcd.expected_leases.store(expected, Ordering::SeqCst);
        let now = now + Duration::from_millis(after);
        let caller = Caller { client: [10, 0, 0, 1].into(), now, until: now + TIMEOUT };
        let times = bed.runtime.block_on(plugin.client.lease_times(50..60, caller));
        assert_eq!((times.len(), times[&55], requests()), (10, 55, expected), "after {after} ms");
    }
    // More than the limit have their own TTLs.
    for number in 0..1_500 {
        bed.etcd.put(&format!("example/b/x{number}"), r#"{"host":"10.0.0.1"}"#, 10_000 + number);
    }
    bed.etcd.expected_leases.store(1_020 + lookup::MAX_LEASES, Ordering::SeqCst);
    bed.ask(&plugin, "b.example", Type::A);
    assert_eq!(requests(), 1_020 + lookup::MAX_LEASES);
    // An etcd that is away is not asked for each lease.
    drop(std::mem::take(&mut *bed.etcd.records.lock()));
    let away = bed.plugin("endpoint http://127.0.0.1:1");
    let now = Instant::now();
    let caller = Caller { client: [10, 0, 0, 1].into(), now, until: now + TIMEOUT };
    assert_eq!(bed.runtime.block_on(away.client.lease_times(0..100_000, caller)).len(), 0);
}

#[test]
fn an_etcd_that_lies_fails_queries_and_costs_little() {
    let bed = Bed::new(&[("example/a", r#"{"host":"10.0.0.1"}"#)]);
    let plugin = bed.plugin("");
    for (fault, reason) in [
        (Fault::Garbage, "malformed response of etcd: a record is cut off"),
        (Fault::Huge, "the response has more than 4194309 bytes"),
        (Fault::Many, "more than 10000 records in etcd below one name"),
    ] {
        *bed.etcd.fault.lock() = fault;
        let (text, failure) = bed.ask(&plugin, "a.example", Type::A);
        assert!(text.starts_with("SERVFAIL aa Soa"), "{fault:?}: {text}");
        assert!(failure.as_deref().is_some_and(|failure| failure.contains(reason)), "{fault:?}: {failure:?}");
    }
    *bed.etcd.fault.lock() = Fault::None;
    assert_eq!(bed.brief(&plugin, "a.example", Type::A), "NOERROR aa 10.0.0.1");
}

/// Aliases of aliases multiply; the number of requests for one query has a limit.
#[test]
fn records_that_refer_to_each_other_cost_a_limited_number_of_requests() {
    let bed = Bed::new(&[]);
    for from in 0..12 {
        for to in (0..12).filter(|&to| to != from) {
            bed.etcd.put(&format!("example/n{from}/x{to}"), &format!(r#"{{"host":"n{to}.example"}}"#), 0);
        }
    }
    let plugin = bed.plugin("");
    let (text, failure) = bed.ask(&plugin, "n0.example", Type::A);
    assert!(text.starts_with("SERVFAIL aa Soa"), "{text}");
    assert!(failure.expect("a reason").starts_with("etcd: "));
    assert!(bed.etcd.ranges.load(Ordering::Relaxed) <= lookup::MAX_LOOK_UPS as usize);
}

#[test]
fn an_unresponsive_endpoint_leaves_time_for_the_next() {
    let bed = Bed::new(&[("example/a", r#"{"host":"10.0.0.1"}"#)]);
    let unresponsive = Bed::new(&[]);
    *unresponsive.etcd.fault.lock() = Fault::Unresponsive;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket").local_addr().expect("an address");
    let ask = |plugin: &Arc<Etcd>, time| {
        let now = Instant::now();
        let caller = Caller { client: [10, 0, 0, 1].into(), now, until: now + Duration::from_millis(time) };
        bed.runtime
            .block_on(plugin.client.range("/skydns/example/a".to_owned(), false, caller))
            .map(|range| range.records.len())
    };
    let plugin = bed.plugin(&format!("endpoint http://{closed} http://{} SERVER", unresponsive.address));
    assert_eq!(ask(&plugin, 1_000), Ok(1));
    // The one that has answered is first now: no time passes.
    assert_eq!(ask(&plugin, 60_000), Ok(1));
    let alone = bed.plugin(&format!("endpoint http://{}", unresponsive.address));
    assert_eq!(ask(&alone, 50).expect_err("no response").code, GrpcCode::DeadlineExceeded);
    let away = bed.plugin(&format!("endpoint http://{closed}"));
    assert_eq!(ask(&away, 60_000).expect_err("no etcd").code, GrpcCode::Unavailable);
    let (text, failure) = bed.ask(&away, "a.example", Type::A);
    assert!(text.starts_with("SERVFAIL aa Soa"), "{text}");
    assert!(failure.expect("a reason").contains("connection refused"));
}

#[test]
fn a_user_is_authenticated_when_the_server_wants_it() {
    let bed = Bed::new(&[("example/a", r#"{"host":"10.0.0.1"}"#)]);
    *bed.etcd.fault.lock() = Fault::Auth;
    let plugin = bed.plugin("credentials user secret");
    let logins = || bed.etcd.logins.load(Ordering::Relaxed);
    for _ in 0..3 {
        assert_eq!(bed.brief(&plugin, "a.example", Type::A), "NOERROR aa 10.0.0.1");
    }
    assert_eq!(logins(), 1);
    // Tokens expire.
    bed.etcd.logins.fetch_add(1, Ordering::Relaxed);
    assert_eq!(bed.brief(&plugin, "a.example", Type::A), "NOERROR aa 10.0.0.1");
    assert_eq!(logins(), 3);
    let wrong = bed.plugin("credentials user other");
    let (text, failure) = bed.ask(&wrong, "a.example", Type::A);
    assert!(text.starts_with("SERVFAIL") && failure.expect("a reason").contains("InvalidArgument"), "{text}");
    let (text, failure) = bed.ask(&bed.plugin(""), "a.example", Type::A);
    assert!(text.starts_with("SERVFAIL") && failure.expect("a reason").contains("Unauthenticated"), "{text}");
}
