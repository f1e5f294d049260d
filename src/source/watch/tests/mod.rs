//! Watches of a fake API server that shows faults which a real one cannot be made to show.

mod fake;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use prometheus::Registry;
use serde_json::{Value, json};

use super::backoff::BackoffConfig;
use super::follow::Follower;
use super::status::ErrorLog;
use super::*;
use crate::cluster::entry::EndpointFields;
use crate::cluster::index::service_key;
use crate::cluster::{Index, Options, Selector};
use fake::{BodyEnd, FakeResponse, FakeServer};

/// The timeout of all waits.
const TIMEOUT: Duration = Duration::from_secs(20);

fn timing() -> Timing {
    let ms = Duration::from_millis;
    Timing {
        backoff: BackoffConfig {
            first: ms(20),
            max: ms(80),
            reconnect: ms(80),
            healthy_after: ms(2_000),
            jitter: ms(5),
        },
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

/// A watch of all kinds at a fake API server, and its index.
struct TestWatch {
    fake: FakeServer,
    index: Arc<Index>,
    registry: Registry,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for TestWatch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn all() -> Selection {
    Selection { pods: true, endpoints: true, ..Selection::default() }
}

impl TestWatch {
    /// Starts with two Services and a Namespace, and waits until the index is synced.
    async fn synced(timing: Timing) -> TestWatch {
        let watch = TestWatch::start(timing, all(), |_| {}).await;
        watch.until("synced", |index| index.is_synced()).await;
        watch
    }

    async fn start(timing: Timing, selection: Selection, prepare: impl FnOnce(&FakeServer)) -> TestWatch {
        let fake = FakeServer::start().await;
        fake.put("namespaces", "a", json!({"metadata": {"name": "a"}}));
        fake.put("services", "one", service("one", 1));
        fake.put("services", "two", service("two", 2));
        prepare(&fake);
        let registry = Registry::new();
        let metrics = Metrics::new(&registry);
        let (index, writer) =
            Index::new(&Options { kinds: selection.kinds().collect(), endpoint_fields: EndpointFields::default() });
        let server = ApiServer::Endpoint { url: fake.url.clone(), tls: None };
        let connection = Arc::new(ApiConnection::new(server, RequestLimits::default(), metrics.clone()));
        let (writer, log) = (Arc::new(Mutex::new(writer)), Arc::new(ErrorLog::default()));
        let tasks = selection.kinds().map(|kind| {
            let (selection, connection, writer) = (selection.clone(), connection.clone(), writer.clone());
            let (index, status) = (index.clone(), WatchStatus::new(kind, metrics.clone(), log.clone()));
            tokio::spawn(
                Arc::new(Follower {
                    kind,
                    endpoint_fields: EndpointFields::default(),
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
        TestWatch { fake, index, registry, tasks }
    }

    /// Waits until a condition is true of the index.
    async fn until(&self, what: &str, mut done: impl FnMut(&Index) -> bool) {
        let start = Instant::now();
        while !done(&self.index) {
            assert!(start.elapsed() < TIMEOUT, "never: {what}; services: {:?}", self.fake.texts("services"));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until a resource has been requested `count` times.
    async fn calls(&self, resource: &str, count: usize) -> Vec<String> {
        self.until("calls", |_| self.fake.calls(resource).len() >= count).await;
        self.fake.texts(resource)
    }

    /// Waits until a series has this value.
    async fn wait_for_metric(&self, series: &str, value: f64) {
        self.until(series, |_| self.metric(series) == Some(value)).await;
    }

    /// Returns the value of the first series with this prefix.
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
async fn changes_are_in_the_index_a_moment_later() {
    let watch = TestWatch::synced(timing()).await;
    assert_eq!(watch.fake.texts("services"), ["stream"]);
    watch.fake.put("services", "three", service("three", 3));
    watch.until("three", known("three")).await;
    watch.fake.delete("services", "one");
    watch.until("no one", unknown("one")).await;
    let slice = json!({
        "metadata": {"name": "s", "namespace": "a", "labels": {"kubernetes.io/service-name": "two"},
                     "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.1.0.1"]}],
    });
    watch.fake.put("endpointslices", "s", slice);
    let address: IpAddr = "10.1.0.1".parse().unwrap();
    watch.until("its endpoint", |index| !index.endpoint_owners(address).is_empty()).await;
    assert_eq!(watch.fake.texts("services"), ["stream"]);
    let series = "coredns_kubernetes_dns_programming_duration_seconds_count{service_kind=\"cluster_ip\"}";
    watch.wait_for_metric(series, 1.0).await;
    watch.wait_for_metric("clusterdns_kubernetes_objects{kind=\"Service\"}", 2.0).await;
    watch.wait_for_metric("clusterdns_kubernetes_synced{kind=\"Pod\"}", 1.0).await;
    assert!(watch.metric("clusterdns_kubernetes_last_seen_age_seconds{kind=\"Pod\"}").is_some_and(|age| age < 20.0));
}

#[tokio::test]
async fn a_pod_that_is_being_deleted_has_its_name_until_it_is_deleted() {
    let pod = |extra: Value| {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "a"}, "status": {"podIPs": [{"ip": "10.1.0.9"}]}});
        pod["metadata"]["deletionTimestamp"] = extra;
        pod
    };
    let watch = TestWatch::start(timing(), all(), |fake| fake.put("pods", "p", pod(Value::Null))).await;
    let address: IpAddr = "10.1.0.9".parse().unwrap();
    let is_known = |index: &Index| {
        let mut found = 0;
        index.pods_at(address, |_| found += 1);
        found == 1
    };
    watch.until("the Pod", is_known).await;
    watch.fake.put("pods", "p", pod(json!("2026-01-01T00:00:00Z")));
    // A list does not remove it either.
    watch.fake.compact();
    let mut once = false;
    watch.fake.fault(move |call| {
        (call.resource == "pods" && call.is_watch() && !std::mem::replace(&mut once, true))
            .then(|| FakeResponse::refuse(410))
    });
    watch.fake.put("pods", "q", json!({"metadata": {"name": "q", "namespace": "a"}}));
    assert!(is_known(&watch.index));
    watch.fake.delete("pods", "p");
    watch.until("no Pod", |index| !is_known(index)).await;
}

/// Counts the requests for Services and lets `fault` decide on them.
fn on_services(fake: &FakeServer, mut fault: impl FnMut(&fake::Call, usize) -> Option<FakeResponse> + Send + 'static) {
    let mut count = 0;
    fake.fault(move |call| {
        if call.resource != "services" {
            return None;
        }
        count += 1;
        fault(call, count)
    });
}

/// Starts with a first stream that ends soon, and waits until the index is synced; then `fault` decides on each
/// request, with its number.
async fn broken(
    timing: Timing, fault: impl FnMut(&fake::Call, usize) -> Option<FakeResponse> + Send + 'static,
) -> TestWatch {
    let mut fault = fault;
    let watch = TestWatch::start(timing, all(), |fake| {
        on_services(fake, move |call, count| match count {
            1 => Some(FakeResponse::good(stream_of(&[service("one", 1), service("two", 2)], 13), BodyEnd::Delay)),
            _ => fault(call, count),
        });
    })
    .await;
    watch.until("synced", |index| index.is_synced()).await;
    watch
}

/// Returns the body of a streaming list of these objects.
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
async fn a_watch_with_status_410_causes_a_list() {
    let watch = broken(timing(), |call, _| call.is_watch().then(|| FakeResponse::refuse(410))).await;
    watch.fake.change_without_event("services", "one", None);
    watch.until("no one", unknown("one")).await;
    assert_eq!(watch.fake.texts("services")[..3], ["stream", "watch 13", "stream"]);
    watch.wait_for_metric("clusterdns_kubernetes_relists_total{kind=\"Service\",reason=\"expired\"}", 1.0).await;
}

// I02
#[tokio::test]
async fn a_version_that_the_server_does_not_know_causes_a_list_after_the_first_error() {
    let watch = broken(timing(), |call, _| call.is_watch().then(|| FakeResponse::refuse(504))).await;
    assert_eq!(watch.calls("services", 3).await[..3], ["stream", "watch 13", "stream"]);
    let series = "clusterdns_kubernetes_relists_total{kind=\"Service\",reason=\"version_too_large\"}";
    watch.wait_for_metric(series, 1.0).await;
}

#[tokio::test]
async fn versions_that_go_back_are_followed() {
    let mut timing = timing();
    timing.watch = (Duration::from_secs(1), Duration::from_secs(1));
    timing.grace = Duration::from_millis(100);
    // All streams end, and the store is restored from an old snapshot that has no `two`.
    let watch = broken(timing, |_, _| None).await;
    watch.fake.restore(3, &[("services", "two")]);
    watch.until("no two", unknown("two")).await;
    watch.fake.put("services", "four", service("four", 4));
    watch.until("four", known("four")).await;
    assert!(known("one")(&watch.index));
}

#[tokio::test]
async fn versions_that_go_back_within_a_watch_cause_a_list() {
    let watch = broken(timing(), |call, count| {
        let bookmark = json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "5"}}});
        (call.is_watch() && count == 2).then(|| FakeResponse::good(format!("{bookmark}\n"), BodyEnd::Hang))
    })
    .await;
    watch.fake.change_without_event("services", "one", None);
    watch.until("no one", unknown("one")).await;
    watch.wait_for_metric("clusterdns_kubernetes_relists_total{kind=\"Service\",reason=\"backwards\"}", 1.0).await;
}

#[tokio::test]
async fn a_response_that_is_not_a_list_deletes_nothing() {
    let watch = broken(timing(), |call, count| match count {
        2 => Some(FakeResponse::refuse(410)),
        3..=8 if call.has("sendInitialEvents") => Some(FakeResponse::refuse(500)),
        3..=8 => Some(FakeResponse::good(
            "{\"kind\":\"Table\",\"metadata\":{\"resourceVersion\":\"900\"},\"rows\":[]}",
            BodyEnd::End,
        )),
        _ => None,
    })
    .await;
    let mut always = true;
    watch
        .until("the ninth call", |index| {
            always &= known("one")(index) && known("two")(index);
            watch.fake.calls("services").len() >= 9
        })
        .await;
    assert!(always);
}

#[tokio::test]
async fn an_error_event_causes_a_list() {
    for code in [410, 500] {
        let event = json!({"type": "ERROR", "object": {"kind": "Status", "code": code, "message": "etcd"}});
        let watch = broken(timing(), move |call, _| {
            call.is_watch().then(|| FakeResponse::good(format!("{event}\n"), BodyEnd::End))
        })
        .await;
        assert_eq!(watch.calls("services", 3).await[..3], ["stream", "watch 13", "stream"]);
    }
}

// K3
#[tokio::test]
async fn watches_that_end_at_once_do_not_spin_and_are_listed_after_the_third() {
    let watch = broken(timing(), |call, _| call.is_watch().then(|| FakeResponse::good("", BodyEnd::End))).await;
    let calls = watch.calls("services", 5).await;
    assert_eq!(calls[..5], ["stream", "watch 13", "watch 13", "watch 13", "stream"]);
}

// B02, I03
#[tokio::test]
async fn a_watch_without_events_times_out_and_is_resumed_at_its_version() {
    let mut timing = timing();
    timing.watch = (Duration::from_secs(1), Duration::from_secs(1));
    timing.grace = Duration::from_millis(50);
    let watch =
        broken(timing, |call, count| (call.is_watch() && count == 2).then(|| FakeResponse::good("", BodyEnd::Hang)))
            .await;
    watch.fake.put("services", "three", service("three", 3));
    watch.until("three", known("three")).await;
    assert_eq!(watch.fake.texts("services")[..3], ["stream", "watch 13", "watch 13"]);
    let series = "clusterdns_kubernetes_errors_total{kind=\"Service\",reason=\"timeout\"}";
    watch.wait_for_metric(series, 1.0).await;
}

// B03
#[tokio::test]
async fn a_routine_list_finds_missed_events() {
    let mut timing = timing();
    timing.relist = Duration::from_millis(300);
    let watch = TestWatch::synced(timing).await;
    watch.fake.change_without_event("services", "three", Some(service("three", 3)));
    watch.fake.change_without_event("services", "one", None);
    watch.until("three", known("three")).await;
    watch.until("no one", unknown("one")).await;
    let routine = "clusterdns_kubernetes_relists_total{kind=\"Service\",reason=\"routine\"}";
    watch.until("counted", |_| watch.metric(routine).is_some()).await;
}

/// Rejects streaming lists, so that pages are requested.
fn no_streaming(call: &fake::Call) -> Option<FakeResponse> {
    call.has("sendInitialEvents").then(|| FakeResponse::refuse(422))
}

// I06
#[tokio::test]
async fn a_server_without_streaming_lists_is_listed_by_pages() {
    // No timeout plays a part here, and a loaded machine needs more than 300 ms for a page of 500.
    let timing = Timing { page: Duration::from_secs(30), pages: Duration::from_secs(60), ..timing() };
    let watch = TestWatch::start(timing, all(), |fake| {
        fake.fault(no_streaming);
        (0..1_200).for_each(|n| fake.put("services", &format!("s{n}"), service(&format!("s{n}"), 9)));
    })
    .await;
    watch.until("synced", |index| index.is_synced()).await;
    let calls = watch.calls("services", 5).await;
    assert_eq!(calls, ["stream", "list", "page 500", "page 1000", "watch 1213"]);
    assert!(known("s1199")(&watch.index) && known("one")(&watch.index));
}

// I06
#[tokio::test]
async fn a_server_that_never_ends_the_initial_events_is_listed_by_pages() {
    let watch = TestWatch::start(timing(), all(), |fake| {
        fake.fault(|call| {
            let event = json!({"type": "ADDED", "object": service("one", 1)});
            call.has("sendInitialEvents").then(|| FakeResponse::good(format!("{event}\n"), BodyEnd::Hang))
        });
    })
    .await;
    watch.until("synced", |index| index.is_synced()).await;
    assert_eq!(watch.calls("services", 3).await[..3], ["stream", "list", "watch 13"]);
}

// I04
#[tokio::test]
async fn half_a_list_deletes_nothing_and_is_repeated() {
    for end in [BodyEnd::Break, BodyEnd::Hang, BodyEnd::End] {
        let watch = broken(timing(), move |call, count| match count {
            2 => Some(FakeResponse::refuse(410)),
            // `one` is in the half that was sent; `two` is not.
            3 => {
                let event = json!({"type": "ADDED", "object": service("one", 1)});
                Some(FakeResponse::good(format!("{event}\n"), end))
            }
            4 => {
                let whole = json!({"metadata": {"resourceVersion": "20"}, "items": [service("one", 1)]}).to_string();
                Some(FakeResponse::good(&whole[..whole.len() / 2], end))
            }
            _ => None.or_else(|| (count < 4).then(|| no_streaming(call)).flatten()),
        })
        .await;
        let mut always = true;
        watch
            .until("the fifth call", |index| {
                always &= known("one")(index) && known("two")(index);
                watch.fake.calls("services").len() >= 5
            })
            .await;
        assert!(always, "{end:?}");
        watch.fake.put("services", "three", service("three", 3));
        watch.until("three", known("three")).await;
        assert!(known("two")(&watch.index));
    }
}

// K8
#[tokio::test]
async fn a_list_whose_pages_expire_is_repeated_and_then_requested_whole() {
    let watch = TestWatch::start(timing(), all(), |fake| {
        (0..600).for_each(|n| fake.put("services", &format!("s{n}"), service(&format!("s{n}"), 9)));
        fake.fault(|call| no_streaming(call).or_else(|| call.has("continue").then(|| FakeResponse::refuse(410))));
    })
    .await;
    watch.until("synced", |index| index.is_synced()).await;
    let calls = watch.calls("services", 9).await;
    let twice = ["list", "page 500", "list", "page 500", "list", "page 500", "whole"];
    assert_eq!(calls[0], "stream");
    assert_eq!(calls[1..8], twice);
    assert!(known("s599")(&watch.index));
}

#[tokio::test]
async fn a_list_without_an_end_fails() {
    let mut page = json!({"metadata": {"resourceVersion": "9"}, "items": [service("one", 1)]});
    let mut number = 0;
    let watch = TestWatch::start(timing(), all(), |fake| {
        fake.fault(move |call| {
            let pages = call.resource == "services" && !call.has("watch");
            number += u32::from(pages);
            // The first attempts repeat a continue token, the others never end.
            page["metadata"]["continue"] = json!(if number < 4 { "more".to_owned() } else { number.to_string() });
            no_streaming(call).or_else(|| pages.then(|| FakeResponse::good(page.to_string(), BodyEnd::End)))
        });
    })
    .await;
    for reason in ["protocol", "timeout"] {
        let series = format!("clusterdns_kubernetes_errors_total{{kind=\"Service\",reason=\"{reason}\"}}");
        watch.until(reason, |_| watch.metric(&series).is_some_and(|count| count >= 1.0)).await;
    }
    watch.fake.fault(no_streaming);
    watch.until("synced", |index| index.is_synced()).await;
}

// K9
#[tokio::test]
async fn an_invalid_object_is_counted_and_the_others_are_used() {
    let bad = |name: &str| json!({"metadata": {"name": name, "namespace": "a"}, "spec": {"type": "ExternalName"}});
    for streaming in [true, false] {
        let watch = TestWatch::start(timing(), all(), |fake| {
            fake.put("services", "bad", bad("bad"));
            fake.put("services", "three", service("three", 3));
            fake.fault(move |call| if streaming { None } else { no_streaming(call) });
        })
        .await;
        watch.until("synced", |index| index.is_synced()).await;
        assert!(known("one")(&watch.index) && known("three")(&watch.index) && unknown("bad")(&watch.index));
        watch.wait_for_metric("clusterdns_kubernetes_bad_objects_total{kind=\"Service\"}", 1.0).await;
        // A valid object that becomes invalid remains as it was, and an invalid one that becomes valid is used.
        watch.fake.put("services", "one", bad("one"));
        watch.fake.put("services", "bad", service("bad", 7));
        watch.until("bad", known("bad")).await;
        assert!(known("one")(&watch.index));
        watch.wait_for_metric("clusterdns_kubernetes_bad_objects_total{kind=\"Service\"}", 2.0).await;
    }
}

// K9
#[tokio::test]
async fn invalid_values_are_counted_and_their_object_is_used() {
    let watch = TestWatch::start(timing(), all(), |fake| {
        let spec = json!({"clusterIPs": ["10.96.0.300", "fe80::1%eth0", "10.96.000.042"], "ports": [{"port": 80}, 7]});
        fake.put("services", "odd", json!({"metadata": {"name": "odd", "namespace": "a"}, "spec": spec}));
    })
    .await;
    watch.until("synced", |index| index.is_synced()).await;
    assert!(known("one")(&watch.index) && known("odd")(&watch.index));
    watch.wait_for_metric("clusterdns_kubernetes_bad_values_total{kind=\"Service\"}", 3.0).await;
    assert_eq!(watch.metric("clusterdns_kubernetes_bad_objects_total{kind=\"Service\"}"), None);
}

// B09, I11
#[tokio::test]
async fn a_forbidden_kind_does_not_delay_the_others() {
    let forbidden = Arc::new(AtomicUsize::new(1));
    let switch = forbidden.clone();
    let watch = TestWatch::start(timing(), all(), |fake| {
        fake.fault(move |call| {
            let refused = call.resource == "endpointslices" && switch.load(Ordering::Relaxed) == 1;
            refused.then(|| FakeResponse::refuse(403))
        });
    })
    .await;
    watch.until("Services", known("one")).await;
    watch.until("the rest", |index| index.unsynced().collect::<Vec<_>>() == [Kind::EndpointSlice]).await;
    let series = "clusterdns_kubernetes_errors_total{kind=\"EndpointSlice\",reason=\"403\"}";
    watch.until("counted", |_| watch.metric(series).is_some_and(|count| count >= 2.0)).await;
    forbidden.store(0, Ordering::Relaxed);
    watch.until("synced", |index| index.is_synced()).await;
}

#[tokio::test]
async fn the_requested_delay_is_observed() {
    let watch = broken(timing(), |call, count| {
        let reply = FakeResponse { retry_after: Some(1), ..FakeResponse::refuse(429) };
        (call.is_watch() && count == 2).then_some(reply)
    })
    .await;
    watch.calls("services", 2).await;
    let refused = Instant::now();
    watch.calls("services", 3).await;
    // Longer than any delay of its own; the limit for requested ones is four times 80 ms here.
    assert!(refused.elapsed() >= Duration::from_millis(200));
    assert_eq!(watch.fake.texts("services")[2], "watch 13");
}

#[tokio::test]
async fn a_rejected_client_is_created_again_and_resumes_at_its_version() {
    let watch =
        broken(timing(), |call, count| (call.is_watch() && count <= 3).then(|| FakeResponse::refuse(401))).await;
    assert_eq!(watch.calls("services", 4).await[1..4], ["watch 13", "watch 13", "watch 13"]);
    watch.fake.clear_fault();
    watch.fake.put("services", "three", service("three", 3));
    watch.until("three", known("three")).await;
}

#[tokio::test]
async fn a_broken_connection_causes_a_list() {
    let watch = broken(timing(), |call, count| match count {
        2 if call.is_watch() => Some(FakeResponse::good("", BodyEnd::Break)),
        // A restored API server accepts a watch from its future and sends no events.
        _ => call.is_watch().then(|| FakeResponse::good("", BodyEnd::Hang)),
    })
    .await;
    watch.fake.restore(3, &[("services", "two")]);
    watch.until("no two", unknown("two")).await;
    watch.wait_for_metric("clusterdns_kubernetes_relists_total{kind=\"Service\",reason=\"outage\"}", 1.0).await;
}

// B08
#[tokio::test]
async fn an_outage_is_survived_and_followed_by_a_list() {
    let mut watch = TestWatch::synced(timing()).await;
    let address = watch.fake.url.trim_start_matches("http://").to_owned();
    // Connections are refused.
    watch.fake = FakeServer::start().await;
    let refused = "clusterdns_kubernetes_errors_total{kind=\"Service\",reason=\"connection\"}";
    watch.until("refused", |_| watch.metric(refused).is_some_and(|count| count >= 3.0)).await;
    assert!(known("one")(&watch.index) && watch.index.is_synced());
    // The new server has another store, whose versions are beyond the old ones already: a watch would not show the
    // difference.
    watch.fake = FakeServer::start_at(&address).await;
    (0..30).for_each(|n| watch.fake.put("services", "three", service("three", n)));
    watch.until("three", known("three")).await;
    watch.until("no one", unknown("one")).await;
    watch.wait_for_metric("clusterdns_kubernetes_relists_total{kind=\"Service\",reason=\"outage\"}", 1.0).await;
}

#[tokio::test]
async fn garbage_is_an_error_like_any_other() {
    let bodies = ["not json\n", "{\"type\":\"ADDED\"}\n", "[]\n", "{\"type\":\"NEWS\",\"object\":{}}\n", "\u{0}\n"];
    for body in bodies {
        let watch = broken(timing(), move |call, count| {
            (call.is_watch() && count == 2).then(|| FakeResponse::good(body, BodyEnd::End))
        })
        .await;
        watch.fake.put("services", "three", service("three", 3));
        watch.until("three", known("three")).await;
        assert!(watch.metric("clusterdns_kubernetes_errors_total{kind=\"Service\",reason=\"protocol\"}").is_some());
    }
}

// K12, I09
#[tokio::test]
async fn requests_have_the_parameters_of_the_selection() {
    let selection = Selection {
        labels: Some(Selector::parse("app in (a,b),!old").unwrap()),
        namespace_labels: Some(Selector::parse("team=x").unwrap()),
        ..all()
    };
    let watch = TestWatch::start(timing(), selection, |fake| fake.fault(no_streaming)).await;
    watch.until("synced", |index| index.is_synced()).await;
    let first = |resource: &str, at: usize| watch.fake.calls(resource)[at].query.clone();
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
async fn unselected_kinds_are_not_watched() {
    let watch = TestWatch::start(timing(), Selection::default(), |_| {}).await;
    watch.until("synced", |index| index.is_synced()).await;
    assert!(watch.fake.calls("pods").is_empty() && watch.fake.calls("endpointslices").is_empty());
}
