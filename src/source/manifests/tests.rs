//! Files on disk in, events and warnings as text out.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::*;
use crate::cluster::model::{Kind, Object, ServiceKind};
use crate::cluster::{Event, Selector};

use crate::source::Selection;

/// A folder that is removed with this.
pub struct Folder(PathBuf);

impl Folder {
    /// Creates a folder.
    pub fn make() -> Folder {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("clusterdns-manifests-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns the YAML of a Service with an address.
fn service(name: &str, ip: &str) -> String {
    format!("kind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}}}\n---\n")
}

/// Formats an event.
fn text(event: &Event) -> String {
    match event {
        Event::Begin(kind) => format!("{}:", kind.name()),
        Event::End(_) => ".".into(),
        Event::Retain(kind, key) => format!("={} {}/{}", kind.name(), key.ns, key.name),
        Event::Terminate(key) => format!("~Pod {}/{}", key.ns, key.name),
        Event::Remove(kind, key) => format!("-{} {}/{}", kind.name(), key.ns, key.name),
        Event::Upsert(Object::Service(service)) => match &service.kind {
            ServiceKind::ClusterIp(ips) => {
                format!("{}={}", service.key.name, ips.first().map_or("-".into(), ToString::to_string))
            }
            other => format!("{}={other:?}", service.key.name),
        },
        Event::Upsert(object) => object.key().name.to_string(),
    }
}

/// Formats events as one line.
fn line(events: impl Iterator<Item = Event>) -> String {
    events.map(|event| text(&event)).collect::<Vec<_>>().join(" ")
}

/// Returns the events of the default selection.
fn served(manifests: &Manifests) -> String {
    line(manifests.snapshot().events(&Selection::default()))
}

/// Returns the warnings, without the name of the folder.
fn warnings(folder: &Folder, manifests: &Manifests) -> Vec<String> {
    let prefix = format!("{}/", folder.0.display());
    manifests.snapshot().warnings().iter().map(|warning| warning.to_string().replace(&prefix, "")).collect()
}

#[test]
fn the_manifests_of_a_folder_are_read_in_order() {
    let folder = Folder::make();
    folder.write("b.yaml", &service("b", "10.0.0.2"));
    folder.write("a.json", r#"{"kind": "Service", "metadata": {"name": "a"}, "spec": {"clusterIP": "10.0.0.1"}}"#);
    folder.write("c.yml", &service("c", "10.0.0.3"));
    folder.write("notes.txt", "not: [a manifest");
    folder.write(".hidden.yaml", "not: [a manifest");
    folder.write("inner/d.yaml", &service("d", "10.0.0.4"));
    let manifests = Manifests::load(std::slice::from_ref(&folder.0)).unwrap();
    assert_eq!(served(&manifests), "Namespace: default . Service: a=10.0.0.1 b=10.0.0.2 c=10.0.0.3 .");
    assert_eq!(warnings(&folder, &manifests), [""; 0]);
}

#[test]
fn a_path_that_cannot_be_read_is_an_error_at_the_start() {
    let folder = Folder::make();
    let error = |path: PathBuf| Manifests::load(&[path]).unwrap_err().to_string();
    let missing = folder.0.join("none.yaml");
    assert_eq!(error(missing.clone()), format!("manifests: {}: no such file or directory", missing.display()));
    assert_eq!(error("/dev/null".into()), "manifests: /dev/null: neither a file nor a folder");
    let latin = folder.0.join("latin.yaml");
    fs::write(&latin, b"a: \xe9\n").unwrap();
    assert_eq!(error(latin.clone()), format!("manifests: {}: not UTF-8", latin.display()));
    let huge = folder.0.join("huge.yaml");
    fs::File::create(&huge).unwrap().set_len((MAX_FILE_MIB << 20) + 1).unwrap();
    assert_eq!(
        error(huge.clone()),
        format!("manifests: {}: 257 MiB are more than the limit of 256 MiB", huge.display())
    );
}

/// Every name of the cluster would be denied with authority.
#[test]
fn a_path_without_any_object_is_an_error_at_the_start() {
    let folder = Folder::make();
    let error =
        |path: PathBuf| Manifests::load(&[path]).unwrap_err().to_string().replace(folder.0.to_str().unwrap(), "F");
    assert_eq!(error(folder.0.clone()), "manifests: F: no file in it is a manifest (*.yaml, *.yml or *.json)");
    for (text, problem) in [
        ("", ": no Namespace, Service, EndpointSlice or Pod"),
        ("kind: List\nitems: []\n", ": no Namespace, Service, EndpointSlice or Pod"),
        ("kind: ConfigMap\nmetadata: {name: a}\n", ": no Namespace, Service, EndpointSlice or Pod"),
        ("just text\n", ": a document that is not a map is not an object of the API"),
        ("metadata: {name: a}\n", ": a document without kind is not an object of the API"),
        ("a: 1\nb: [\n", ":"),
    ] {
        let path = folder.write("a.yaml", text);
        for path in [path, folder.0.clone()] {
            let error = error(path);
            assert!(error.starts_with("manifests: F") && error.contains(problem), "{text}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
    // One valid file is enough; problems of the others are warnings.
    folder.write("b.yaml", &service("b", "10.0.0.1"));
    assert_eq!(Manifests::load(std::slice::from_ref(&folder.0)).unwrap().snapshot().warnings().len(), 1);
    // Each path must contain a readable file.
    folder.write("empty/.hidden", "");
    let paths = [folder.0.join("b.yaml"), folder.0.join("empty")];
    assert!(Manifests::load(&paths).unwrap_err().path.ends_with("empty"));
}

#[test]
fn invalid_values_and_objects_are_reported_and_the_rest_is_served() {
    let folder = Folder::make();
    let bad =
        "kind: Service\nmetadata: {name: bad, namespace: shop}\nspec: {clusterIPs: [10.0.0.300, 10.0.0.3]}\n---\n";
    let worse = "kind: Service\nmetadata: {name: worse}\nspec: {clusterIP: 10.0.0.2, ports: [{port: http}]}\n---\n";
    let nameless = "kind: Pod\n---\n";
    let external = "kind: Service\nmetadata: {name: e}\nspec: {type: ExternalName, externalName: a b}\n---\n";
    let elsewhere = "kind: Service\nmetadata: {name: x, namespace: 5}\nspec: {clusterIP: 10.0.0.7}\n---\n";
    let target = "kind: Service\nmetadata: {name: t}\nspec: {clusterIP: None, selector: {a: b}, ports: [{port: 1, targetPort: {}}]}\n---\n";
    let dotted = "kind: EndpointSlice\nmetadata: {name: x, labels: {kubernetes.io/service-name: good}}\nendpoints: [{addresses: [10.0.0.9], hostname: a.b}]\n---\n";
    let unallocated = "kind: Service\nmetadata: {name: late}\n---\n";
    let many =
        format!("kind: Service\nmetadata: {{name: z}}\nspec: {{clusterIPs: [{}10.0.0.8]}}\n---\n", "x, ".repeat(20));
    let all = [
        bad,
        worse,
        nameless,
        external,
        elsewhere,
        target,
        dotted,
        unallocated,
        &many,
        "just text\n---\n",
        &service("good", "10.0.0.1"),
    ];
    let manifests = Manifests::load(&[folder.write("all.yaml", &all.concat())]).unwrap();
    assert_eq!(
        served(&manifests),
        "Namespace: default shop . Service: good=10.0.0.1 late=- t=Headless worse=10.0.0.2 z=10.0.0.8 bad=10.0.0.3 ."
    );
    let warnings = warnings(&folder, &manifests);
    for (warning, want) in warnings.iter().zip([
        "all.yaml: a document that is not a map is not an object of the API",
        r#"all.yaml: Service shop/bad: spec.clusterIPs[0]: "10.0.0.300" is not an IP address; the value is ignored"#,
        "all.yaml: Service default/worse: spec.ports[0].port: expected a whole number, found a string; the value is ignored",
        "all.yaml: Pod default/(no name): metadata.name is missing; the object is skipped",
        r#"all.yaml: Service default/e: spec.externalName: "a b" is not a DNS name; the object is skipped"#,
        "all.yaml: Service default/x: metadata.namespace: expected a string, found a number; the object is skipped",
        "all.yaml: Service default/t: spec.ports[0].targetPort: expected a port number or the name of a container port, found a map; the value is ignored",
        r#"all.yaml: EndpointSlice default/x: endpoints[0].hostname: "a.b" is not a DNS label (at most 63 lower-case letters, digits and '-', a letter or digit first and last); the value is ignored"#,
        "all.yaml: Service default/late: spec.clusterIP is missing; the name has no address",
    ]) {
        assert_eq!(warning, want);
    }
    assert_eq!(warnings.last().unwrap(), "all.yaml: Service default/z: 12 more values are ignored");
    assert_eq!(warnings.len(), 9 + 9, "{warnings:#?}");
}

#[test]
fn the_last_good_state_of_an_invalid_file_is_served() {
    let folder = Folder::make();
    let path = folder.write("a.yaml", &service("a", "10.0.0.1"));
    folder.write("b.yaml", "kind: Service\nmetadata: {name: b\n");
    let mut manifests = Manifests::load(std::slice::from_ref(&folder.0)).unwrap();
    assert_eq!(served(&manifests), "Namespace: default . Service: a=10.0.0.1 .");
    assert!(warnings(&folder, &manifests)[0].starts_with("b.yaml:"), "{:?}", warnings(&folder, &manifests));

    fs::write(&path, "kind: Service\nmetadata:\n  name: 'a\n").unwrap();
    folder.write("b.yaml", &service("b", "10.0.0.2"));
    assert!(manifests.refresh());
    assert_eq!(served(&manifests), "Namespace: default . Service: a=10.0.0.1 b=10.0.0.2 .");
    let now = warnings(&folder, &manifests);
    assert!(
        now.len() == 1 && now[0].starts_with("a.yaml:") && now[0].ends_with("; its last good state is served"),
        "{now:?}"
    );
    assert!(!manifests.refresh(), "nothing changed since");

    fs::remove_file(&path).unwrap();
    assert!(manifests.refresh());
    assert_eq!(served(&manifests), "Namespace: default . Service: b=10.0.0.2 .");
    fs::remove_dir_all(&folder.0).unwrap();
    assert!(manifests.refresh());
    assert_eq!(served(&manifests), "Namespace: default . Service: b=10.0.0.2 .");
    assert!(warnings(&folder, &manifests)[0].ends_with("no such file or directory; its last good state is served"));
}

#[test]
fn a_later_file_has_precedence() {
    let folder = Folder::make();
    let first = folder.write("z.yaml", &service("a", "10.0.0.1"));
    let second = folder.write("a.yaml", &service("a", "10.0.0.2"));
    let manifests = Manifests::load(&[first, second]).unwrap();
    assert_eq!(served(&manifests), "Namespace: default . Service: a=10.0.0.2 .");
    let z = folder.0.join("z.yaml").display().to_string();
    assert_eq!(
        warnings(&folder, &manifests),
        [format!("a.yaml: Service default/a: is also in {z}; this one is served")
            .replace(&format!("{}/", folder.0.display()), "")]
    );
    let manifests = Manifests::load(&[folder.0.clone(), folder.0.join("a.yaml")]).unwrap();
    assert_eq!(warnings(&folder, &manifests).len(), 1, "a file that is given twice is one file");
    assert_eq!(served(&manifests), "Namespace: default . Service: a=10.0.0.2 .");
}

#[test]
fn namespaces_exist_if_none_is_listed() {
    let folder = Folder::make();
    let shop = service("a", "10.0.0.1").replace("name: a", "name: a, namespace: shop");
    let path = folder.write("a.yaml", &(shop + &service("b", "10.0.0.2")));
    let mut manifests = Manifests::load(std::slice::from_ref(&folder.0)).unwrap();
    assert!(served(&manifests).starts_with("Namespace: default shop . "));
    assert_eq!(warnings(&folder, &manifests), [""; 0]);
    folder.write("n.yaml", "kind: Namespace\nmetadata: {name: shop}\n");
    assert!(manifests.refresh());
    assert!(served(&manifests).starts_with("Namespace: shop . "));
    assert_eq!(
        warnings(&folder, &manifests),
        [
            "a.yaml: Namespace default: no manifest has this Namespace, although some list others; names in it do not exist"
        ]
    );
    drop(path);
}

#[test]
fn a_selection_gets_events_of_its_objects() {
    let folder = Folder::make();
    let labelled =
        |text: String, label: &str| text.replace("metadata: {", &format!("metadata: {{labels: {{{label}}}, "));
    let pod = "kind: Pod\nmetadata: {name: p, labels: {app: a}}\nstatus: {podIP: 10.9.0.1}\n---\n";
    let selecting =
        "kind: Service\nmetadata: {name: h, labels: {tier: front}}\nspec: {clusterIP: None, selector: {app: a}}\n---\n";
    let text = [
        labelled(service("a", "10.0.0.1"), "tier: front"),
        labelled(service("b", "10.0.0.2"), "tier: back"),
        labelled("kind: Namespace\nmetadata: {name: default}\n---\n".into(), "team: x"),
        "kind: Namespace\nmetadata: {name: other}\n---\n".into(),
        pod.into(),
        selecting.into(),
    ];
    let path = folder.write("a.yaml", &text.concat());
    let mut manifests = Manifests::load(std::slice::from_ref(&path)).unwrap();
    let selector = |text| Some(Selector::parse(text).unwrap());
    let front =
        Selection { labels: selector("tier=front"), namespace_labels: selector("team"), endpoints: true, pods: true };
    let all = Selection { pods: true, endpoints: true, ..Selection::default() };
    // A derived slice has the labels of its Service.
    let first = manifests.snapshot().clone();
    assert_eq!(
        line(first.events(&front)),
        "Namespace: default . Service: a=10.0.0.1 h=Headless . EndpointSlice: h/0 . Pod: ."
    );
    assert_eq!(
        line(first.events(&all)),
        "Namespace: default other . Service: a=10.0.0.1 b=10.0.0.2 h=Headless . EndpointSlice: h/0 . Pod: p ."
    );
    assert_eq!(line(first.changes(&first, &all)), "");

    fs::write(&path, text.concat().replace("10.0.0.2", "10.0.0.3")).unwrap();
    assert!(manifests.refresh());
    let second = manifests.snapshot().clone();
    assert_eq!(line(second.changes(&first, &front)), "", "what changed is not selected");
    assert_eq!(line(second.changes(&first, &all)), "Service: a=10.0.0.1 b=10.0.0.3 h=Headless .");
}

/// Returns a sink that stores the Services of the last complete list as text.
fn subscriber() -> (Subscriber, Arc<Mutex<String>>) {
    let (seen, list) = (Arc::new(Mutex::new(String::new())), Mutex::new(String::new()));
    let out = Arc::clone(&seen);
    let sink = move |event: Event| match &event {
        Event::Begin(Kind::Service) => list.lock().unwrap().clear(),
        Event::Upsert(Object::Service(_)) => *list.lock().unwrap() += &format!("{} ", text(&event)),
        Event::End(Kind::Service) => *out.lock().unwrap() = list.lock().unwrap().clone(),
        _ => {}
    };
    (Subscriber { selection: Selection::default(), sink: Box::new(sink) }, seen)
}

/// Waits until the sink has this text.
fn wait(seen: &Mutex<String>, want: &str, what: &str) {
    let begin = Instant::now();
    while *seen.lock().unwrap() != want {
        // Less than the time that a writer may take.
        assert!(begin.elapsed() < Duration::from_secs(5), "{what}: {:?}, not {want:?}", seen.lock().unwrap());
        std::thread::sleep(Duration::from_millis(5));
    }
    eprintln!("{what}: {:?}", begin.elapsed());
}

#[test]
fn changes_are_followed_however_they_are_made() {
    let folder = Folder::make();
    let path = folder.write("m/a.yaml", &service("a", "10.0.0.1"));
    // A mounted ConfigMap: the files are links through a link that is moved.
    folder.write("cm/..1/b.yaml", &service("b", "10.0.0.1"));
    let link = std::os::unix::fs::symlink::<&str, PathBuf>;
    link("..1", folder.0.join("cm/..data")).unwrap();
    link("..data/b.yaml", folder.0.join("cm/b.yaml")).unwrap();
    let manifests = Manifests::load(&[path.clone(), folder.0.join("cm")]).unwrap();
    let (subscriber, seen) = subscriber();
    let following = manifests.follow(vec![subscriber]).unwrap();
    assert_eq!(*seen.lock().unwrap(), "a=10.0.0.1 b=10.0.0.1 ", "before follow returns");

    fs::write(&path, service("a", "10.0.0.2")).unwrap();
    wait(&seen, "a=10.0.0.2 b=10.0.0.1 ", "written in place");

    let new = folder.write("m/.a.yaml.swp", &service("a", "10.0.0.3"));
    fs::rename(&path, folder.0.join("m/a.yaml~")).unwrap();
    fs::rename(new, &path).unwrap();
    wait(&seen, "a=10.0.0.3 b=10.0.0.1 ", "renamed by an editor");

    folder.write("cm/..2/b.yaml", &service("b", "10.0.0.2"));
    link("..2", folder.0.join("cm/..data_tmp")).unwrap();
    fs::rename(folder.0.join("cm/..data_tmp"), folder.0.join("cm/..data")).unwrap();
    fs::remove_dir_all(folder.0.join("cm/..1")).unwrap();
    wait(&seen, "a=10.0.0.3 b=10.0.0.2 ", "swapped by the kubelet");

    folder.write("cm/c.yaml", &service("c", "10.0.0.3"));
    wait(&seen, "a=10.0.0.3 b=10.0.0.2 c=10.0.0.3 ", "added to a folder");
    fs::remove_file(folder.0.join("cm/c.yaml")).unwrap();
    wait(&seen, "a=10.0.0.3 b=10.0.0.2 ", "deleted from a folder");

    fs::write(&path, "kind: Service\nmetadata: {name: 'a\n").unwrap();
    folder.write("cm/c.yaml", &service("c", "10.0.0.4"));
    wait(&seen, "a=10.0.0.3 b=10.0.0.2 c=10.0.0.4 ", "half written");
    fs::write(&path, service("a", "10.0.0.5")).unwrap();
    wait(&seen, "a=10.0.0.5 b=10.0.0.2 c=10.0.0.4 ", "completed");

    fs::remove_dir_all(folder.0.join("m")).unwrap();
    folder.write("m/a.yaml", &service("a", "10.0.0.6"));
    wait(&seen, "a=10.0.0.6 b=10.0.0.2 c=10.0.0.4 ", "deleted and made again, with its folder");
    fs::write(&path, service("a", "10.0.0.7")).unwrap();
    wait(&seen, "a=10.0.0.7 b=10.0.0.2 c=10.0.0.4 ", "written in the new folder");

    let manifests = following.stop();
    assert!(served(&manifests).contains("a=10.0.0.7 "));
}

#[test]
fn an_invalid_file_is_reported_even_if_nothing_else_changes() {
    let folder = Folder::make();
    let path = folder.write("a.yaml", "a: [b");
    let other = folder.write("b.yaml", &service("b", "10.0.0.2"));
    let mut manifests = Manifests::load(&[folder.0.clone(), other]).unwrap();
    assert_eq!(manifests.snapshot().warnings().len(), 1, "at the start");
    fs::write(&path, service("a", "10.0.0.1")).unwrap();
    assert!(manifests.refresh());
    assert_eq!(manifests.snapshot().warnings().len(), 0);
    fs::write(&path, "a: [c").unwrap();
    assert!(manifests.refresh(), "a new warning is a change");
    assert!(warnings(&folder, &manifests)[0].ends_with("; its last good state is served"));
    assert!(!manifests.refresh());
}

#[test]
fn the_start_of_a_dump_is_not_a_good_state() {
    let folder = Folder::make();
    let item = "- kind: Service\n  metadata: {name: a}\n  spec: {clusterIP: 10.0.0.1}\n";
    let path = folder.write("dump.yaml", &format!("apiVersion: v1\nitems:\n{item}kind: List\n"));
    let mut manifests = Manifests::load(std::slice::from_ref(&path)).unwrap();
    assert_eq!(served(&manifests), "Namespace: default . Service: a=10.0.0.1 .");
    fs::write(&path, format!("apiVersion: v1\nitems:\n{item}")).unwrap();
    assert!(manifests.refresh());
    assert_eq!(served(&manifests), "Namespace: default . Service: a=10.0.0.1 .");
}

#[test]
fn a_file_that_is_being_written_is_not_read() {
    use std::io::Write;
    let folder = Folder::make();
    let path = folder.write("a.yaml", &service("a", "10.0.0.1"));
    let (subscriber, seen) = subscriber();
    let _following = Manifests::load(std::slice::from_ref(&path)).unwrap().follow(vec![subscriber]).unwrap();
    // Once a change has arrived, notifications of the kernel work.
    fs::write(&path, service("a", "10.0.0.2")).unwrap();
    wait(&seen, "a=10.0.0.2 ", "written at once");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(b"# a comment is a valid text\n").unwrap();
    // Longer than the interval of checks.
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(*seen.lock().unwrap(), "a=10.0.0.2 ", "while the file is being written");
    file.write_all(service("a", "10.0.0.3").as_bytes()).unwrap();
    drop(file);
    wait(&seen, "a=10.0.0.3 ", "closed");
}

#[test]
fn a_file_that_is_renamed_at_once_is_read_at_once() {
    let folder = Folder::make();
    let path = folder.write("a.yaml", &service("a", "10.0.0.0"));
    let (subscriber, seen) = subscriber();
    let _following = Manifests::load(std::slice::from_ref(&path)).unwrap().follow(vec![subscriber]).unwrap();
    for number in 1..=20 {
        // The notification of the write arrives when the file already has its final name.
        let address = format!("10.0.0.{number}");
        let new = folder.write("a.yaml.new", &service("a", &address));
        fs::rename(new, &path).unwrap();
        wait(&seen, &format!("a={address} "), "renamed");
    }
}
