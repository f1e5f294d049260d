//! A cluster of two nodes with its DNS, as its Pods see it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};

use super::kubelet::{self, Kubelet, Seen, Setup};
use super::live::cluster::Cluster;
use super::live::objects::{service, slice};
use super::live::process::Process;
use super::live::wait::{LATER, SOON, eventually};
use super::live::{parts, shop};
use super::machine::{find, output};
use super::names;
use super::net::{CONTROL, Layout, Net, Node, RESOLVER, Space};
use super::proxy::{Mode, Proxy};

/// The address of the Service `kube-dns`.
pub const VIP: &str = "10.96.0.10";
/// The image of this server, as `deploy/base` has it.
pub const OURS: &str = "ghcr.io/clusterdns/clusterdns";
/// CoreDNS's image.
pub const COREDNS: &str = "registry.k8s.io/coredns/coredns:v1.15.0";
/// The search list of the nodes.
const NODE_DOMAIN: &str = "corp.example";

/// The cluster. Fields are dropped in order.
pub struct World {
    pub kubelet: Kubelet,
    pub proxy: Option<Proxy>,
    /// The resolver of the nodes.
    _resolver: Process,
    pub cluster: Cluster,
    pub net: Arc<Net>,
    pub folder: PathBuf,
    kubeconfig: PathBuf,
    /// A Pod of the namespace `shop` on each node.
    pub clients: [Space; 2],
}

impl World {
    /// Starts everything, with the manifests of `deploy/base`.
    pub fn start(layout: Layout, folder: PathBuf) -> World {
        std::fs::create_dir_all(&folder).expect("a folder");
        let net = Arc::new(Net::up(layout));
        let resolver = start_resolver(&folder);
        let more = ["deployment-controller", "replicaset-controller", "disruption-controller"];
        let cluster = Cluster::start_at(CONTROL, &more, folder.join("cluster"));
        shop::open(&cluster.api);
        // For gRPC.
        let ports = [("grpclb", 8080, "TCP")];
        let spec = json!({"clusterIP": "10.96.10.60", "selector": {"app": "none"}});
        cluster.api.apply(&service("shop", "balanced", &ports, &spec));
        // More than a UDP response may have.
        cluster.api.apply(&service("lab", "huge", &[("http", 80, "TCP")], &json!({"clusterIP": "None"})));
        let endpoints: Value = names::huge().iter().map(|address| json!({"addresses": [address]})).collect();
        cluster.api.apply(&slice("lab", "huge", "huge-1", "IPv4", &endpoints, &[("http", 8080, "TCP")]));
        for node in Node::ALL {
            let address = node.space().address;
            let addresses = json!([{"type": "InternalIP", "address": address}]);
            let conditions = json!([{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
                "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
            let status = json!({"addresses": addresses, "conditions": conditions});
            cluster.api.set_status("Node", "", node.name(), &status);
        }
        let programs = folder.join("programs");
        let ours = Path::new(env!("CARGO_BIN_EXE_clusterdns"));
        let confine = super::machine::shared().join("confine");
        kubelet::install(
            &programs,
            &[("clusterdns", ours), ("coredns", parts::path("coredns")), ("confine", &confine)],
        );
        super::seccomp::write_list(&programs.join("seccomp.list"));
        let pods = folder.join("pods");
        let access = cluster.unlimited_access();
        let kubelet = Kubelet::start(Setup {
            api: cluster.api.clone(),
            authority: std::fs::read_to_string(&access.authority).expect("a file"),
            programs,
            folder: pods,
            resolv_conf: node_resolv_conf(),
            net: net.clone(),
        });
        // With the API server's address for nodes.
        let kubeconfig = access.kubeconfig;
        let text = std::fs::read_to_string(&kubeconfig).expect("a file");
        std::fs::write(&kubeconfig, text.replace("127.0.0.1", &CONTROL.to_string())).expect("a file");
        let clients = Node::ALL.map(|node| net.pod(node, &format!("client-{}", node.name())));
        let mut world = World { kubelet, proxy: None, _resolver: resolver, cluster, net, folder, kubeconfig, clients };
        // It stands for the DNS of a cluster without nodes.
        world.cluster.api.delete("Pod", "kube-system", "dns-0").expect("deleted");
        let objects = world.kubectl(&["kustomize", "deploy/base"], "");
        world.kubectl(&["apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-"], &objects);
        world.set_proxy(Mode::Iptables);
        world.wait_for_rollout();
        world.wait_for_dns();
        world
    }

    /// Replaces kube-proxy by one with another mode.
    pub fn set_proxy(&mut self, mode: Mode) {
        self.proxy = None;
        self.proxy = Some(Proxy::start(mode, &self.kubeconfig, &self.folder));
    }

    /// Returns the mode of kube-proxy.
    pub fn mode(&self) -> Mode {
        self.proxy.as_ref().expect("started").mode
    }

    /// Runs kubectl with an input; returns its output.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        self.try_kubectl(arguments, input).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// Runs kubectl with an input; returns its output, or its error.
    pub fn try_kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let file = self.folder.join("kubectl-input");
        std::fs::write(&file, input).expect("a file");
        let mut command = Command::new(parts::path("kubectl"));
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = command.stdin(std::fs::File::open(&file).expect("a file")).output().expect("kubectl runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Returns the Deployment.
    pub fn deployment(&self) -> Value {
        let text = self.kubectl(&["get", "-n", "kube-system", "deployment", "coredns", "-o", "json"], "");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Waits until the Deployment has all its Pods, of the newest template, ready, and no others.
    pub fn wait_for_rollout(&self) {
        eventually("the Deployment is rolled out", LATER, || {
            let deployment = self.deployment();
            let (spec, status) = (&deployment["spec"], &deployment["status"]);
            let observed = status["observedGeneration"] == deployment["metadata"]["generation"];
            let all = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"]
                .iter()
                .all(|field| status[field] == spec["replicas"]);
            let pods = self.kubelet.pods();
            let gone = pods.len() as u64 == spec["replicas"].as_u64().unwrap_or(1);
            if observed && all && gone { Ok(()) } else { Err(format!("{status}\n{}", self.report())) }
        });
    }

    /// Waits until the Service answers both Pods, over both transports.
    pub fn wait_for_dns(&self) {
        for client in &self.clients {
            for tcp in ["+notcp", "+tcp"] {
                eventually("the virtual address answers", SOON, || {
                    let question = ["+short", "+tries=1", "+time=1", tcp, "web.shop.svc.cluster.local"];
                    let output = client.command("dig").arg(format!("@{VIP}")).args(question).output();
                    let output = String::from_utf8_lossy(&output.expect("dig runs").stdout).into_owned();
                    if output.trim() == "10.96.10.20" { Ok(()) } else { Err(format!("{output}\n{}", self.report())) }
                });
            }
        }
    }

    /// Returns the Pods of the server and the ends of their logs, for a message.
    pub fn report(&self) -> String {
        let pods = self.kubelet.pods();
        let tail = |pod: &Seen| {
            let log = pod.log();
            let lines: Vec<&str> = log.lines().collect();
            format!("{pod:?}\n{}", lines[lines.len().saturating_sub(8)..].join("\n"))
        };
        let pods = pods.iter().map(tail).collect::<Vec<_>>().join("\n");
        format!("{pods}\n{}", self.proxy.as_ref().map(Proxy::last_words).unwrap_or_default())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.clients.iter().for_each(Space::remove);
    }
}

/// Returns the resolv.conf of the nodes.
pub fn node_resolv_conf() -> String {
    format!("nameserver {RESOLVER}\nsearch {NODE_DOMAIN}\n")
}

/// Starts the resolver of the nodes. It knows some external names; all others do not exist.
fn start_resolver(folder: &Path) -> Process {
    let conf = folder.join("unbound.conf");
    let shown = folder.display();
    let mut text = format!(
        "server:\n  interface: {RESOLVER}@53\n  do-daemonize: no\n  chroot: \"\"\n  username: \"\"\n\
         \x20 pidfile: {shown}/unbound.pid\n  directory: {shown}\n  use-syslog: no\n  module-config: iterator\n\
         \x20 access-control: 0.0.0.0/0 allow\n  local-zone: . static\n\
         \x20 local-data: \". 60 SOA ns.example. host.example. 1 3600 600 86400 60\"\n"
    );
    for record in names::EXTERNAL {
        text += &format!("  local-data: '{record}'\n");
    }
    for number in 1..=names::MANY_OUTSIDE {
        text += &format!("  local-data: 'many.example.org. 60 A 198.18.0.{number}'\n");
    }
    std::fs::write(&conf, text).expect("a file");
    let arguments = ["-d".to_owned(), "-c".to_owned(), conf.display().to_string()];
    let program = find("unbound").expect("checked at the start");
    let process = Process::start(&program, &arguments, folder.join("unbound.log"));
    eventually("the resolver of the nodes answers", SOON, || {
        let question = [&format!("@{RESOLVER}"), "+short", "+tries=1", "+time=1", "www.example.org"];
        let answer = Command::new("dig").args(question).output().expect("dig runs");
        if answer.stdout.starts_with(b"192.0.2.80") { Ok(()) } else { Err(process.last_words()) }
    });
    process
}

/// Runs a command in a namespace; an error fails the test.
pub fn at(space: &Space, line: &str) -> String {
    let mut words = line.split(' ');
    output(space.command(words.next().expect("a program")).args(words))
}
