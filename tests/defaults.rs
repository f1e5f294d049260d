//! The Corefiles that distributions write, `tests/corefile/good`: those of kubeadm, kube-up, k3s, kops, Helm and EKS run
//! whole; of those of others it is told which directives are missing. Only ports are other ones than in a cluster, since a
//! test may not have them, and the cluster is that of `deploy/sample`.

mod running;

use std::net::SocketAddr;

use running::{Running, file, folder, get, run, told};

/// A distribution's Corefile on ports of a test's own.
fn moved(name: &str) -> (String, [u16; 3]) {
    let path = format!("{}/tests/corefile/good/{name}.corefile", env!("CARGO_MANIFEST_DIR"));
    let mut text = std::fs::read_to_string(path).expect("a Corefile");
    let pages: [u16; 3] = std::array::from_fn(|_| {
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("a port").port()
    });
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

#[test]
fn corefiles_of_kubeadm_kube_up_k3s_kops_helm_and_eks_run_whole() {
    let folder = folder("defaults");
    file(&folder, "resolv.conf", "nameserver 192.0.2.53\n");
    for name in ["kubeadm", "kube-up", "k3s", "kops", "helm", "eks"] {
        let (text, pages) = moved(name);
        let conf = file(&folder, name, &text);
        let mut server = Running::start(&["-conf", &conf, "-manifests", "deploy/sample"]);
        let [health, ready, metrics] = pages.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        assert_eq!(server.ask("db.data.svc.cluster.local.").0, 0, "{name}");
        assert_eq!(server.ask("none.data.svc.cluster.local.").0, 3, "{name}");
        assert_eq!((get(health, "/health").0, get(ready, "/ready").0), (200, 200), "{name}");
        let text = get(metrics, "/metrics").1;
        // Each line of the file is at work.
        for plugin in ["errors", "kubernetes", "forward", "cache", "loop", "loadbalance"] {
            let line = format!("coredns_plugin_enabled{{name=\"{plugin}\",");
            assert!(text.contains(&line), "{name}: {plugin}\n{text}");
        }
        // Without the time of lameduck.
        server.signal("-QUIT");
        assert_eq!(server.wait(), Some(0), "{name}");
    }
}

#[test]
fn of_other_corefiles_it_is_told_what_is_missing() {
    for (name, missing) in [
        ("aks", &["19:5 - Error during parsing: Unsupported directive 'template'", "24:5"][..]),
        ("gardener", &["6:3 - Error during parsing: Unsupported directive 'rewrite'"]),
        ("openshift", &[]),
        ("nodelocal", &[]),
    ] {
        let conf = format!("tests/corefile/good/{name}.corefile");
        let (status, text, _) = told(&run(&["-check", "-conf", &conf]));
        assert_eq!(status, Some(i32::from(!missing.is_empty())), "{text}");
        let errors: Vec<&str> = text.lines().filter(|line| line.contains(" - Error")).collect();
        assert_eq!(errors.len(), missing.len(), "{text}");
        for (error, missing) in errors.iter().zip(missing) {
            assert!(error.starts_with(&format!("{conf}:{missing}")), "{error}");
        }
    }
}
