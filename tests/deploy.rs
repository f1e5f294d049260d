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
const FOLDERS: [&str; 6] = ["base", "hpa", "autoscaler", "networkpolicy", "canary", "beside"];
/// The metrics of the process that rules and dashboard use.
const OF_THE_PROCESS: [&str; 2] = ["process_cpu_seconds_total", "process_resident_memory_bytes"];
/// The image that every file names.
const IMAGE: &str = "ghcr.io/clusterdns/clusterdns";
/// Values of the chart that use most of its templates, and some that render less.
const CHART_VALUES: [&str; 3] = ["", "helm-values.yaml", "../tests/data/chart-values.yaml"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns whether a file is a template of the chart, which is no YAML.
fn is_template(name: &str) -> bool {
    name.starts_with("chart/templates/")
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

/// Returns a program that the live tests have built, if they have.
fn built(module: &str, name: &str) -> Option<PathBuf> {
    let testbed = std::env::var_os("TESTBED").map_or_else(|| root().join("../.testbed"), PathBuf::from);
    let builds = std::fs::read_dir(testbed).into_iter().flatten().flatten();
    let found = builds
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{module}-")))
        .map(|entry| entry.path().join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        println!("not run, since tests/live/build has built no {name} yet");
    }
    found
}

fn kubectl() -> Option<PathBuf> {
    built("kubernetes", "kubectl")
}

/// Returns the objects that Helm renders from the chart with a file of values, in the namespace kube-system.
fn chart(helm: &Path, values: &str) -> Vec<Value> {
    let mut command = Command::new(helm);
    command.args(["template", "coredns", "--namespace=kube-system"]).arg(root().join("chart"));
    if !values.is_empty() {
        command.arg("--values").arg(root().join(values));
    }
    let text = output(helm, command.output()).expect("it is there");
    assert!(!text.lines().any(|line| line.ends_with(' ')), "{text}");
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{values}: {error}\n{text}"))
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
    for name in names.into_iter().filter(|name| !is_template(name)) {
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
    let policy = &documents("networkpolicy/networkpolicy.yaml")[0];
    assert_eq!(listed(&policy["spec"]["ingress"][0]["ports"], "port"), opened);
    // API servers of kubeadm, minikube and MicroK8s, and the Service of each.
    let reached = listed(&policy["spec"]["egress"][0]["ports"], "port");
    for port in [443, 6_443, 8_443, 16_443] {
        assert!(reached.contains(&(port, "TCP".to_owned())), "{port}: {reached:?}");
    }
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
        let is_policy = kind == "NetworkPolicy";
        let object = if is_policy { documents("networkpolicy/networkpolicy.yaml").remove(0) } else { base(kind) };
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
    let repository = IMAGE;
    let image = format!("{repository}:{}", env!("CARGO_PKG_VERSION"));
    let images = &documents("base/kustomization.yaml")[0]["images"];
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(*images, json!([{"name": repository, "newName": repository, "newTag": version}]));
    let chart = &documents("chart/Chart.yaml")[0];
    assert_eq!([&chart["version"], &chart["appVersion"]], [version, version]);
    assert_eq!(documents("chart/values.yaml")[0]["image"]["repository"], repository);
    assert_eq!(base("Deployment")["spec"]["template"]["spec"]["containers"][0]["image"], image.as_str());
    let values = &documents("helm-values.yaml")[0]["image"];
    assert_eq!(*values, json!({"repository": repository, "tag": env!("CARGO_PKG_VERSION")}));
    assert!(text("build-image").contains(&format!("{repository}:$(awk")));
    for (page, text) in
        [("docs/migrate.md", include_str!("../docs/migrate.md")), ("deploy/README.md", text("README.md").as_str())]
    {
        for (at, _) in text.match_indices(&format!("{repository}:")) {
            assert!(text[at..].starts_with(&image), "{page} names another version");
        }
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
        // It names the image that the kustomization of base does.
        let image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().expect("an image");
        assert!(image.starts_with(&format!("{IMAGE}:")), "{folder}: {image}");
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
        // The Corefile is in the same place.
        let text = object.to_string().to_lowercase().replace("/etc/coredns", "");
        assert!(!text.contains("kube-dns") && !text.contains("coredns"), "{object}");
    }
    assert!(of_kind(&beside, "Service")["spec"]["clusterIP"].is_null());
    // References between the objects are renamed too.
    let pod = &of_kind(&beside, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["volumes"][0]["configMap"]["name"], of_kind(&beside, "ConfigMap")["metadata"]["name"]);
    let account = &of_kind(&beside, "ServiceAccount")["metadata"]["name"];
    assert_eq!(pod["serviceAccountName"], *account);
    assert_eq!(of_kind(&beside, "ClusterRoleBinding")["subjects"][0]["name"], *account);
}

/// The Pods of the canary are behind the cluster's Service, and nothing else of the cluster changes.
#[test]
fn the_canary_is_one_pod_behind_the_same_service() {
    let Some(kubectl) = kubectl() else { return };
    let objects = kustomize(&kubectl, "canary");
    let [canary] = &objects[..] else { panic!("more than a Deployment: {objects:?}") };
    let own = base("Deployment");
    assert_ne!(canary["metadata"]["name"], own["metadata"]["name"]);
    assert_eq!(canary["spec"]["replicas"], 1);
    // kubeadm refuses two Deployments with this label.
    assert!(canary["metadata"]["labels"]["k8s-app"].is_null());
    let labels = &canary["spec"]["template"]["metadata"]["labels"];
    for (key, value) in base("Service")["spec"]["selector"].as_object().expect("a selector") {
        assert_eq!(labels[key], *value, "{key}");
    }
    // Its ReplicaSet must not select the Pods of the other Deployment.
    let selector = canary["spec"]["selector"]["matchLabels"].as_object().expect("a selector");
    assert!(selector.iter().any(|(key, value)| own["spec"]["template"]["metadata"]["labels"][key] != *value));
    assert_eq!(canary["spec"]["template"]["spec"], own["spec"]["template"]["spec"]);
}

/// The alerts are in three files: for Prometheus, for its operator, and in the chart.
#[test]
fn the_rules_are_the_same_everywhere() {
    let rules = text("prometheus/rules.yaml");
    let groups = &rules[rules.find("groups:").expect("groups")..];
    let head = text("monitoring/prometheusrule.yaml");
    let (head, _) = head.split_once("spec:\n").expect("a spec");
    let indented: String = groups.lines().map(|line| format!("  {line}\n")).collect();
    for (name, expected) in [
        ("monitoring/prometheusrule.yaml", format!("{head}spec:\n{indented}")),
        ("chart/files/rules.yaml", rules.clone()),
    ] {
        if std::env::var_os("UPDATE_EXPECT").is_some_and(|value| value == "1") {
            std::fs::write(root().join(name), &expected).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert!(text(name) == expected, "{name} is old: run with UPDATE_EXPECT=1");
    }
}

/// The component for the Prometheus operator selects a port of the Service.
#[test]
fn the_service_monitor_selects_the_service() {
    let monitor = &documents("monitoring/servicemonitor.yaml")[0];
    let service = base("Service");
    for (key, value) in monitor["spec"]["selector"]["matchLabels"].as_object().expect("a selector") {
        assert_eq!(service["metadata"]["labels"][key], *value, "{key}");
    }
    let port = &monitor["spec"]["endpoints"][0]["port"];
    assert!(service["spec"]["ports"].as_array().expect("ports").iter().any(|found| found["name"] == *port), "{port}");
    assert_eq!(monitor["spec"]["namespaceSelector"]["matchNames"], json!([service["metadata"]["namespace"]]));
}

#[test]
fn the_chart_is_rendered_without_an_error() {
    let Some(helm) = built("helm", "helm") else { return };
    output(&helm, Command::new(&helm).args(["lint", "--strict"]).arg(root().join("chart")).output());
    for values in CHART_VALUES {
        let objects = chart(&helm, values);
        let map = of_kind(&objects, "ConfigMap");
        let corefile = map["data"]["Corefile"].as_str().expect("a Corefile");
        let mut diagnostics = Diagnostics::default();
        let configuration = read_text("Corefile", corefile, 53, &MemoryFiles::default(), &mut diagnostics);
        assert!(diagnostics.is_empty(), "{values}: {}", render_text(&diagnostics, &configuration.corefile.sources));
        // Probes name ports that exist.
        let container = &of_kind(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
        let names: BTreeSet<&str> =
            container["ports"].as_array().expect("ports").iter().filter_map(|port| port["name"].as_str()).collect();
        for probe in ["livenessProbe", "readinessProbe"] {
            let port = container[probe]["httpGet"]["port"].as_str();
            assert!(port.is_none_or(|port| names.contains(port)), "{values}: {probe}");
        }
    }
}

/// With the values for a cluster's own DNS, the chart renders what `base` has, apart from names and labels of Helm.
#[test]
fn the_chart_is_base() {
    let Some(helm) = built("helm", "helm") else { return };
    let objects = chart(&helm, "helm-values.yaml");
    let own = base("Deployment");
    let [rendered, own] = [of_kind(&objects, "Deployment"), &own].map(|deployment| {
        let mut pod = deployment["spec"]["template"]["spec"].clone();
        // Names of ports, the labels that Helm needs, and what the API server sets by default.
        let container = &mut pod["containers"][0];
        for port in container["ports"].as_array_mut().expect("ports") {
            port["name"].take();
        }
        container["ports"].as_array_mut().expect("ports").sort_by_key(ToString::to_string);
        for probe in ["livenessProbe", "readinessProbe"] {
            for default in ["successThreshold", "failureThreshold", "initialDelaySeconds"] {
                container[probe].as_object_mut().expect("a probe").remove(default);
            }
        }
        for constraint in pod["topologySpreadConstraints"].as_array_mut().expect("constraints") {
            constraint["labelSelector"].take();
        }
        pod
    });
    assert_eq!(rendered, own);
    let service = objects.iter().find(|object| object["metadata"]["name"] == "kube-dns").expect("a Service");
    assert_eq!(service["spec"]["clusterIP"], base("Service")["spec"]["clusterIP"]);
    let rules = |objects: &Value| objects["rules"].clone();
    assert_eq!(rules(of_kind(&objects, "ClusterRole")), rules(&base("ClusterRole")));
    let budget = |object: &Value| object["spec"]["unhealthyPodEvictionPolicy"].clone();
    assert_eq!(budget(of_kind(&objects, "PodDisruptionBudget")), budget(&base("PodDisruptionBudget")));
}

/// The bill of materials has every crate of the program with its licence and digest, and none that only tests need.
#[test]
fn the_bill_of_materials_is_complete() {
    let script = root().join("sbom");
    let Some(text) = output(&script, Command::new(&script).arg("x86_64-unknown-linux-gnu").output()) else { return };
    let bom: Value = serde_json::from_str(&text).expect("JSON");
    let components = bom["components"].as_array().expect("components");
    let names: BTreeSet<&str> = components.iter().filter_map(|component| component["name"].as_str()).collect();
    let manifest = include_str!("../Cargo.toml");
    let dependencies = |section: &str| -> BTreeSet<&str> {
        let (_, rest) = manifest.split_once(&format!("\n[{section}]\n")).expect("a section");
        let lines = rest.lines().take_while(|line| !line.starts_with('['));
        lines.filter(|line| !line.starts_with('#')).filter_map(|line| Some(line.split_once(" = ")?.0)).collect()
    };
    let [normal, dev] = ["dependencies", "dev-dependencies"].map(dependencies);
    assert!(normal.len() > 20 && normal.is_subset(&names), "{:?}", normal.difference(&names));
    assert!(names.is_disjoint(&["proptest", "libtest-mimic"].into()) && dev.contains("proptest"), "{names:?}");
    let locked = include_str!("../Cargo.lock");
    for component in components {
        let [name, version] = ["name", "version"].map(|key| component[key].as_str().expect("text"));
        assert!(locked.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")), "{component}");
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
        assert!(component["hashes"][0]["content"].as_str().is_some_and(|digest| digest.len() == 64), "{component}");
    }
}

/// Each alert has a section that says what to do.
#[test]
fn runbooks_exist() {
    let page = include_str!("../docs/troubleshooting.md");
    let headings: BTreeSet<String> =
        page.lines().filter_map(|line| Some(line.strip_prefix("### ")?.to_lowercase())).collect();
    for rule in documents("prometheus/rules.yaml")[0]["groups"][0]["rules"].as_array().expect("rules") {
        let url = rule["annotations"]["runbook_url"].as_str().expect("a runbook");
        let (page, anchor) = url.rsplit_once('#').expect("a section");
        assert!(page.ends_with("/docs/troubleshooting.md"), "{page}");
        assert_eq!(anchor, rule["alert"].as_str().expect("a name").to_lowercase());
        assert!(headings.contains(anchor), "docs/troubleshooting.md has no section {anchor}");
    }
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
    let tests = tests[0]["tests"].as_array().expect("tests").iter();
    let tests: Vec<&Value> = tests.flat_map(|test| test["alert_rule_test"].as_array().expect("tests")).collect();
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
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let variables: Vec<&str> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    assert_eq!(variables, ["datasource", "namespace", "job", "instance"]);
    let mut cells = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_u64().expect("a number")), "{panel}");
        // No panel hides another.
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|name| panel["gridPos"][name].as_u64().expect("a number"));
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cell.0 < 24 && cells.insert(cell), "{}", panel["title"]);
        }
        // A row is a heading.
        for target in panel["targets"].as_array().into_iter().flatten() {
            let mut query = target["expr"].as_str().expect("text").replace("$__rate_interval", "5m");
            for variable in &variables {
                query = query.replace(&format!("${variable}"), ".*");
            }
            rules.push(json!({"record": format!("panel:{}", rules.len()), "expr": query}));
        }
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy-dashboard.json");
    // JSON is YAML.
    std::fs::write(&file, json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string()).expect("a file");
    let promtool = Path::new("promtool");
    output(promtool, Command::new(promtool).args(["check", "rules"]).arg(&file).output());
}
