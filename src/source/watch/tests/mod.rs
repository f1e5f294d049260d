//! The watch against an API server that does what a real one cannot be made to do.

mod fake;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use prometheus::Registry;
use serde_json::{Value, json};

use super::backoff::Pace;
use super::follow::Follower;
use super::status::Complaints;
use super::*;
use crate::cluster::entry::EndpointFields;
use crate::cluster::index::service_key;
use crate::cluster::{Index, Options, Selector};
use fake::{Fake, Reply, Then};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn timing() -> Timing {
    let ms = Duration::from_millis;
    Timing {
        pace: Pace { first: ms(20), most: ms(80), reconnect: ms(80), calm: ms(2_000), spread: ms(5) },
        watch: (ms(60_000), ms(60_000)),
        grace: ms(0),
        page: ms(300),
        pages: ms(700),
        initial: ms(300),
        initial_all: ms(2_000),
        brief: ms(100),
        relist: Duration::from_secs(3_600),
    }
}

/// A watch of everything at a fake, and what it knows.
struct Bench {
    fake: Fake,
    index: Arc<Index>,
    registry: Registry,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn all() -> Selection {
    Selection { pods: true, endpoints: true, ..Selection::default() }
}

impl Bench {
    /// Two Services and a Namespace, in step.
    async fn in_step(timing: Timing) -> Bench {
        let bench = Bench::start(timing, all(), |_| {}).await;
        bench.until("in step", |index| index.synced()).await;
        bench
    }

    async fn start(timing: Timing, selection: Selection, prepare: impl FnOnce(&Fake)) -> Bench {
        let fake = Fake::start().await;
        fake.put("namespaces", "a", json!({"metadata": {"name": "a"}}));
        fake.put("services", "one", service("one", 1));
        fake.put("services", "two", service("two", 2));
        prepare(&fake);
        let registry = Registry::new();
        let metrics = Metrics::new(&registry);
        let (index, writer) =
            Index::new(&Options { kinds: selection.kinds().collect(), endpoint_fields: EndpointFields::default() });
        let server = Server::Endpoint { url: fake.url.clone(), tls: None };
        let connection = Arc::new(Connection::new(server, Limits::default(), metrics.clone()));
        let (writer, log) = (Arc::new(Mutex::new(writer)), Arc::new(Complaints::default()));
        let tasks = selection.kinds().map(|kind| {
            let (selection, connection, writer) = (selection.clone(), connection.clone(), writer.clone());
            let (index, status) = (index.clone(), metrics.watch(kind, log.clone()));
            tokio::spawn(
                Arc::new(Follower {
                    kind,
                    keep: EndpointFields::default(),
                    selection,
                    connection,
                    writer,
                    index,
                    status,
                    timing,
                })
                .run(),
            )
        });
        let tasks = tasks.collect();
        Bench { fake, index, registry, tasks }
    }

    /// Waits for something to become true of what is known.
    async fn until(&self, what: &str, mut done: impl FnMut(&Index) -> bool) {
        let start = Instant::now();
        while !done(&self.index) {
            assert!(start.elapsed() < PATIENCE, "never: {what}; services: {:?}", self.fake.texts("services"));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until a resource has been asked for so many times.
    async fn calls(&self, resource: &str, count: usize) -> Vec<String> {
        self.until("calls", |_| self.fake.calls(resource).len() >= count).await;
        self.fake.texts(resource)
    }

    /// Waits until a series has this value.
    async fn shows(&self, series: &str, value: f64) {
        self.until(series, |_| self.metric(series) == Some(value)).await;
    }

    /// A line of the metrics: the value of the series that starts like this.
    fn metric(&self, series: &str) -> Option<f64> {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        let line = text.lines().find(|line| line.starts_with(series))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

fn service(name: &str, number: u8) -> Value {
    json!({"metadata": {"name": name, "namespace": "a"}, "spec": {"clusterIP": format!("10.0.0.{number}")}})
}

fn known(name: &'static str) -> impl FnMut(&Index) -> bool {
    move |index| index.entry(&service_key("a", name).unwrap()).is_some()
}

fn unknown(name: &'static str) -> impl FnMut(&Index) -> bool {
    move |index| index.entry(&service_key("a", name).unwrap()).is_none()
}

#[tokio::test]
async fn what_happens_is_known_a_moment_later() {
    let bench = Bench::in_step(timing()).await;
    assert_eq!(bench.fake.texts("services"), ["stream"]);
    bench.fake.put("services", "three", service("three", 3));
    bench.until("three", known("three")).await;
    bench.fake.delete("services", "one");
    bench.until("no one", unknown("one")).await;
    let slice = json!({
        "metadata": {"name": "s", "namespace": "a", "labels": {"kubernetes.io/service-name": "two"},
                     "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.1.0.1"]}],
    });
    bench.fake.put("endpointslices", "s", slice);
    let address: IpAddr = "10.1.0.1".parse().unwrap();
    bench.until("its endpoint", |index| !index.endpoint_owners(address).is_empty()).await;
    assert_eq!(bench.fake.texts("services"), ["stream"]);
    let series = "coredns_kubernetes_dns_programming_duration_seconds_count{service_kind=\"cluster_ip\"}";
    bench.shows(series, 1.0).await;
    bench.shows("clusterdns_kubernetes_objects{kind=\"Service\"}", 2.0).await;
    bench.shows("clusterdns_kubernetes_synced{kind=\"Pod\"}", 1.0).await;
    assert!(bench.metric("clusterdns_kubernetes_last_seen_age_seconds{kind=\"Pod\"}").is_some_and(|age| age < 20.0));
}

#[tokio::test]
async fn a_pod_that_is_being_deleted_keeps_its_name_until_it_is_gone() {
    let pod = |extra: Value| {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "a"}, "status": {"podIPs": [{"ip": "10.1.0.9"}]}});
        pod["metadata"]["deletionTimestamp"] = extra;
        pod
    };
    let bench = Bench::start(timing(), all(), |fake| fake.put("pods", "p", pod(Value::Null))).await;
    let address: IpAddr = "10.1.0.9".parse().unwrap();
    let there = |index: &Index| {
        let mut found = 0;
        index.pods_at(address, |_| found += 1);
        found == 1
    };
    bench.until("the Pod", there).await;
    bench.fake.put("pods", "p", pod(json!("2026-01-01T00:00:00Z")));
    // A relist keeps it, too.
    bench.fake.compact();
    let mut once = false;
    bench.fake.fault(move |call| {
        (call.resource == "pods" && call.is_watch() && !std::mem::replace(&mut once, true)).then(|| Reply::refuse(410))
    });
    bench.fake.put("pods", "q", json!({"metadata": {"name": "q", "namespace": "a"}}));
    assert!(there(&bench.index));
    bench.fake.delete("pods", "p");
    bench.until("no Pod", |index| !there(index)).await;
}

/// Makes the first stream of Services end, and then whatever `fault` says happen to its successors.
fn break_first(fake: &Fake, mut fault: impl FnMut(&fake::Call, usize) -> Option<Reply> + Send + 'static) {
    let mut count = 0;
    fake.fault(move |call| {
        if call.resource != "services" {
            return None;
        }
        count += 1;
        fault(call, count)
    });
}

/// In step, with a first stream that ends soon; then `fault` decides, told what is called and how often.
async fn broken(timing: Timing, fault: impl FnMut(&fake::Call, usize) -> Option<Reply> + Send + 'static) -> Bench {
    let mut fault = fault;
    let bench = Bench::start(timing, all(), |fake| {
        break_first(fake, move |call, count| match count {
            1 => Some(Reply::good(stream_of(&[service("one", 1), service("two", 2)], 13), Then::Late)),
            _ => fault(call, count),
        });
    })
    .await;
    bench.until("in step", |index| index.synced()).await;
    bench
}

/// A streaming list of these.
fn stream_of(objects: &[Value], version: u64) -> String {
    let mut text: String =
        objects.iter().map(|object| format!("{}\n", json!({"type": "ADDED", "object": object}))).collect();
    let annotations = json!({"k8s.io/initial-events-end": "true"});
    let metadata = json!({"resourceVersion": version.to_string(), "annotations": annotations});
    text += &format!("{}\n", json!({"type": "BOOKMARK", "object": {"metadata": metadata}}));
    text
}

// B05, I01
#[tokio::test]
async fn a_watch_that_is_refused_with_410_lists_anew() {
    let bench = broken(timing(), |call, _| call.is_watch().then(|| Reply::refuse(410))).await;
    bench.fake.secretly("services", "one", None);
    bench.until("no one", unknown("one")).await;
    assert_eq!(bench.fake.texts("services")[..3], ["stream", "watch 13", "stream"]);
    bench.shows("clusterdns_kubernetes_relists_total{kind=\"Service\",reason=\"expired\"}", 1.0).await;
}

// I02
#[tokio::test]
async fn a_version_that_the_server_does_not_know_yet_lists_anew_after_the_first_refusal() {
    let bench = broken(timing(), |call, _| call.is_watch().then(|| Reply::refuse(504))).await;
    assert_eq!(bench.calls("services", 3).await[..3], ["stream", "watch 13", "stream"]);
    let series = "clusterdns_kubernetes_relists_total{kind=\"Service\",reason=\"version_too_large\"}";
    bench.shows(series, 1.0).await;
}

#[tokio::test]
async fn versions_that_go_back_are_followed() {
    let mut timing = timing();
    timing.watch = (Duration::from_secs(1), Duration::from_secs(1));
    timing.grace = Duration::from_millis(100);
    // All streams end, and the store is restored from an old snapshot that has no `two`.
    let bench = broken(timing, |_, _| None).await;
    bench.fake.restore(3, &[("services", "two")]);
    bench.until("no two", unknown("two")).await;
    bench.fake.put("services", "four", service("four", 4));
    bench.until("four", known("four")).await;
    assert!(known("one")(&bench.index));
}

#[tokio::test]
async fn versions_that_go_back_within_a_watch_list_anew() {
    let bench = broken(timing(), |call, count| {
        let bookmark = json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "5"}}});
        (call.is_watch() && count == 2).then(|| Reply::good(format!("{bookmark}\n"), Then::Hang))
    })
    .await;
    bench.fake.secretly("services", "one", None);
    bench.until("no one", unknown("one")).await;
    bench.shows("clusterdns_kubernetes_relists_total{kind=\"Service\",reason=\"backwards\"}", 1.0).await;
}

#[tokio::test]
async fn an_answer_that_is_no_list_deletes_nothing() {
    let bench = broken(timing(), |call, count| match count {
        2 => Some(Reply::refuse(410)),
        3..=8 if call.has("sendInitialEvents") => Some(Reply::refuse(500)),
        3..=8 => {
            Some(Reply::good("{\"kind\":\"Table\",\"metadata\":{\"resourceVersion\":\"900\"},\"rows\":[]}", Then::End))
        }
        _ => None,
    })
    .await;
    let mut always = true;
    bench
        .until("the ninth call", |index| {
            always &= known("one")(index) && known("two")(index);
            bench.fake.calls("services").len() >= 9
        })
        .await;
    assert!(always);
}

#[tokio::test]
async fn an_error_event_lists_anew() {
    for code in [410, 500] {
        let event = json!({"type": "ERROR", "object": {"kind": "Status", "code": code, "message": "etcd"}});
        let bench =
            broken(timing(), move |call, _| call.is_watch().then(|| Reply::good(format!("{event}\n"), Then::End)))
                .await;
        assert_eq!(bench.calls("services", 3).await[..3], ["stream", "watch 13", "stream"]);
    }
}

// K3
#[tokio::test]
async fn watches_that_end_at_once_do_not_spin_and_are_listed_after_the_third() {
    let bench = broken(timing(), |call, _| call.is_watch().then(|| Reply::good("", Then::End))).await;
    let calls = bench.calls("services", 5).await;
    assert_eq!(calls[..5], ["stream", "watch 13", "watch 13", "watch 13", "stream"]);
}

// B02, I03
#[tokio::test]
async fn a_silent_watch_is_dropped_and_taken_up_at_its_version() {
    let mut timing = timing();
    timing.watch = (Duration::from_secs(1), Duration::from_secs(1));
    timing.grace = Duration::from_millis(50);
    let bench =
        broken(timing, |call, count| (call.is_watch() && count == 2).then(|| Reply::good("", Then::Hang))).await;
    bench.fake.put("services", "three", service("three", 3));
    bench.until("three", known("three")).await;
    assert_eq!(bench.fake.texts("services")[..3], ["stream", "watch 13", "watch 13"]);
    let series = "clusterdns_kubernetes_errors_total{kind=\"Service\",reason=\"timeout\"}";
    bench.shows(series, 1.0).await;
}

// B03
#[tokio::test]
async fn events_that_were_skipped_are_found_by_the_routine_list() {
    let mut timing = timing();
    timing.relist = Duration::from_millis(300);
    let bench = Bench::in_step(timing).await;
    bench.fake.secretly("services", "three", Some(service("three", 3)));
    bench.fake.secretly("services", "one", None);
    bench.until("three", known("three")).await;
    bench.until("no one", unknown("one")).await;
    let routine = "clusterdns_kubernetes_relists_total{kind=\"Service\",reason=\"routine\"}";
    bench.until("counted", |_| bench.metric(routine).is_some()).await;
}

/// Pages instead of a streaming list.
fn no_streaming(call: &fake::Call) -> Option<Reply> {
    call.has("sendInitialEvents").then(|| Reply::refuse(422))
}

// I06
#[tokio::test]
async fn a_server_without_streaming_lists_is_listed_by_pages() {
    // No timeout plays a part here, and a loaded machine needs more than 300 ms for a page of 500.
    let timing = Timing { page: Duration::from_secs(30), pages: Duration::from_secs(60), ..timing() };
    let bench = Bench::start(timing, all(), |fake| {
        fake.fault(no_streaming);
        (0..1_200).for_each(|n| fake.put("services", &format!("s{n}"), service(&format!("s{n}"), 9)));
    })
    .await;
    bench.until("in step", |index| index.synced()).await;
    let calls = bench.calls("services", 5).await;
    assert_eq!(calls, ["stream", "list", "page 500", "page 1000", "watch 1213"]);
    assert!(known("s1199")(&bench.index) && known("one")(&bench.index));
}

// I06
#[tokio::test]
async fn a_server_that_never_ends_the_initial_events_is_listed_by_pages() {
    let bench = Bench::start(timing(), all(), |fake| {
        fake.fault(|call| {
            let event = json!({"type": "ADDED", "object": service("one", 1)});
            call.has("sendInitialEvents").then(|| Reply::good(format!("{event}\n"), Then::Hang))
        });
    })
    .await;
    bench.until("in step", |index| index.synced()).await;
    assert_eq!(bench.calls("services", 3).await[..3], ["stream", "list", "watch 13"]);
}

// I04
#[tokio::test]
async fn half_a_list_changes_nothing_and_is_made_again() {
    for then in [Then::Break, Then::Hang, Then::End] {
        let bench = broken(timing(), move |call, count| match count {
            2 => Some(Reply::refuse(410)),
            // `one` is on the half that came; `two` is not.
            3 => {
                let event = json!({"type": "ADDED", "object": service("one", 1)});
                Some(Reply::good(format!("{event}\n"), then))
            }
            4 => {
                let whole = json!({"metadata": {"resourceVersion": "20"}, "items": [service("one", 1)]}).to_string();
                Some(Reply::good(&whole[..whole.len() / 2], then))
            }
            _ => None.or_else(|| (count < 4).then(|| no_streaming(call)).flatten()),
        })
        .await;
        let mut always = true;
        bench
            .until("the fifth call", |index| {
                always &= known("one")(index) && known("two")(index);
                bench.fake.calls("services").len() >= 5
            })
            .await;
        assert!(always, "{then:?}");
        bench.fake.put("services", "three", service("three", 3));
        bench.until("three", known("three")).await;
        assert!(known("two")(&bench.index));
    }
}

// K8
#[tokio::test]
async fn pages_that_expire_are_started_over_and_then_read_whole() {
    let bench = Bench::start(timing(), all(), |fake| {
        (0..600).for_each(|n| fake.put("services", &format!("s{n}"), service(&format!("s{n}"), 9)));
        fake.fault(|call| no_streaming(call).or_else(|| call.has("continue").then(|| Reply::refuse(410))));
    })
    .await;
    bench.until("in step", |index| index.synced()).await;
    let calls = bench.calls("services", 9).await;
    let twice = ["list", "page 500", "list", "page 500", "list", "page 500", "whole"];
    assert_eq!(calls[0], "stream");
    assert_eq!(calls[1..8], twice);
    assert!(known("s599")(&bench.index));
}

#[tokio::test]
async fn a_list_without_an_end_is_given_up() {
    let mut page = json!({"metadata": {"resourceVersion": "9"}, "items": [service("one", 1)]});
    let mut number = 0;
    let bench = Bench::start(timing(), all(), |fake| {
        fake.fault(move |call| {
            let pages = call.resource == "services" && !call.has("watch");
            number += u32::from(pages);
            // The first round leads to itself, the others ever further.
            page["metadata"]["continue"] = json!(if number < 4 { "more".to_owned() } else { number.to_string() });
            no_streaming(call).or_else(|| pages.then(|| Reply::good(page.to_string(), Then::End)))
        });
    })
    .await;
    for reason in ["protocol", "timeout"] {
        let series = format!("clusterdns_kubernetes_errors_total{{kind=\"Service\",reason=\"{reason}\"}}");
        bench.until(reason, |_| bench.metric(&series).is_some_and(|count| count >= 1.0)).await;
    }
    bench.fake.fault(no_streaming);
    bench.until("in step", |index| index.synced()).await;
}

// K9
#[tokio::test]
async fn one_bad_object_is_counted_and_the_others_are_there() {
    let bad = |name: &str| json!({"metadata": {"name": name, "namespace": "a"}, "spec": {"type": "ExternalName"}});
    for streaming in [true, false] {
        let bench = Bench::start(timing(), all(), |fake| {
            fake.put("services", "bad", bad("bad"));
            fake.put("services", "three", service("three", 3));
            fake.fault(move |call| if streaming { None } else { no_streaming(call) });
        })
        .await;
        bench.until("in step", |index| index.synced()).await;
        assert!(known("one")(&bench.index) && known("three")(&bench.index) && unknown("bad")(&bench.index));
        bench.shows("clusterdns_kubernetes_bad_objects_total{kind=\"Service\"}", 1.0).await;
        // A good one that becomes bad is as it was, and a bad one that becomes good is there.
        bench.fake.put("services", "one", bad("one"));
        bench.fake.put("services", "bad", service("bad", 7));
        bench.until("bad", known("bad")).await;
        assert!(known("one")(&bench.index));
        bench.shows("clusterdns_kubernetes_bad_objects_total{kind=\"Service\"}", 2.0).await;
    }
}

// K9
#[tokio::test]
async fn bad_values_are_counted_and_their_object_is_there() {
    let bench = Bench::start(timing(), all(), |fake| {
        let spec = json!({"clusterIPs": ["10.96.0.300", "fe80::1%eth0", "10.96.000.042"], "ports": [{"port": 80}, 7]});
        fake.put("services", "odd", json!({"metadata": {"name": "odd", "namespace": "a"}, "spec": spec}));
    })
    .await;
    bench.until("in step", |index| index.synced()).await;
    assert!(known("one")(&bench.index) && known("odd")(&bench.index));
    bench.shows("clusterdns_kubernetes_bad_values_total{kind=\"Service\"}", 3.0).await;
    assert_eq!(bench.metric("clusterdns_kubernetes_bad_objects_total{kind=\"Service\"}"), None);
}

// B09, I11
#[tokio::test]
async fn a_kind_that_is_forbidden_holds_up_no_other() {
    let forbidden = Arc::new(AtomicUsize::new(1));
    let switch = forbidden.clone();
    let bench = Bench::start(timing(), all(), |fake| {
        fake.fault(move |call| {
            let refused = call.resource == "endpointslices" && switch.load(Ordering::Relaxed) == 1;
            refused.then(|| Reply::refuse(403))
        });
    })
    .await;
    bench.until("Services", known("one")).await;
    bench.until("the rest", |index| index.unsynced().collect::<Vec<_>>() == [Kind::EndpointSlice]).await;
    let series = "clusterdns_kubernetes_errors_total{kind=\"EndpointSlice\",reason=\"403\"}";
    bench.until("counted", |_| bench.metric(series).is_some_and(|count| count >= 2.0)).await;
    forbidden.store(0, Ordering::Relaxed);
    bench.until("in step", |index| index.synced()).await;
}

#[tokio::test]
async fn what_the_server_asks_for_is_waited_for() {
    let bench = broken(timing(), |call, count| {
        let reply = Reply { retry_after: Some(1), ..Reply::refuse(429) };
        (call.is_watch() && count == 2).then_some(reply)
    })
    .await;
    bench.calls("services", 2).await;
    let refused = Instant::now();
    bench.calls("services", 3).await;
    // Longer than any wait of its own; the most that it obeys here is four times 80 ms.
    assert!(refused.elapsed() >= Duration::from_millis(200));
    assert_eq!(bench.fake.texts("services")[2], "watch 13");
}

#[tokio::test]
async fn an_unknown_client_is_made_anew_and_goes_on_at_its_version() {
    let bench = broken(timing(), |call, count| (call.is_watch() && count <= 3).then(|| Reply::refuse(401))).await;
    assert_eq!(bench.calls("services", 4).await[1..4], ["watch 13", "watch 13", "watch 13"]);
    bench.fake.no_fault();
    bench.fake.put("services", "three", service("three", 3));
    bench.until("three", known("three")).await;
}

#[tokio::test]
async fn a_connection_that_breaks_may_be_the_end_of_that_store() {
    let bench = broken(timing(), |call, count| match count {
        2 if call.is_watch() => Some(Reply::good("", Then::Break)),
        // A restored API server: it accepts a watch from its future and stays silent.
        _ => call.is_watch().then(|| Reply::good("", Then::Hang)),
    })
    .await;
    bench.fake.restore(3, &[("services", "two")]);
    bench.until("no two", unknown("two")).await;
    bench.shows("clusterdns_kubernetes_relists_total{kind=\"Service\",reason=\"outage\"}", 1.0).await;
}

// B08
#[tokio::test]
async fn an_outage_is_survived_and_followed_by_a_list() {
    let mut bench = Bench::in_step(timing()).await;
    let address = bench.fake.url.trim_start_matches("http://").to_owned();
    // Nobody listens: connections are refused.
    bench.fake = Fake::start().await;
    let refused = "clusterdns_kubernetes_errors_total{kind=\"Service\",reason=\"connection\"}";
    bench.until("refused", |_| bench.metric(refused).is_some_and(|count| count >= 3.0)).await;
    assert!(known("one")(&bench.index) && bench.index.synced());
    // What comes back has another store, whose versions have gone beyond the old ones already: no watch would tell.
    bench.fake = Fake::start_at(&address).await;
    (0..30).for_each(|n| bench.fake.put("services", "three", service("three", n)));
    bench.until("three", known("three")).await;
    bench.until("no one", unknown("one")).await;
    bench.shows("clusterdns_kubernetes_relists_total{kind=\"Service\",reason=\"outage\"}", 1.0).await;
}

#[tokio::test]
async fn garbage_is_a_trouble_like_any_other() {
    let bodies = ["not json\n", "{\"type\":\"ADDED\"}\n", "[]\n", "{\"type\":\"NEWS\",\"object\":{}}\n", "\u{0}\n"];
    for body in bodies {
        let bench =
            broken(timing(), move |call, count| (call.is_watch() && count == 2).then(|| Reply::good(body, Then::End)))
                .await;
        bench.fake.put("services", "three", service("three", 3));
        bench.until("three", known("three")).await;
        assert!(bench.metric("clusterdns_kubernetes_errors_total{kind=\"Service\",reason=\"protocol\"}").is_some());
    }
}

// K12, I09
#[tokio::test]
async fn what_is_asked_is_what_is_wanted() {
    let selection = Selection {
        labels: Some(Selector::parse("app in (a,b),!old").unwrap()),
        namespace_labels: Some(Selector::parse("team=x").unwrap()),
        ..all()
    };
    let bench = Bench::start(timing(), selection, |fake| fake.fault(no_streaming)).await;
    bench.until("in step", |index| index.synced()).await;
    let first = |resource: &str, at: usize| bench.fake.calls(resource)[at].query.clone();
    let labels = "app+in+%28a%2Cb%29%2C%21old";
    let stream = first("services", 0);
    assert_eq!(stream["labelSelector"], labels);
    assert_eq!((&*stream["sendInitialEvents"], &*stream["resourceVersionMatch"]), ("true", "NotOlderThan"));
    assert_eq!((&*stream["allowWatchBookmarks"], &*stream["resourceVersion"]), ("true", ""));
    let list = first("services", 1);
    assert_eq!((&*list["limit"], &*list["labelSelector"]), ("500", labels));
    assert!(!list.contains_key("resourceVersion"), "a list is of the latest state");
    assert_eq!(first("endpointslices", 1)["limit"], "100");
    assert_eq!(first("namespaces", 1)["labelSelector"], "team%3Dx");
    let phases = "status.phase%21%3DFailed%2Cstatus.phase%21%3DSucceeded%2Cstatus.phase%21%3DUnknown";
    assert_eq!(first("pods", 1)["fieldSelector"], phases);
}

#[tokio::test]
async fn what_nobody_wants_is_not_watched() {
    let bench = Bench::start(timing(), Selection::default(), |_| {}).await;
    bench.until("in step", |index| index.synced()).await;
    assert!(bench.fake.calls("pods").is_empty() && bench.fake.calls("endpointslices").is_empty());
}
