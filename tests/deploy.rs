//! The files of `deploy`: they can be parsed, they agree with each other, and everything that they name exists.
//! `tests/live/deploy.rs` checks that an API server accepts them.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clusterdns::app::configuration::read_text;
use clusterdns::corefile::{Diagnostics, MemoryFiles, render_text};
use serde_json::{Value, json};

/// Directories for `kubectl apply -k`.
const FOLDERS: [&str; 4] = ["base", "hpa", "autoscaler", "beside"];
/// The metrics of the process that rules and dashboard use.
const OF_THE_PROCESS: [&str; 2] = ["process_cpu_seconds_total", "process_resident_memory_bytes"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the documents of a YAML file.
fn documents(name: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&text(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the files below `deploy` whose names have this ending.
fn files(end: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(end) {
                found.push(path.strip_prefix(root()).expect("below").display().to_string());
            }
        }
    }
    found
}

/// Returns the only document of a kind in `base`.
fn base(kind: &str) -> Value {
    let all = files(".yaml").into_iter().filter(|name| name.starts_with("base/"));
    let mut found = all.flat_map(|name| documents(&name)).filter(|document| document["kind"] == kind);
    let one = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "two of {kind}");
    one
}

fn corefile() -> String {
    base("ConfigMap")["data"]["Corefile"].as_str().expect("a Corefile").to_owned()
}

/// Returns the output of a program; `None`, with a message, if it is not installed. With `CI=true` that is a failure.
fn output(program: &Path, run: io::Result<Output>) -> Option<String> {
    match run {
        Ok(output) => {
            let [text, errors] =
                [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
            assert!(output.status.success(), "{}: {text}{errors}", program.display());
            Some(text)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && !std::env::var("CI").is_ok_and(|ci| ci == "true") => {
            println!("not run, since {} is not installed", program.display());
            None
        }
        Err(error) => panic!("{}: {error}", program.display()),
    }
}

/// Returns the `kubectl` that the live tests have built, if they have.
fn kubectl() -> Option<PathBuf> {
    let testbed = std::env::var_os("TESTBED").map_or_else(|| root().join("../.testbed"), PathBuf::from);
    let builds = std::fs::read_dir(testbed).into_iter().flatten().flatten();
    let found = builds
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("kubernetes-"))
        .map(|entry| entry.path().join("kubectl"))
        .find(|path| path.is_file());
    if found.is_none() {
        println!("not run, since tests/live/build has built no kubectl yet");
    }
    found
}

/// Returns the objects that `kubectl kustomize` prints for a directory.
fn kustomize(kubectl: &Path, folder: &str) -> Vec<Value> {
    let run = Command::new(kubectl).arg("kustomize").arg(root().join(folder)).output();
    let text = output(kubectl, run).expect("it is there");
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{folder}: {error}"))
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

#[test]
fn every_file_can_be_read() {
    let names = files(".yaml");
    assert!(names.len() > 12, "{names:?}");
    for name in names {
        assert!(documents(&name).iter().all(Value::is_object), "{name}");
    }
    for name in files(".json") {
        serde_json::from_str::<Value>(&text(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for kustomization in files("kustomization.yaml") {
        let folder = Path::new(&kustomization).parent().expect("a folder");
        for resource in documents(&kustomization)[0]["resources"].as_array().expect("resources") {
            let path = root().join(folder).join(resource.as_str().expect("a name"));
            assert!(path.exists(), "{kustomization} names {resource}");
        }
    }
}

#[test]
fn the_corefile_is_parsed_without_a_warning() {
    let mut diagnostics = Diagnostics::default();
    let configuration = read_text("Corefile", &corefile(), 53, &MemoryFiles::default(), &mut diagnostics);
    assert!(diagnostics.is_empty(), "{}", render_text(&diagnostics, &configuration.corefile.sources));
    // It is kubeadm's.
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&corefile()), words(include_str!("corefile/good/kubeadm.corefile")));
}

#[test]
fn ports_agree() {
    let deployment = base("Deployment");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let listed = |ports: &Value, number: &str| -> BTreeSet<(u64, String)> {
        let ports = ports.as_array().expect("ports").iter();
        ports.map(|port| (number_of(port, number), port["protocol"].as_str().expect("one").to_owned())).collect()
    };
    // The ports of the Corefile; `health` and `ready` without an address have CoreDNS's ports.
    let corefile = corefile();
    let line = |start: &str| corefile.lines().map(str::trim).find(|line| line.starts_with(start)).expect("a line");
    assert_eq!([line(".:"), line("health"), line("ready")], [".:53 {", "health {", "ready"]);
    let metrics = line("prometheus").rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let opened = [(53, "UDP"), (53, "TCP"), (metrics, "TCP"), (8_080, "TCP"), (8_181, "TCP")];
    let opened: BTreeSet<(u64, String)> = opened.map(|(port, protocol)| (port, protocol.to_owned())).into();
    assert_eq!(listed(&container["ports"], "containerPort"), opened);
    let policy = base("NetworkPolicy");
    assert_eq!(listed(&policy["spec"]["ingress"][0]["ports"], "port"), opened);
    // Probes name ports.
    for (probe, path, port) in [("livenessProbe", "/health", 8_080), ("readinessProbe", "/ready", 8_181)] {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["path"], path);
        let named = container["ports"].as_array().expect("ports").iter().find(|found| found["name"] == get["port"]);
        assert_eq!(number_of(named.expect("a port of that name"), "containerPort"), port, "{probe}");
    }
    let service = base("Service");
    let targets = listed(&service["spec"]["ports"], "targetPort");
    assert!(targets.is_subset(&opened), "{targets:?}");
    assert_eq!(targets, listed(&service["spec"]["ports"], "port"));
    assert_eq!(service["metadata"]["annotations"]["prometheus.io/port"], metrics.to_string());
}

fn number_of(port: &Value, field: &str) -> u64 {
    port[field].as_u64().unwrap_or_else(|| panic!("{field} of {port}"))
}

#[test]
fn the_pod_has_what_other_objects_rely_on() {
    let deployment = base("Deployment");
    let pod = &deployment["spec"]["template"];
    // Everything selects the same Pods.
    let labels = &pod["metadata"]["labels"];
    for (kind, pointer) in [
        ("Deployment", "/spec/selector/matchLabels"),
        ("Service", "/spec/selector"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels"),
    ] {
        let object = base(kind);
        let selector = object.pointer(pointer).and_then(Value::as_object).expect("a selector");
        assert!(!selector.is_empty() && selector.iter().all(|(key, value)| labels[key] == *value), "{kind}");
    }
    assert_eq!(pod["spec"]["serviceAccountName"], base("ServiceAccount")["metadata"]["name"]);
    // kubelet kills after lameduck, and after the last query that waits for an upstream.
    let corefile = corefile();
    let lameduck = corefile.lines().find_map(|line| line.trim().strip_prefix("lameduck ")?.strip_suffix('s'));
    let lameduck: u64 = lameduck.and_then(|seconds| seconds.parse().ok()).expect("seconds");
    assert!(pod["spec"]["terminationGracePeriodSeconds"].as_u64().expect("seconds") > lameduck + 5);
    // The only capability is to listen on port 53.
    assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["spec"]["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let security = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
    });
    assert_eq!(pod["spec"]["containers"][0]["securityContext"], security);
    for rule in base("ClusterRole")["rules"].as_array().expect("rules") {
        assert_eq!(rule["verbs"], json!(["list", "watch"]), "{rule}");
    }
}

/// Every file names the same image, with the version of this crate.
#[test]
fn one_image_everywhere() {
    let repository = "ghcr.io/clusterdns/clusterdns";
    let image = format!("{repository}:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(base("Deployment")["spec"]["template"]["spec"]["containers"][0]["image"], image.as_str());
    let values = &documents("helm-values.yaml")[0]["image"];
    assert_eq!(*values, json!({"repository": repository, "tag": env!("CARGO_PKG_VERSION")}));
    assert!(text("build-image").contains(&format!("{repository}:$(awk")));
    let guide = include_str!("../docs/migrate.md");
    for (at, _) in guide.match_indices(&format!("{repository}:")) {
        assert!(guide[at..].starts_with(&image), "docs/migrate.md names another version");
    }
    let user = &base("Deployment")["spec"]["template"]["spec"]["securityContext"];
    assert!(text("Containerfile").contains(&format!("\nUSER {}:{}\n", user["runAsUser"], user["runAsGroup"])));
}

#[test]
fn the_patch_changes_nothing_but_the_image() {
    let image = &base("Deployment")["spec"]["template"]["spec"]["containers"][0]["image"];
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "coredns", "image": image}]}}}});
    assert_eq!(documents("image-only/patch.yaml"), [patch]);
    let Some(kubectl) = kubectl() else { return };
    // A Deployment of CoreDNS like kubeadm's, with fields that this server's Deployment lacks.
    let mut before = base("Deployment");
    let pod = &mut before["spec"]["template"]["spec"];
    pod["containers"][0]["image"] = "registry.k8s.io/coredns/coredns:v1.12.0".into();
    pod["containers"][0]["resources"] = json!({"limits": {"memory": "999Mi"}});
    pod["containers"].as_array_mut().expect("containers").insert(0, json!({"name": "other", "image": "other:1"}));
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy-before.json");
    std::fs::write(&file, before.to_string()).expect("a file");
    let run = Command::new(&kubectl)
        .args(["patch", "--local", "--output=json", "--filename"])
        .arg(&file)
        .arg("--patch-file")
        .arg(root().join("image-only/patch.yaml"))
        .output();
    let mut after: Value = serde_json::from_str(&output(&kubectl, run).expect("it is there")).expect("JSON");
    let mut expected = before;
    // The list is merged by name; the order of the two containers does not matter.
    for deployment in [&mut after, &mut expected] {
        let list = deployment["spec"]["template"]["spec"]["containers"].as_array_mut().expect("containers");
        list.sort_by_key(|container| container["name"].to_string());
    }
    expected["spec"]["template"]["spec"]["containers"][0]["image"] = image.clone();
    assert_eq!(after, expected);
}

#[test]
fn kubectl_renders_every_folder() {
    let Some(kubectl) = kubectl() else { return };
    for folder in FOLDERS {
        let objects = kustomize(&kubectl, folder);
        let deployment = of_kind(&objects, "Deployment");
        let replicas = &deployment["spec"]["replicas"];
        // An autoscaler sets the number of replicas, so that the manifest does not.
        assert_eq!(replicas.is_null(), ["hpa", "autoscaler"].contains(&folder), "{folder}: {replicas}");
        for object in objects.iter().filter(|object| object["metadata"]["namespace"].is_string()) {
            assert_eq!(object["metadata"]["namespace"], "kube-system", "{folder}");
        }
    }
}

/// `beside` must not change the cluster's own DNS, and must not get its queries.
#[test]
fn beside_shares_no_name_and_no_label() {
    let Some(kubectl) = kubectl() else { return };
    let [own, beside] = ["base", "beside"].map(|folder| kustomize(&kubectl, folder));
    let names = |objects: &[Value]| -> BTreeSet<String> {
        objects.iter().map(|object| format!("{} {}", object["kind"], object["metadata"]["name"])).collect()
    };
    assert_eq!(names(&own).len(), names(&beside).len());
    assert!(names(&own).is_disjoint(&names(&beside)), "{:?}", names(&beside));
    for object in &beside {
        assert!(!object.to_string().contains("\"kube-dns\""), "{object}");
    }
    assert!(of_kind(&beside, "Service")["spec"]["clusterIP"].is_null());
    // References between the objects are renamed too.
    let pod = &of_kind(&beside, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["volumes"][0]["configMap"]["name"], of_kind(&beside, "ConfigMap")["metadata"]["name"]);
    let account = &of_kind(&beside, "ServiceAccount")["metadata"]["name"];
    assert_eq!(pod["serviceAccountName"], *account);
    assert_eq!(of_kind(&beside, "ClusterRoleBinding")["subjects"][0]["name"], *account);
}

#[test]
fn rules_and_dashboard_name_existing_metrics() {
    let table = include_str!("../src/telemetry/metrics/table.rs");
    for name in ["prometheus/rules.yaml", "prometheus/rules_test.yaml", "grafana/dashboard.json"] {
        let text = text(name);
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let ours = |word: &&str| ["coredns_", "clusterdns_", "process_"].iter().any(|start| word.starts_with(start));
        let metrics: BTreeSet<&str> = words.filter(ours).collect();
        assert!(metrics.len() > 5, "{name}: {metrics:?}");
        for metric in metrics {
            let family =
                ["_bucket", "_count", "_sum"].iter().find_map(|end| metric.strip_suffix(end)).unwrap_or(metric);
            let known = table.contains(&format!("\"{family}\"")) || OF_THE_PROCESS.contains(&family);
            assert!(known, "{name}: {metric}");
        }
    }
}

/// Each rule has two tests: in one it fires, in one it does not.
#[test]
fn rules_pass_their_tests() {
    let [rules, tests] = ["prometheus/rules.yaml", "prometheus/rules_test.yaml"].map(documents);
    let tests = tests[0]["tests"][0]["alert_rule_test"].as_array().expect("tests");
    for rule in rules[0]["groups"][0]["rules"].as_array().expect("rules") {
        let has_test = |fires: bool| {
            tests.iter().any(|test| {
                test["alertname"] == rule["alert"] && test["exp_alerts"].as_array().is_some_and(Vec::is_empty) != fires
            })
        };
        assert!(has_test(true) && has_test(false), "{} is not tested", rule["alert"]);
    }
    let promtool = Path::new("promtool");
    for arguments in [["check", "rules", "rules.yaml"], ["test", "rules", "rules_test.yaml"]] {
        let run = Command::new(promtool).args(arguments).current_dir(root().join("prometheus")).output();
        output(promtool, run);
    }
}

/// The queries of the dashboard are valid PromQL once Grafana's variables are replaced.
#[test]
fn the_queries_of_the_dashboard_are_valid() {
    let dashboard: Value = serde_json::from_str(&text("grafana/dashboard.json")).expect("JSON");
    let mut rules = Vec::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_u64().expect("a number")), "{panel}");
        for target in panel["targets"].as_array().expect("targets") {
            let query = target["expr"].as_str().expect("text").replace("$__rate_interval", "5m");
            rules.push(json!({"record": format!("panel:{}", rules.len()), "expr": query.replace("$instance", ".*")}));
        }
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy-dashboard.json");
    // JSON is YAML.
    std::fs::write(&file, json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string()).expect("a file");
    let promtool = Path::new("promtool");
    output(promtool, Command::new(promtool).args(["check", "rules"]).arg(&file).output());
}
