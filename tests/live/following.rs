//! Answers follow the objects: created, changed and deleted objects are visible in answers, and no earlier answer is
//! cached. Kubernetes' own controllers create EndpointSlices from Pods.

use parking_lot::MappedMutexGuard;
use serde_json::json;

use super::Test;
use super::api::Api;
use super::cluster::Cluster;
use super::corefiles;
use super::objects::{Pod, headless, labelled, namespace, selects, service, slice};
use super::server::Server;
use super::shared::CALM;

pub fn tests() -> Vec<Test> {
    [
        ("a Service", a_service as fn()),
        ("endpoints of Pods", endpoints_of_pods),
        ("slices made by hand", slices_made_by_hand),
        ("Pods", pods),
        ("Namespaces", namespaces),
        ("labels", labels),
    ]
    .map(|(name, run)| {
        Test::new(format!("following: {name}"), move || {
            run();
            Ok(())
        })
    })
    .into()
}

/// Starts a server in the calm cluster, with these lines in its stanza, and creates an empty namespace.
fn start(ns: &str, lines: &str) -> (MappedMutexGuard<'static, Cluster>, Server) {
    let cluster = CALM.lock();
    cluster.api.apply(&namespace(ns, &json!({})));
    let server = cluster.serve(&corefiles::with(lines));
    server.comes_to(&format!("{ns}.svc.cluster.local. A"), "NOERROR");
    (cluster, server)
}

/// Removes a namespace and its objects.
fn remove(api: &Api, ns: &str) {
    // There is no kubelet to stop them.
    for pod in api.list("Pod").iter().filter(|pod| pod["metadata"]["namespace"] == ns) {
        let _ = api.delete("Pod", ns, pod["metadata"]["name"].as_str().expect("a name"));
    }
    api.delete("Namespace", "", ns).expect("deleted");
}

fn a_service() {
    let (cluster, server) = start("one", "");
    let api = &cluster.api;
    let name = "new.one.svc.cluster.local. A";
    let http = [("http", 80, "TCP")];
    assert_eq!(server.ask(name).expect("an answer").brief(), "NXDOMAIN");
    api.create(&service("one", "new", &http, &json!({"clusterIP": "10.96.77.1"}))).expect("created");
    // The earlier denial is not repeated.
    server.comes_to(name, "NOERROR 10.96.77.1");
    server.comes_to("_http._tcp.new.one.svc.cluster.local. SRV", "NOERROR 0 100 80 new.one.svc.cluster.local.");
    server.comes_to("1.77.96.10.in-addr.arpa. PTR", "NOERROR new.one.svc.cluster.local.");
    // Another port.
    let web = json!({"spec": {"ports": [{"name": "web", "port": 8080, "protocol": "TCP"}]}});
    api.merge("Service", "one", "new", &web);
    server.comes_to("_web._tcp.new.one.svc.cluster.local. SRV", "NOERROR 0 100 8080 new.one.svc.cluster.local.");
    server.comes_to("_http._tcp.new.one.svc.cluster.local. SRV", "NXDOMAIN");
    // Another address family in addition.
    let both =
        json!({"spec": {"ipFamilyPolicy": "RequireDualStack", "clusterIPs": ["10.96.77.1", "fd00:10:96::7701"]}});
    api.merge("Service", "one", "new", &both);
    server.comes_to("new.one.svc.cluster.local. AAAA", "NOERROR fd00:10:96::7701");
    // Another type.
    api.delete("Service", "one", "new").expect("deleted");
    server.comes_to(name, "NXDOMAIN");
    server.comes_to("1.77.96.10.in-addr.arpa. PTR", "NXDOMAIN");
    let alias = json!({"type": "ExternalName", "externalName": "elsewhere.example"});
    api.create(&service("one", "new", &[], &alias)).expect("created");
    server.comes_to("new.one.svc.cluster.local. CNAME", "NOERROR elsewhere.example.");
    api.merge("Service", "one", "new", &json!({"spec": {"externalName": "other.example"}}));
    server.comes_to("new.one.svc.cluster.local. CNAME", "NOERROR other.example.");
    remove(api, "one");
    server.comes_to("new.one.svc.cluster.local. CNAME", "NXDOMAIN");
}

fn endpoints_of_pods() {
    let (cluster, server) = start("two", "");
    let api = &cluster.api;
    let name = "set.two.svc.cluster.local. A";
    api.apply(&service("two", "set", &[("peer", 7000, "TCP")], &headless("set")));
    api.apply(&service("two", "vip", &[("peer", 7000, "TCP")], &selects("set")));
    let mut pods: Vec<Pod> = (0..3).map(|n| Pod::of_set("two", "set", n, &[&format!("10.244.77.{n}")])).collect();
    pods[1].ready = false;
    pods.iter().for_each(|pod| pod.apply(api));
    server.comes_to(name, "NOERROR 10.244.77.0 10.244.77.2");
    server.comes_to("set-0.set.two.svc.cluster.local. A", "NOERROR 10.244.77.0");
    server.comes_to("set-1.set.two.svc.cluster.local. A", "NXDOMAIN");
    server.comes_to(
        "0.77.244.10.in-addr.arpa. PTR",
        "NOERROR 10-244-77-0.vip.two.svc.cluster.local. set-0.set.two.svc.cluster.local.",
    );
    // One becomes ready, another one unready.
    pods[1].ready = true;
    pods[1].report(api);
    server.comes_to(name, "NOERROR 10.244.77.0 10.244.77.1 10.244.77.2");
    pods[0].ready = false;
    pods[0].report(api);
    server.comes_to(name, "NOERROR 10.244.77.1 10.244.77.2");
    server.comes_to("set-0.set.two.svc.cluster.local. A", "NXDOMAIN");
    server.comes_to("0.77.244.10.in-addr.arpa. PTR", "NXDOMAIN");
    // A Pod is replaced by one with another address.
    api.delete("Pod", "two", "set-2").expect("deleted");
    server.comes_to(name, "NOERROR 10.244.77.1");
    let next = Pod::of_set("two", "set", 2, &["10.244.77.9"]);
    next.apply(api);
    server.comes_to("set-2.set.two.svc.cluster.local. A", "NOERROR 10.244.77.9");
    server.comes_to(
        "_peer._tcp.set.two.svc.cluster.local. SRV",
        "NOERROR 0 50 7000 set-1.set.two.svc.cluster.local. 0 50 7000 set-2.set.two.svc.cluster.local.",
    );
    // Including Pods that are not ready.
    api.merge("Service", "two", "set", &json!({"spec": {"publishNotReadyAddresses": true}}));
    server.comes_to(name, "NOERROR 10.244.77.0 10.244.77.1 10.244.77.9");
    remove(api, "two");
    server.comes_to(name, "NXDOMAIN");
}

fn slices_made_by_hand() {
    let (cluster, server) = start("three", "");
    let api = &cluster.api;
    let x = [("x", 9000, "TCP")];
    let endpoints = |addresses: &[&str]| addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    // Slices are created before their Service.
    api.apply(&slice("three", "late", "late-1", "IPv4", &endpoints(&["192.0.2.71"]), &x));
    api.apply(&slice("three", "late", "late-2", "IPv6", &endpoints(&["2001:db8::71"]), &x));
    api.apply(&service("three", "late", &x, &json!({"clusterIP": "None"})));
    api.apply(&service("three", "other", &x, &json!({"clusterIP": "None"})));
    let name = "late.three.svc.cluster.local. A";
    server.comes_to(name, "NOERROR 192.0.2.71");
    server.comes_to("late.three.svc.cluster.local. AAAA", "NOERROR 2001:db8::71");
    // The same address in a second slice, then only in that one.
    api.apply(&slice("three", "late", "late-3", "IPv4", &endpoints(&["192.0.2.71", "192.0.2.73"]), &x));
    server.comes_to(name, "NOERROR 192.0.2.71 192.0.2.73");
    api.delete("EndpointSlice", "three", "late-1").expect("deleted");
    server.comes_to("192-0-2-71.late.three.svc.cluster.local. A", "NOERROR 192.0.2.71");
    // A slice moves to another Service.
    let moved = json!({"metadata": {"labels": {"kubernetes.io/service-name": "other"}}});
    api.merge("EndpointSlice", "three", "late-3", &moved);
    server.comes_to("other.three.svc.cluster.local. A", "NOERROR 192.0.2.71 192.0.2.73");
    server.comes_to(name, "NOERROR");
    // Its endpoints are replaced.
    api.merge(
        "EndpointSlice",
        "three",
        "late-3",
        &json!({"endpoints": [{"addresses": ["192.0.2.74"], "hostname": "h"}]}),
    );
    server.comes_to("h.other.three.svc.cluster.local. A", "NOERROR 192.0.2.74");
    server.comes_to("71.2.0.192.in-addr.arpa. PTR", "NXDOMAIN");
    // The Service is deleted and created again; its slices stay.
    api.delete("Service", "three", "other").expect("deleted");
    server.comes_to("other.three.svc.cluster.local. A", "NXDOMAIN");
    api.apply(&service("three", "other", &x, &json!({"clusterIP": "None"})));
    server.comes_to("other.three.svc.cluster.local. A", "NOERROR 192.0.2.74");
    remove(api, "three");
    server.comes_to("other.three.svc.cluster.local. A", "NXDOMAIN");
}

fn pods() {
    let (cluster, server) = start("four", "pods verified");
    let api = &cluster.api;
    let (first, second) = ("10-244-78-1.four.pod.cluster.local. A", "10-244-78-2.four.pod.cluster.local. A");
    let mut pod = Pod::new("four", "p", "p", &["10.244.78.1"]);
    api.create(&pod.object()).expect("created");
    assert_eq!(server.ask(first).expect("an answer").brief(), "NXDOMAIN");
    pod.report(api);
    server.comes_to(first, "NOERROR 10.244.78.1");
    pod.ips = vec!["10.244.78.2".to_owned(), "fd00:10:244:78::2".to_owned()];
    pod.report(api);
    server.comes_to(second, "NOERROR 10.244.78.2");
    server.comes_to("fd00-10-244-78--2.four.pod.cluster.local. AAAA", "NOERROR fd00:10:244:78::2");
    server.comes_to(first, "NXDOMAIN");
    // It finishes, and another Pod gets its address: in another namespace, then in the same.
    pod.phase = "Succeeded";
    pod.report(api);
    server.comes_to(second, "NXDOMAIN");
    let heir = Pod::new("lab", "heir", "heir", &["10.244.78.2"]);
    heir.apply(api);
    server.comes_to("10-244-78-2.lab.pod.cluster.local. A", "NOERROR 10.244.78.2");
    assert_eq!(server.ask(second).expect("an answer").brief(), "NXDOMAIN");
    Pod::new("four", "heir", "heir", &["10.244.78.2"]).apply(api);
    server.comes_to(second, "NOERROR 10.244.78.2");
    api.delete("Pod", "lab", "heir").expect("deleted");
    server.comes_to("10-244-78-2.lab.pod.cluster.local. A", "NXDOMAIN");
    api.delete("Pod", "four", "heir").expect("deleted");
    server.comes_to(second, "NXDOMAIN");
    remove(api, "four");
}

fn namespaces() {
    let (cluster, server) = start("five", "pods insecure");
    let api = &cluster.api;
    let name = "s.five.svc.cluster.local. A";
    api.apply(&service("five", "s", &[("p", 80, "TCP")], &json!({"clusterIP": "10.96.77.5"})));
    server.comes_to(name, "NOERROR 10.96.77.5");
    server.comes_to("10-0-0-1.five.pod.cluster.local. A", "NOERROR 10.0.0.1");
    remove(api, "five");
    for name in
        [name, "five.svc.cluster.local. A", "10-0-0-1.five.pod.cluster.local. A", "5.77.96.10.in-addr.arpa. PTR"]
    {
        server.comes_to(name, "NXDOMAIN");
    }
    // The same name again.
    api.apply(&namespace("five", &json!({})));
    server.comes_to("five.svc.cluster.local. A", "NOERROR");
    assert_eq!(server.ask(name).expect("an answer").brief(), "NXDOMAIN");
    remove(api, "five");
}

fn labels() {
    let (cluster, server) = start("six", "labels tier=front\npods verified");
    let hiding = cluster.serve(&corefiles::with("namespace_labels stage=live"));
    let api = &cluster.api;
    let front = [("tier", "front")];
    let shown = service("six", "shown", &[("p", 80, "TCP")], &json!({"clusterIP": "10.96.77.6"}));
    api.apply(&labelled(shown.clone(), &front));
    let name = "shown.six.svc.cluster.local. A";
    server.comes_to(name, "NOERROR 10.96.77.6");
    // The API server reports an object that no longer matches as deleted.
    api.merge("Service", "six", "shown", &json!({"metadata": {"labels": {"tier": "back"}}}));
    server.comes_to(name, "NXDOMAIN");
    api.merge("Service", "six", "shown", &json!({"metadata": {"labels": {"tier": "front"}}}));
    server.comes_to(name, "NOERROR 10.96.77.6");
    let pod = Pod::new("six", "p", "p", &["10.244.78.6"]);
    pod.apply(api);
    api.merge("Pod", "six", "p", &json!({"metadata": {"labels": {"tier": "front"}}}));
    server.comes_to("10-244-78-6.six.pod.cluster.local. A", "NOERROR 10.244.78.6");
    api.merge("Pod", "six", "p", &json!({"metadata": {"labels": {"tier": null}}}));
    server.comes_to("10-244-78-6.six.pod.cluster.local. A", "NXDOMAIN");
    // Namespaces selected by label appear and disappear with their Services.
    assert_eq!(hiding.ask(name).expect("an answer").brief(), "NXDOMAIN");
    api.merge("Namespace", "", "six", &json!({"metadata": {"labels": {"stage": "live"}}}));
    hiding.comes_to(name, "NOERROR 10.96.77.6");
    api.merge("Namespace", "", "six", &json!({"metadata": {"labels": {"stage": "test"}}}));
    hiding.comes_to(name, "NXDOMAIN");
    remove(api, "six");
}
