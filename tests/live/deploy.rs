//! The manifests of `deploy` in a real API server: they are accepted without a warning, and their configuration serves.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::Test;
use super::cluster::Cluster;
use super::parts;
use super::ports;
use super::server::{Server, Software};
use super::shared::GUARDED;
use super::wait::{SOON, eventually};

pub fn tests() -> Vec<Test> {
    [
        ("base is applied, and its Corefile serves with its ServiceAccount", base as fn()),
        ("overlays are applied", overlays),
        ("the patch changes nothing but the image", image_only),
        ("the chart is admitted, with any values", chart),
        ("each panel of the dashboard has data", dashboard),
    ]
    .map(|(name, run)| {
        Test::new(format!("deploy: {name}"), move || {
            run();
            Ok(())
        })
    })
    .into()
}

/// The administrator's kubectl.
struct Kubectl<'a>(&'a Cluster);

impl Kubectl<'_> {
    /// Runs it with an input; returns its output.
    fn run(&self, arguments: &[&str], input: &str) -> String {
        let access = self.0.unlimited_access();
        let mut child = Command::new(parts::path("kubectl"))
            .arg("--kubeconfig")
            .arg(&access.kubeconfig)
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("kubectl ends");
        let [stdout, stderr] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        assert!(output.status.success(), "{arguments:?}: {stdout}{stderr}");
        // Deprecated and unknown fields cause warnings.
        assert!(!stderr.contains("Warning"), "{arguments:?}: {stderr}");
        stdout
    }

    /// Runs `kubectl kustomize DIRECTORY | kubectl apply --server-side -f -`; returns the rendered objects.
    fn apply(&self, folder: &str, more: &[&str]) -> Vec<Value> {
        let text = self.run(&["kustomize", folder], "");
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
        let command = ["apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-"];
        let stdout = self.run(&[&command, more].concat(), &text);
        assert_eq!(
            stdout.lines().filter(|line| line.contains("serverside-applied")).count(),
            objects.len(),
            "{stdout}"
        );
        objects
    }

    fn get(&self, kind: &str, name: &str) -> Value {
        let text = self.run(&["get", "-n", "kube-system", kind, name, "-o", "json"], "");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Deletes the objects of a directory, except the ServiceAccount and its rights, which other tests need, and the
    /// Service, which belongs to the shop.
    fn clean(&self, objects: &[Value]) {
        const SHARED: [&str; 4] = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Service"];
        let gone: Vec<&Value> =
            objects.iter().filter(|object| !SHARED.iter().any(|kind| object["kind"] == *kind)).collect();
        self.run(
            &["delete", "--ignore-not-found", "-f", "-"],
            &json!({
                "apiVersion": "v1", "kind": "List", "items": gone,
            })
            .to_string(),
        );
    }
}

fn base() {
    let cluster = GUARDED.lock();
    let kubectl = Kubectl(&cluster);
    let objects = kubectl.apply("deploy/base", &[]);
    // The API server has what was sent, without a dropped field.
    for object in &objects {
        let [kind, name] = [&object["kind"], &object["metadata"]["name"]].map(|text| text.as_str().expect("text"));
        contains(&kubectl.get(kind, name), object, &format!("{kind} {name}"));
    }
    assert_eq!(kubectl.get("service", "kube-dns")["spec"]["clusterIP"], "10.96.0.10");
    // The applied Corefile, on free ports and with the access of a Pod, serves with the applied rights.
    let map = kubectl.get("configmap", "coredns");
    let access = cluster.access();
    let port = ports::free();
    let metrics = ports::free();
    let health = ports::free();
    let ready = ports::free();
    let folder = cluster.folder();
    // Not that of the machine, since *loop* could find that its resolver forwards to this server.
    let resolvers = folder.join("resolv.conf");
    std::fs::write(&resolvers, "nameserver 192.0.2.1\n").expect("a file");
    let mut corefile = map["data"]["Corefile"].as_str().expect("a Corefile").to_owned();
    for (from, to) in [
        (".:53 {", format!(".:{port} {{\n    bind 127.0.0.1")),
        ("health {", format!("health 127.0.0.1:{health} {{")),
        ("ready\n", format!("ready 127.0.0.1:{ready}\n")),
        ("prometheus :9153", format!("prometheus 127.0.0.1:{metrics}")),
        ("/etc/resolv.conf", resolvers.display().to_string()),
        ("pods insecure", format!("kubeconfig {}\n        pods insecure", access.kubeconfig.display())),
        // For a Pod that stops.
        ("lameduck 5s", "lameduck 0s".to_owned()),
    ] {
        assert_eq!(corefile.matches(from).count(), 1, "{from} in\n{corefile}");
        corefile = corefile.replace(from, &to);
    }
    let server = Server::start(Software::Clusterdns, &corefile, port, folder);
    server.comes_to("web.shop.svc.cluster.local. A", "NOERROR 10.96.10.20");
    server.comes_to("kube-dns.kube-system.svc.cluster.local. A", "NOERROR 10.96.0.10");
    server.comes_to("10.0.96.10.in-addr.arpa. PTR", "NOERROR kube-dns.kube-system.svc.cluster.local.");
    server.comes_to("10-244-1-5.shop.pod.cluster.local. A", "NOERROR 10.244.1.5");
    assert!(!server.log().contains("forbidden"), "{}", server.log());
    restore(&cluster, &objects);
}

fn overlays() {
    let cluster = GUARDED.lock();
    let kubectl = Kubectl(&cluster);
    for folder in ["deploy/hpa", "deploy/autoscaler", "deploy/networkpolicy", "deploy/canary"] {
        kubectl.apply(folder, &["--dry-run=server"]);
    }
    // The autoscaler has the rights that it needs, and no more.
    let objects = kubectl.apply("deploy/autoscaler", &[]);
    let may = |verb: &str, what: &str, more: &[&str]| {
        let user = "--as=system:serviceaccount:kube-system:dns-autoscaler";
        let arguments = [&["auth", "can-i", verb, what, "-n", "kube-system", user], more].concat();
        let access = cluster.unlimited_access();
        let mut command = Command::new(parts::path("kubectl"));
        let output = command.arg("--kubeconfig").arg(&access.kubeconfig).args(arguments).output();
        // The answer "no" is an exit status, too.
        String::from_utf8_lossy(&output.expect("kubectl runs").stdout).trim() == "yes"
    };
    // The API server reads roles by a watch.
    eventually("the autoscaler's rights are there", SOON, || {
        const SCALE: &[&str] = &["--subresource=scale"];
        let wanted = [
            ("list", "nodes", &[][..]),
            ("watch", "nodes", &[]),
            ("get", "deployments.apps/coredns", SCALE),
            ("update", "deployments.apps/coredns", SCALE),
            ("get", "configmaps/dns-autoscaler", &[]),
        ];
        let missing = wanted.into_iter().find(|(verb, what, more)| !may(verb, what, more));
        missing.map_or(Ok(()), |missing| Err(format!("it may not {missing:?}")))
    });
    for (verb, what) in
        [("create", "configmaps"), ("get", "configmaps/coredns"), ("update", "deployments.apps/coredns")]
    {
        assert!(!may(verb, what, &[]), "{verb} {what}");
    }
    restore(&cluster, &objects);
    // Beside the cluster's DNS, which stays unchanged.
    let before = kubectl.get("service", "kube-dns");
    let beside = kubectl.apply("deploy/beside", &[]);
    assert_eq!(kubectl.get("service", "kube-dns"), before);
    let address = kubectl.get("service", "clusterdns")["spec"]["clusterIP"].clone();
    assert_ne!(address, before["spec"]["clusterIP"]);
    kubectl.run(&["delete", "-f", "-"], &json!({"apiVersion": "v1", "kind": "List", "items": beside}).to_string());
}

fn image_only() {
    let cluster = GUARDED.lock();
    let kubectl = Kubectl(&cluster);
    let objects = kubectl.apply("deploy/base", &[]);
    // As after an installation of CoreDNS.
    let image = "registry.k8s.io/coredns/coredns:v1.12.0";
    let set = format!("coredns={image}");
    kubectl.run(&["set", "image", "-n", "kube-system", "deployment/coredns", &set], "");
    let before = kubectl.get("deployment", "coredns")["spec"].clone();
    assert_eq!(before["template"]["spec"]["containers"][0]["image"], image);
    let patch = "--patch-file=deploy/image-only/patch.yaml";
    kubectl.run(&["patch", "-n", "kube-system", "deployment", "coredns", patch], "");
    let after = kubectl.get("deployment", "coredns")["spec"].clone();
    let mut expected = before;
    expected["template"]["spec"]["containers"][0]["image"] = "ghcr.io/clusterdns/clusterdns:0.1.0".into();
    assert_eq!(after, expected);
    restore(&cluster, &objects);
}

fn chart() {
    let cluster = GUARDED.lock();
    let kubectl = Kubectl(&cluster);
    for values in [
        &["--set=service.clusterIP=10.96.0.77"][..],
        &["--values=tests/data/chart-values.yaml"],
        &["--set=autoscaler.enabled=true,autoscaler.min=2,isClusterService=false,podDisruptionBudget=null"],
        &["--set=serviceAccount.create=false,rbac.create=false,deployment.skipConfig=true"],
    ] {
        let mut command = Command::new(parts::path("helm"));
        // There is no Prometheus operator, whose kinds these would be.
        let operator = "--set=prometheus.monitor.enabled=false,prometheus.rules.enabled=false";
        command.args(["template", "another", "deploy/chart", "--namespace=kube-system"]).args(values).arg(operator);
        let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("helm runs");
        assert!(output.status.success(), "{values:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
        let apply = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
        let stdout = kubectl.run(&apply, &text);
        assert_eq!(stdout.lines().count(), objects.len(), "{values:?}: {stdout}");
    }
}

fn dashboard() {
    if Command::new("prometheus").arg("--version").output().is_err() && std::env::var("CI").is_err() {
        println!("not run, since prometheus is not installed");
        return;
    }
    let cluster = GUARDED.lock();
    let access = cluster.unlimited_access();
    let mut command = Command::new("deploy/grafana/check-panels");
    command.arg(env!("CARGO_BIN_EXE_clusterdns")).arg(&access.kubeconfig).arg(parts::path("kubectl"));
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("it runs");
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{stdout}{stderr}");
}

/// Restores the state that the next test expects.
fn restore(cluster: &Cluster, objects: &[Value]) {
    Kubectl(cluster).clean(objects);
    cluster.apply_rbac();
    super::shop::open(&cluster.api);
}

/// Checks that a value has all fields of another one; lists must be equal.
fn contains(whole: &Value, part: &Value, place: &str) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (key, value) in part {
                let place = format!("{place}.{key}");
                contains(whole.get(key).unwrap_or_else(|| panic!("{place} is gone")), value, &place);
            }
        }
        (Value::Array(whole), Value::Array(part)) => {
            assert_eq!(whole.len(), part.len(), "{place}");
            for (at, (whole, part)) in whole.iter().zip(part).enumerate() {
                contains(whole, part, &format!("{place}[{at}]"));
            }
        }
        _ => assert_eq!(whole, part, "{place}"),
    }
}
