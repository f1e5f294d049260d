//! kube-proxy on the two nodes.

use std::path::Path;
use std::process::Command;

use super::live::parts;
use super::live::process::Process;
use super::machine::{find, output};
use super::net::Node;

/// How kube-proxy translates addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Iptables,
    Nftables,
    /// Needs a module of the kernel.
    Ipvs,
}

/// Removes the rules of all modes, and the flows that they have made.
const CLEANUP: &str = r#"
if iptables-save | grep -q KUBE; then
  for table in nat filter mangle; do iptables -t $table -F; iptables -t $table -X; done
fi
nft delete table ip kube-proxy 2>/dev/null
nft delete table ip6 kube-proxy 2>/dev/null
if ip link show kube-ipvs0 >/dev/null 2>&1; then "$1" --cleanup; fi
conntrack -F 2>/dev/null
true"#;

/// kube-proxy on both nodes; dropping it stops it and removes its rules.
pub struct Proxy {
    processes: Vec<Process>,
    pub mode: Mode,
}

impl Mode {
    /// Returns its name for kube-proxy.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Iptables => "iptables",
            Mode::Nftables => "nftables",
            Mode::Ipvs => "ipvs",
        }
    }

    /// Returns why this machine cannot have the mode, if it cannot.
    pub fn missing(self) -> Option<String> {
        if self != Mode::Ipvs {
            return None;
        }
        // Loads the module if it is not there yet; without modprobe, it may be part of the kernel.
        let _ = Command::new("modprobe").arg("ip_vs").output();
        if !Path::new("/proc/net/ip_vs").exists() {
            return Some("not tried: the kernel has no ip_vs".to_owned());
        }
        find("ipset").is_none().then(|| "not tried: apt-get install ipset".to_owned())
    }
}

impl Proxy {
    /// Starts it.
    pub fn start(mode: Mode, kubeconfig: &Path, folder: &Path) -> Proxy {
        let processes = Node::ALL.map(|node| {
            let program = parts::path("kube-proxy").display();
            let arguments = [
                format!("--net={}", node.space().file()),
                "--".to_owned(),
                program.to_string(),
                format!("--proxy-mode={}", mode.name()),
                format!("--kubeconfig={}", kubeconfig.display()),
                format!("--hostname-override={}", node.name()),
                "--cluster-cidr=10.244.0.0/16".to_owned(),
                // Settings of the machine, not of the namespace.
                "--conntrack-max-per-core=0".to_owned(),
                "--conntrack-tcp-timeout-established=0".to_owned(),
                "--conntrack-tcp-timeout-close-wait=0".to_owned(),
            ];
            let log = folder.join(format!("kube-proxy-{}.log", node.name()));
            Process::start(&find("nsenter").expect("checked at the start"), &arguments, log)
        });
        Proxy { processes: processes.into(), mode }
    }

    /// Returns the last lines of its logs, for a message.
    pub fn last_words(&self) -> String {
        self.processes.iter().map(Process::last_words).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.processes.clear();
        for node in Node::ALL {
            output(node.space().command("sh").args(["-c", CLEANUP, "cleanup"]).arg(parts::path("kube-proxy")));
        }
    }
}
