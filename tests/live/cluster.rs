//! The control plane of a cluster on loopback: etcd, the API server with RBAC and a certificate of its own authority,
//! and the controllers that create EndpointSlices, finalize namespaces and so on. Each part can be stopped, killed and
//! restarted. There is no kubelet: tests write the status of Pods.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::api::Api;
use super::certificates::{Authority, Files, write_key};
use super::process::Process;
use super::server::{Server, Software};
use super::wait::{LATER, eventually};
use super::{parts, ports};

/// The ServiceAccount of `deploy/base/rbac.yaml`, and its namespace.
pub const ACCOUNT: (&str, &str) = ("kube-system", "coredns");
/// The administrator's token.
const ADMIN: &str = "the-administrator";
/// The ranges of ClusterIPs, of both families.
const SERVICE_RANGE: &str = "10.96.0.0/15,fd00:10:96::/112";
/// The address of the Service `kubernetes`, the first one of the range.
pub const KUBERNETES: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// The controllers that every cluster has.
const CONTROLLERS: [&str; 4] = [
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "namespace-controller",
    "serviceaccount-controller",
];

/// A running cluster.
pub struct Cluster {
    folder: PathBuf,
    /// The address of the API server for Pods; loopback for a cluster without nodes.
    address: Ipv4Addr,
    controllers_run: Vec<&'static str>,
    etcd_port: u16,
    api_port: u16,
    /// The authority of the API server's certificate.
    authority: Authority,
    /// The authority of client certificates.
    clients: Authority,
    serving: Files,
    etcd: Option<Process>,
    api_server: Option<Process>,
    controllers: Option<Process>,
    /// The administrator's client.
    pub api: Api,
}

/// How a server under test connects to the API server; its files may change while it runs.
pub struct Access {
    pub kubeconfig: PathBuf,
    pub token: PathBuf,
    pub authority: PathBuf,
}

impl Cluster {
    /// Starts a cluster with the usual objects, and the ServiceAccount of `deploy/base/rbac.yaml`.
    pub fn start(folder: PathBuf) -> Cluster {
        Cluster::start_at(Ipv4Addr::LOCALHOST, &[], folder)
    }

    /// Starts a cluster with more controllers, whose API server is also reachable at an address of this machine, which
    /// it advertises as the endpoint of the Service `kubernetes`.
    pub fn start_at(address: Ipv4Addr, more: &[&'static str], folder: PathBuf) -> Cluster {
        std::fs::create_dir_all(&folder).expect("a folder");
        let authority = Authority::new("serving");
        let clients = Authority::new("clients");
        let serving = authority.server(&folder, "serving", &[address, KUBERNETES]);
        std::fs::write(folder.join("clients.crt"), clients.pem()).expect("a file");
        std::fs::write(folder.join("tokens.csv"), format!("{ADMIN},admin,admin,system:masters\n")).expect("a file");
        write_key(&folder.join("accounts.key"), &folder.join("accounts.pub"));
        let etcd_port = ports::free();
        let api_port = ports::free();
        let api = Api::new(api_port, authority.der(), ADMIN);
        let etcd = None;
        let api_server = None;
        let controllers = None;
        let controllers_run = [&CONTROLLERS, more].concat();
        let mut cluster = Cluster {
            folder,
            address,
            controllers_run,
            etcd_port,
            api_port,
            authority,
            clients,
            serving,
            etcd,
            api_server,
            controllers,
            api,
        };
        cluster.heal();
        cluster.apply_rbac();
        cluster
    }

    /// Applies `deploy/base/rbac.yaml`.
    pub fn apply_rbac(&self) {
        let text = include_str!("../../deploy/base/rbac.yaml");
        let objects: Vec<Value> = serde_saphyr::from_multiple(text).expect("deploy/base/rbac.yaml is YAML");
        for object in &objects {
            self.api.apply(object);
        }
    }

    /// Returns an access with the rights of the ServiceAccount.
    pub fn access(&self) -> Access {
        let (ns, account) = ACCOUNT;
        self.access_by(&self.api.token(ns, account))
    }

    /// Returns an access with all rights. An API server that has just started rejects others for a moment, until it has
    /// read the roles.
    pub fn unlimited_access(&self) -> Access {
        self.access_by(ADMIN)
    }

    fn access_by(&self, token: &str) -> Access {
        let folder = unique(&self.folder, "access");
        std::fs::create_dir_all(&folder).expect("a folder");
        let access = Access {
            kubeconfig: folder.join("kubeconfig"),
            token: folder.join("token"),
            authority: folder.join("ca.crt"),
        };
        replace(&access.token, token);
        replace(&access.authority, &self.authority.pem());
        let user = format!("tokenFile: {}", access.token.display());
        std::fs::write(&access.kubeconfig, self.kubeconfig(&access.authority, &user)).expect("a file");
        access
    }

    /// Replaces the token and the authority's certificate by the current ones.
    pub fn renew(&self, access: &Access) {
        let (ns, account) = ACCOUNT;
        replace(&access.token, &self.api.token(ns, account));
        replace(&access.authority, &self.authority.pem());
    }

    /// Returns a client with the current token of an access.
    pub fn client(&self, access: &Access) -> Api {
        Api::new(self.api_port, self.authority.der(), &std::fs::read_to_string(&access.token).expect("a token"))
    }

    /// Returns the URL of the API server.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port)
    }

    /// Creates a client certificate of the user `name`; also returns the file of the authority to trust.
    pub fn client_certificate(&self, name: &str) -> (Files, PathBuf) {
        let folder = unique(&self.folder, "client");
        std::fs::create_dir_all(&folder).expect("a folder");
        let authority = folder.join("ca.crt");
        std::fs::write(&authority, self.authority.pem()).expect("a file");
        (self.clients.client(name, &folder, "client"), authority)
    }

    /// Starts this server with the rights of the ServiceAccount. `$API` in the Corefile is replaced by the access to
    /// the API server, `$PORT` by a free port.
    pub fn serve(&self, corefile: &str) -> Server {
        self.serve_with(corefile, &self.access())
    }

    /// Like [`Cluster::serve`], with files that the test may change.
    pub fn serve_with(&self, corefile: &str, access: &Access) -> Server {
        let port = ports::free();
        let text = corefile.replace("$API", &format!("kubeconfig {}", access.kubeconfig.display()));
        Server::start(Software::Clusterdns, &text.replace("$PORT", &port.to_string()), port, self.folder())
    }

    /// Returns a directory for the files of a server.
    pub fn folder(&self) -> PathBuf {
        let folder = unique(&self.folder, "server");
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    /// Starts parts that do not run, and waits until all of them work.
    pub fn heal(&mut self) {
        self.start_etcd();
        self.launch_api_server();
        self.wait_until_ready();
        if !self.controllers.as_mut().is_some_and(Process::is_running) {
            self.start_controllers();
        }
    }

    //--- etcd

    /// Starts etcd, if it does not run.
    fn start_etcd(&mut self) {
        if self.etcd.as_mut().is_some_and(Process::is_running) {
            return;
        }
        let (client, peer) = (self.etcd_port, ports::free());
        let data = self.folder.join("etcd");
        let arguments = [
            format!("--data-dir={}", data.display()),
            "--unsafe-no-fsync".to_owned(),
            format!("--listen-client-urls=http://127.0.0.1:{client}"),
            format!("--advertise-client-urls=http://127.0.0.1:{client}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
        ];
        self.etcd = Some(Process::start(parts::path("etcd"), &arguments, self.folder.join("etcd.log")));
    }

    /// Kills it (`kill -9`).
    pub fn kill_etcd(&mut self) {
        self.etcd = None;
    }

    /// Copies the data of etcd, which is stopped meanwhile.
    pub fn snapshot(&mut self) -> PathBuf {
        if let Some(etcd) = self.etcd.take() {
            etcd.signal("TERM");
            etcd.wait();
        }
        let copy = unique(&self.folder, "snapshot");
        copy_folder(&self.folder.join("etcd"), &copy);
        self.heal();
        copy
    }

    /// Replaces the data of etcd by a copy, as a restore does: revisions go back. The API server is restarted, as
    /// Kubernetes demands after a restore.
    pub fn restore(&mut self, copy: &Path) {
        self.kill_api_server();
        self.kill_etcd();
        let data = self.folder.join("etcd");
        std::fs::remove_dir_all(&data).expect("the old data");
        copy_folder(copy, &data);
        self.heal();
    }

    //--- API server

    /// Starts the API server, if it does not run, without waiting.
    pub fn launch_api_server(&mut self) {
        if !self.api_server.as_mut().is_some_and(Process::is_running) {
            let file = |path: &Path| path.display().to_string();
            let on_loopback = self.address.is_loopback();
            let arguments = [
                format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
                format!("--secure-port={}", self.api_port),
                // Loopback is an address of both kinds of clusters; that of the tests' clients.
                format!("--bind-address={}", if on_loopback { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED }),
                format!("--advertise-address={}", self.address),
                // A loopback address cannot be an endpoint.
                format!("--endpoint-reconciler-type={}", if on_loopback { "none" } else { "lease" }),
                format!("--tls-cert-file={}", file(&self.serving.certificate)),
                format!("--tls-private-key-file={}", file(&self.serving.key)),
                format!("--client-ca-file={}", file(&self.folder.join("clients.crt"))),
                format!("--token-auth-file={}", file(&self.folder.join("tokens.csv"))),
                "--authorization-mode=RBAC".to_owned(),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                format!("--service-account-key-file={}", file(&self.folder.join("accounts.pub"))),
                format!("--service-account-signing-key-file={}", file(&self.folder.join("accounts.key"))),
                format!("--service-cluster-ip-range={SERVICE_RANGE}"),
                // Pods need no ServiceAccount here.
                "--disable-admission-plugins=ServiceAccount".to_owned(),
                "--max-requests-inflight=2000".to_owned(),
                "--max-mutating-requests-inflight=1000".to_owned(),
                "--profiling=false".to_owned(),
            ];
            let log = self.folder.join("api-server.log");
            self.api_server = Some(Process::start(parts::path("kube-apiserver"), &arguments, log));
        }
    }

    /// Kills it (`kill -9`) together with the controllers, which would reconnect much later.
    pub fn kill_api_server(&mut self) {
        self.controllers = None;
        self.api_server = None;
    }

    /// Kills it and starts it again.
    pub fn restart_api_server(&mut self) {
        self.kill_api_server();
        self.heal();
    }

    /// Pauses it: connections stay open, and nothing is sent.
    pub fn pause_api_server(&self) {
        self.api_server.as_ref().expect("it runs").signal("STOP");
    }

    /// Resumes it.
    pub fn resume_api_server(&self) {
        self.api_server.as_ref().expect("it runs").signal("CONT");
    }

    /// Restarts it with a certificate of a new authority.
    pub fn change_authority(&mut self) {
        self.kill_api_server();
        self.authority = Authority::new("serving, the next");
        self.serving = self.authority.server(&self.folder, "serving", &[self.address, KUBERNETES]);
        self.api = Api::new(self.api_port, self.authority.der(), ADMIN);
        self.heal();
    }

    /// Restarts it with a new key for tokens, so that earlier tokens are invalid.
    pub fn change_account_key(&mut self) {
        self.kill_api_server();
        write_key(&self.folder.join("accounts.key"), &self.folder.join("accounts.pub"));
        self.heal();
    }

    fn wait_until_ready(&mut self) {
        let api = self.api.clone();
        eventually("the API server is ready", LATER, || {
            for (name, part) in [("etcd", &mut self.etcd), ("the API server", &mut self.api_server)] {
                let part = part.as_mut().ok_or("not started")?;
                assert!(part.is_running(), "{name} has ended:\n{}", part.last_words());
            }
            api.text("/readyz").map_err(|refused| format!("{refused:?}"))
        });
    }

    //--- Controllers

    fn start_controllers(&mut self) {
        let authority = self.folder.join("ca.crt");
        std::fs::write(&authority, self.authority.pem()).expect("a file");
        let kubeconfig = self.folder.join("admin.kubeconfig");
        std::fs::write(&kubeconfig, self.kubeconfig(&authority, &format!("token: {ADMIN}"))).expect("a file");
        let arguments = [
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--service-account-private-key-file={}", self.folder.join("accounts.key").display()),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            format!("--controllers={}", self.controllers_run.join(",")),
            "--concurrent-namespace-syncs=4".to_owned(),
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
        ];
        let log = self.folder.join("controllers.log");
        self.controllers = Some(Process::start(parts::path("kube-controller-manager"), &arguments, log));
    }

    fn kubeconfig(&self, authority: &Path, user: &str) -> String {
        format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters:\n\
             - name: cluster\n\
             \x20 cluster:\n\
             \x20   server: {}\n\
             \x20   certificate-authority: {}\n\
             users:\n\
             - name: user\n\
             \x20 user:\n\
             \x20   {user}\n\
             contexts:\n\
             - name: context\n\
             \x20 context:\n\
             \x20   cluster: cluster\n\
             \x20   user: user\n\
             current-context: context\n",
            self.url(),
            authority.display()
        )
    }
}

/// Returns a path below a directory that was not used before.
fn unique(folder: &Path, name: &str) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    folder.join(format!("{}-{name}", COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// Replaces a file atomically, as kubelet does.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).expect("a file");
    std::fs::rename(&next, path).expect("renamed");
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}
