//! A scheduler and a kubelet for the Pods of a Deployment, as far as DNS needs them: each Pod gets a node, a network
//! namespace, the files that its volumes mount, its process with the user and capabilities of its specification,
//! probes, a reported status, and a graceful end. The image decides which program runs.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::live::api::Api;
use super::live::cluster::{ACCOUNT, KUBERNETES};
use super::live::process::Process;
use super::machine::{find, output, run};
use super::net::{Net, Node, Space};

/// The namespace of the Pods that are run.
const NAMESPACE: &str = "kube-system";
/// The files of a ServiceAccount in a container.
const TOKEN_FOLDER: &str = "token";
/// The time between two looks at the API server. Probes have their own periods.
const TICK: Duration = Duration::from_millis(50);

/// What runs Pods needs to know.
pub struct Setup {
    pub api: Api,
    /// The certificate of the API server's authority.
    pub authority: String,
    /// The directory of the programs, with their file capability, by the names of [`program_of`].
    pub programs: PathBuf,
    pub folder: PathBuf,
    /// The file of the nodes, for `dnsPolicy: Default`.
    pub resolv_conf: String,
    pub net: Arc<Net>,
}

/// The kubelet; dropping it kills its Pods.
pub struct Kubelet {
    seen: Arc<Mutex<Vec<Seen>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A Pod that runs, for tests.
#[derive(Clone, Debug)]
pub struct Seen {
    pub name: String,
    pub address: Ipv4Addr,
    pub node: Node,
    pub image: String,
    pub ready: bool,
    pub restarts: u32,
    pub log: PathBuf,
    /// Its process, if it runs.
    pub process: Option<u32>,
}

/// Returns how often each Pod's process has been started again.
pub fn restarts(pods: &[Seen]) -> Vec<(String, u32)> {
    pods.iter().map(|pod| (pod.name.clone(), pod.restarts)).collect()
}

/// A Pod with its process.
struct Run {
    seen: Seen,
    space: Space,
    folder: PathBuf,
    process: Option<Process>,
    readiness: Probe,
    liveness: Probe,
    /// The version of the mounted ConfigMap.
    config: String,
    /// When the process was started.
    started: Instant,
    /// The status that was reported.
    reported: Option<Value>,
    /// When the Pod got its signal, and its grace period.
    ending: Option<(Instant, Duration)>,
}

/// A probe of a container and its state.
#[derive(Debug)]
struct Probe {
    port: u16,
    path: String,
    period: Duration,
    delay: Duration,
    timeout: Duration,
    failures_allowed: u64,
    failures: u64,
    next: Instant,
    /// The probe that waits for its response.
    running: Option<JoinHandle<bool>>,
}

impl Kubelet {
    /// Starts it; it takes the Pods that are there and those to come.
    pub fn start(setup: Setup) -> Kubelet {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let ended = Arc::new(AtomicBool::new(false));
        let (shared, stop) = (seen.clone(), ended.clone());
        let thread = std::thread::spawn(move || {
            let mut pods = HashMap::new();
            while !stop.load(Ordering::Relaxed) {
                setup.tick(&mut pods);
                *shared.lock() = pods.values().map(|run| run.seen.clone()).collect();
                std::thread::sleep(TICK);
            }
            for (_, run) in pods {
                drop(run.process);
                run.space.remove();
            }
        });
        Kubelet { seen, ended, thread: Some(thread) }
    }

    /// Returns the Pods that run, by name.
    pub fn pods(&self) -> Vec<Seen> {
        let mut pods = self.seen.lock().clone();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        pods
    }
}

impl Seen {
    /// Sends a signal to its process.
    pub fn signal(&self, signal: &str) {
        let process = self.process.expect("a running process");
        run(&format!("kill -{signal} {process}"));
    }

    /// Returns its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Setup {
    /// Does what is due.
    fn tick(&self, pods: &mut HashMap<String, Run>) {
        // An API server that is not available changes nothing.
        let Ok(list) = self.get(&format!("/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=k8s-app%3Dkube-dns"))
        else {
            return;
        };
        let items = list["items"].as_array().cloned().unwrap_or_default();
        for pod in &items {
            let Some(uid) = pod["metadata"]["uid"].as_str() else { continue };
            match pod["spec"]["nodeName"].as_str() {
                None => self.schedule(pod, &items),
                Some(node) => {
                    if !pods.contains_key(uid)
                        && pod["metadata"]["deletionTimestamp"].is_null()
                        && let Some(node) = Node::named(node)
                    {
                        let run = self.run(pod, node);
                        pods.insert(uid.to_owned(), run);
                    }
                }
            }
        }
        let config = self.config_map();
        pods.retain(|uid, run| {
            let object = items.iter().find(|pod| pod["metadata"]["uid"] == uid.as_str());
            let stays = self.keep(run, object, config.as_ref());
            if !stays {
                run.process = None;
                run.space.remove();
            }
            stays
        });
    }

    fn get(&self, path: &str) -> Result<Value, ()> {
        self.api.send(Method::GET, path, "", None).map_err(|_| ())
    }

    fn config_map(&self) -> Option<Value> {
        self.get(&format!("/api/v1/namespaces/{NAMESPACE}/configmaps/coredns")).ok()
    }

    /// Gives a Pod the node that has the fewest Pods and accepts new ones.
    fn schedule(&self, pod: &Value, all: &[Value]) {
        let nodes = self.get("/api/v1/nodes").map(|list| list["items"].as_array().cloned().unwrap_or_default());
        let nodes = nodes.unwrap_or_default();
        let open = |node: Node| {
            let object = nodes.iter().find(|object| object["metadata"]["name"] == node.name());
            object.is_some_and(|object| object["spec"]["unschedulable"] != true)
        };
        let load = |node: &Node| {
            all.iter()
                .filter(|pod| pod["spec"]["nodeName"] == node.name() && pod["metadata"]["deletionTimestamp"].is_null())
                .count()
        };
        let Some(node) = Node::ALL.into_iter().filter(|node| open(*node)).min_by_key(load) else { return };
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let target = json!({"apiVersion": "v1", "kind": "Node", "name": node.name()});
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target,
        });
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}/binding");
        let _ = self.api.send(Method::POST, &path, "application/json", Some(&binding));
    }

    /// Starts a Pod.
    fn run(&self, pod: &Value, node: Node) -> Run {
        let name = text(&pod["metadata"]["name"]);
        let container = &pod["spec"]["containers"][0];
        assert_eq!(pod["spec"]["dnsPolicy"], "Default", "the server must not use itself");
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let space = self.net.pod(node, &format!("pod-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let folder = self.folder.join(&name);
        for part in ["root", "config", TOKEN_FOLDER] {
            std::fs::create_dir_all(folder.join(part)).expect("a folder");
        }
        std::fs::write(folder.join("resolv.conf"), &self.resolv_conf).expect("a file");
        let hosts = format!("127.0.0.1\tlocalhost\n{}\t{name}\n", space.address);
        std::fs::write(folder.join("hosts"), hosts).expect("a file");
        let (ns, account) = ACCOUNT;
        assert_eq!(pod["spec"]["serviceAccountName"], account);
        let token = self.api.token(ns, account);
        let files = [("token", &*token), ("ca.crt", &self.authority), ("namespace", NAMESPACE)];
        swap(&folder.join(TOKEN_FOLDER), &files.map(|(name, text)| (name.to_owned(), text.to_owned())));
        let seen = Seen {
            name,
            address: space.address,
            node,
            image: text(&container["image"]),
            ready: false,
            restarts: 0,
            log: folder.join("log"),
            process: None,
        };
        let mut run = Run {
            seen,
            space,
            folder,
            process: None,
            readiness: Probe::of(container, "readinessProbe"),
            liveness: Probe::of(container, "livenessProbe"),
            config: String::new(),
            started: Instant::now(),
            reported: None,
            ending: None,
        };
        if let Some(config) = self.config_map() {
            run.mount(&config);
        }
        self.start_container(&mut run, pod);
        run
    }

    /// Starts the process of a Pod.
    fn start_container(&self, run: &mut Run, pod: &Value) {
        let container = &pod["spec"]["containers"][0];
        let security = &container["securityContext"];
        assert_eq!(security["capabilities"], json!({"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}));
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        // Without a user in the specification, that of the image: both images have 65532.
        let id = |field: &str| pod["spec"]["securityContext"][field].as_u64().unwrap_or(65_532).to_string();
        let program = program_of(&run.seen.image);
        let mut arguments = vec![format!("--net={}", run.space.file()), "--".to_owned()];
        let environment = [
            format!("KUBERNETES_SERVICE_HOST={KUBERNETES}"),
            "KUBERNETES_SERVICE_PORT=443".to_owned(),
            "RUST_BACKTRACE=1".to_owned(),
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ];
        arguments.extend(["env", "-i"].map(str::to_owned));
        arguments.extend(environment);
        arguments
            .extend(["unshare", "--mount", "sh", "-c", include_str!("container.sh"), "container"].map(str::to_owned));
        arguments.extend(
            [run.folder.join("root"), run.folder.clone(), self.programs.clone()].map(|path| path.display().to_string()),
        );
        arguments.extend([program.to_owned(), id("runAsUser"), id("runAsGroup")]);
        arguments.push(text(&pod["spec"]["securityContext"]["seccompProfile"]["type"]));
        arguments.extend(container["args"].as_array().into_iter().flatten().map(text));
        let nsenter = find("nsenter").expect("checked at the start");
        run.process = Some(Process::start(&nsenter, &arguments, run.seen.log.clone()));
        run.seen.process = run.process.as_ref().map(Process::id);
        run.started = Instant::now();
        run.readiness.restart();
        run.liveness.restart();
    }

    /// Does what is due for a Pod; returns false when it is gone.
    fn keep(&self, run: &mut Run, object: Option<&Value>, config: Option<&Value>) -> bool {
        let Some(object) = object else { return false };
        let is_running = run.process.as_mut().is_some_and(Process::is_running);
        let deleted = !object["metadata"]["deletionTimestamp"].is_null();
        if let Some((since, grace)) = run.ending {
            if !is_running || since.elapsed() > grace {
                let _ = self.api.delete("Pod", NAMESPACE, &run.seen.name);
                return false;
            }
        } else if deleted {
            let seconds = object["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(30);
            run.ending = Some((Instant::now(), Duration::from_secs(seconds)));
            if let Some(process) = run.process.as_ref().filter(|_| is_running) {
                process.signal("TERM");
            }
        } else if !is_running && run.started.elapsed() > Duration::from_secs(1 << run.seen.restarts.min(5)) {
            run.seen.restarts += 1;
            self.start_container(run, object);
        }
        if let Some(config) = config.filter(|config| text(&config["metadata"]["resourceVersion"]) != run.config) {
            run.mount(config);
        }
        if run.readiness.look(run.space.address, run.started).is_some() {
            run.seen.ready = run.readiness.failures == 0
                || run.seen.ready && run.readiness.failures < run.readiness.failures_allowed;
        }
        if run.liveness.look(run.space.address, run.started) == Some(false)
            && run.liveness.failures >= run.liveness.failures_allowed
            && run.ending.is_none()
        {
            run.process = None;
            run.seen.process = None;
            run.liveness.restart();
        }
        if !is_running {
            run.seen.ready = false;
        }
        let status = run.status();
        if run.reported.as_ref() != Some(&status)
            && self.api.try_set_status("Pod", NAMESPACE, &run.seen.name, &status).is_ok()
        {
            run.reported = Some(status);
        }
        true
    }
}

impl Run {
    /// Writes the files of the ConfigMap.
    fn mount(&mut self, config: &Value) {
        let files: Vec<(String, String)> = config["data"]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| *key == "Corefile")
            .map(|(key, value)| (key.clone(), text(value)))
            .collect();
        swap(&self.folder.join("config"), &files);
        self.config = text(&config["metadata"]["resourceVersion"]);
    }

    /// Returns the status to report.
    fn status(&self) -> Value {
        let condition = |kind: &str, is: bool| {
            let is = if is { "True" } else { "False" };
            json!({"type": kind, "status": is, "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let ready = self.seen.ready;
        let host = self.seen.node.space().address.to_string();
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        json!({
            "phase": "Running", "podIP": self.seen.address, "podIPs": [{"ip": self.seen.address}],
            "hostIP": host, "hostIPs": [{"ip": host}],
            "conditions": [
                condition("Initialized", true), condition("PodScheduled", true),
                condition("ContainersReady", ready), condition("Ready", ready),
            ],
            "containerStatuses": [{
                "name": "coredns", "image": self.seen.image, "imageID": self.seen.image, "ready": ready,
                "started": true, "restartCount": self.seen.restarts, "state": running,
            }],
        })
    }
}

impl Probe {
    /// Reads a probe of a container.
    fn of(container: &Value, field: &str) -> Probe {
        let probe = &container[field];
        let get = &probe["httpGet"];
        let port = match &get["port"] {
            Value::String(name) => {
                let ports = container["ports"].as_array();
                let port = ports.into_iter().flatten().find(|port| port["name"] == name.as_str());
                port.and_then(|port| port["containerPort"].as_u64()).expect("the port of a probe")
            }
            number => number.as_u64().expect("the port of a probe"),
        };
        let number = |field: &str, default: u64| probe[field].as_u64().unwrap_or(default);
        let seconds = |field: &str, default: u64| Duration::from_secs(number(field, default));
        Probe {
            port: u16::try_from(port).expect("a port"),
            path: text(&get["path"]),
            period: seconds("periodSeconds", 10),
            delay: seconds("initialDelaySeconds", 0),
            timeout: seconds("timeoutSeconds", 1),
            failures_allowed: number("failureThreshold", 3),
            failures: 0,
            next: Instant::now(),
            running: None,
        }
    }

    fn restart(&mut self) {
        self.failures = 0;
        self.next = Instant::now();
        self.running = None;
    }

    /// Starts the probe, if it is due; returns whether one has succeeded, when it has ended.
    fn look(&mut self, address: Ipv4Addr, started: Instant) -> Option<bool> {
        let now = Instant::now();
        if self.running.is_none() && now >= self.next && started.elapsed() >= self.delay {
            let (at, path, timeout) = (SocketAddr::from((address, self.port)), self.path.clone(), self.timeout);
            self.next = now + self.period;
            self.running = Some(std::thread::spawn(move || get(at, &path, timeout).is_some_and(|ok| ok)));
        }
        let succeeded = self.running.take_if(|probe| probe.is_finished())?.join().is_ok_and(|ok| ok);
        self.failures = if succeeded { 0 } else { self.failures + 1 };
        // As kubelet does, a starting container is probed sooner than by its period.
        if started.elapsed() < Duration::from_secs(20) && !succeeded {
            self.next = now + TICK * 4;
        }
        Some(succeeded)
    }
}

/// Requests a page; returns whether the status is a success.
pub fn get(at: SocketAddr, path: &str, timeout: Duration) -> Option<bool> {
    let mut stream = TcpStream::connect_timeout(&at, timeout).ok()?;
    stream.set_read_timeout(Some(timeout)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = [0; 12];
    stream.read_exact(&mut text).ok()?;
    Some(text.starts_with(b"HTTP/1.1 2") || text.starts_with(b"HTTP/1.0 2"))
}

/// Returns the program of an image.
fn program_of(image: &str) -> &'static str {
    match image.rsplit('/').next().and_then(|name| name.split(':').next()) {
        Some("clusterdns") => "clusterdns",
        Some("coredns") => "coredns",
        _ => panic!("an unknown image: {image}"),
    }
}

/// Copies the programs of the images to a directory and gives them their file capability, as the images do.
pub fn install(folder: &Path, programs: &[(&str, &Path)]) {
    std::fs::create_dir_all(folder).expect("a folder");
    for (name, program) in programs {
        let target = folder.join(name);
        std::fs::copy(program, &target).unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        output(std::process::Command::new("setcap").arg("cap_net_bind_service=+ep").arg(target));
    }
}

/// Replaces the files of a mounted folder as kubelet does: a new directory, and one renamed link.
fn swap(folder: &Path, files: &[(String, String)]) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let version = format!("..2026_01_01.{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let next = folder.join(&version);
    std::fs::create_dir(&next).expect("a folder");
    for (name, text) in files {
        std::fs::write(next.join(name), text).expect("a file");
        let link = folder.join(name);
        if link.symlink_metadata().is_err() {
            symlink(format!("..data/{name}"), link).expect("a link");
        }
    }
    let data = folder.join("..data");
    let old = std::fs::read_link(&data).ok();
    let temporary = folder.join("..data_tmp");
    symlink(&version, &temporary).expect("a link");
    std::fs::rename(&temporary, &data).expect("renamed");
    if let Some(old) = old {
        let _ = std::fs::remove_dir_all(folder.join(old));
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
