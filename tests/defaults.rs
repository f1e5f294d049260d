//! The Corefiles of distributions, `tests/corefile/good`: those of kubeadm, kube-up, k3s, kops, Helm, EKS, AKS,
//! OpenShift and NodeLocal DNSCache run unchanged except for ports, which a test may not bind; for the others, `-check`
//! reports which directives are missing. The cluster is that of `deploy/sample`.

mod running;

use std::net::SocketAddr;

use running::{Running, file, folder, get, run, status_and_output};

/// Returns a distribution's Corefile with free ports.
fn with_free_ports(name: &str) -> (String, [u16; 3]) {
    let path = format!("{}/tests/corefile/good/{name}.corefile", env!("CARGO_MANIFEST_DIR"));
    let mut text = std::fs::read_to_string(path).expect("a Corefile");
    let pages = free_ports();
    for (of, to) in [
        (".:53 {", ".:0 {".to_owned()),
        ("    health", format!("    health 127.0.0.1:{}", pages[0])),
        ("    ready", format!("    ready 127.0.0.1:{}", pages[1])),
        (if name == "helm" { "0.0.0.0:9153" } else { " :9153" }, format!(" 127.0.0.1:{}", pages[2])),
        // A machine that runs tests may have no resolver.
        ("/etc/resolv.conf", format!("{}/resolv.conf", folder("defaults").display())),
    ] {
        assert_eq!(text.matches(of).count(), 1, "{name}: {of}");
        text = text.replace(of, &to);
    }
    (text, pages)
}

/// Returns free ports.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let sockets = [(); COUNT].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a socket"));
    sockets.map(|socket| socket.local_addr().expect("an address").port())
}

#[test]
fn corefiles_of_kubeadm_kube_up_k3s_kops_helm_eks_and_aks_run_whole() {
    let folder = folder("defaults");
    file(&folder, "resolv.conf", "nameserver 192.0.2.53\n");
    for name in ["kubeadm", "kube-up", "k3s", "kops", "helm", "eks", "aks"] {
        let (text, pages) = with_free_ports(name);
        let conf = file(&folder, name, &text);
        let mut server = Running::start(&["-conf", &conf, "-manifests", "deploy/sample"]);
        let [health, ready, metrics] = pages.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        assert_eq!(server.ask("db.data.svc.cluster.local.").0, 0, "{name}");
        assert_eq!(server.ask("none.data.svc.cluster.local.").0, 3, "{name}");
        assert_eq!((get(health, "/health").0, get(ready, "/ready").0), (200, 200), "{name}");
        let text = get(metrics, "/metrics").1;
        // Each directive of the file is enabled.
        for plugin in ["errors", "kubernetes", "forward", "cache", "loop", "loadbalance"] {
            let line = format!("coredns_plugin_enabled{{name=\"{plugin}\",");
            assert!(text.contains(&line), "{name}: {plugin}\n{text}");
        }
        if name == "aks" {
            assert_eq!(server.ask("www.reddog.microsoft.com.").0, 3);
            assert_eq!(server.ask("a.b.c.d.internal.cloudapp.net.").0, 3);
        }
        // Without lameduck.
        server.signal("-QUIT");
        assert_eq!(server.wait(), Some(0), "{name}");
    }
}

/// Corefiles with several blocks, on different ports or addresses.
#[test]
fn corefiles_of_openshift_and_nodelocal_run_whole() {
    let folder = folder("defaults");
    let resolvers = file(&folder, "resolv.conf", "nameserver 192.0.2.53\n");
    for name in ["openshift", "nodelocal"] {
        let text = std::fs::read_to_string(format!("tests/corefile/good/{name}.corefile")).expect("a Corefile");
        let [dns, health, ready, metrics] = free_ports();
        let mut text = text.replace("/etc/resolv.conf", &resolvers);
        for (of, to) in [
            (":5353 {", format!(":{dns} {{")),
            (":53 {", format!(":{dns} {{")),
            ("bind 169.254.20.10 10.96.0.10", "bind 127.0.0.1 127.0.0.2".to_owned()),
            ("    health {", format!("    health 127.0.0.1:{health} {{")),
            ("health 169.254.20.10:8080", format!("health 127.0.0.1:{health}")),
            ("    ready", format!("    ready 127.0.0.1:{ready}")),
            ("127.0.0.1:9153", format!("127.0.0.1:{metrics}")),
            ("prometheus :9253", format!("prometheus 127.0.0.1:{metrics}")),
        ] {
            text = text.replace(of, &to);
        }
        let mut server = Running::start(&["-conf", &file(&folder, name, &text), "-manifests", "deploy/sample"]);
        let page = |port: u16, path| get(SocketAddr::from(([127, 0, 0, 1], port)), path);
        assert_eq!(page(health, "/health").0, 200, "{name}");
        if name == "openshift" {
            assert_eq!(server.ask("db.data.svc.cluster.local.").0, 0);
            assert_eq!(page(ready, "/ready").0, 200);
        }
        let text = page(metrics, "/metrics").1;
        let zones = if name == "openshift" {
            &["corp.example.com.", "."][..]
        } else {
            &["cluster.local.", "in-addr.arpa.", "."]
        };
        for zone in zones {
            for plugin in ["errors", "forward", "cache"] {
                let line = |line: &&str| {
                    line.contains(&format!("name=\"{plugin}\"")) && line.contains(&format!("zone=\"{zone}\""))
                };
                assert!(text.lines().find(line).is_some(), "{name}: {plugin} of {zone}\n{text}");
            }
        }
        // Without lameduck.
        server.signal("-QUIT");
        assert_eq!(server.wait(), Some(0), "{name}");
    }
}

#[test]
fn corefiles_of_other_clusters_have_no_errors() {
    for name in ["gardener", "openshift", "nodelocal"] {
        let conf = format!("tests/corefile/good/{name}.corefile");
        let (status, text, _) = status_and_output(&run(&["-check", "-conf", &conf]));
        assert_eq!(status, Some(0), "{text}");
        assert!(
            text.ends_with(&format!("{conf}: 0 errors, {} warnings\n", text.matches(" - Warning").count())),
            "{text}"
        );
    }
}

/// A directive that is not implemented is an error, in `-check` and at start.
#[test]
fn a_missing_directive_is_an_error() {
    let folder = folder("missing");
    let conf = file(&folder, "Corefile", "example.org {\n    dnssec\n    whoami\n}\n");
    let message = format!("{conf}:2:5 - Error during parsing: Unsupported directive 'dnssec'");
    let (status, text, _) = status_and_output(&run(&["-check", "-conf", &conf]));
    assert_eq!(status, Some(1), "{text}");
    assert!(text.starts_with(&message), "{text}");
    let (status, _, errors) = status_and_output(&run(&["-conf", &conf]));
    assert_eq!(status, Some(1), "{errors}");
    assert!(errors.contains(&message), "{errors}");
}
