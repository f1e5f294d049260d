//! The program as it is started: README's first command, its messages and exit statuses, signals.

mod running;

use std::ffi::OsString;
use std::net::UdpSocket;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::Stdio;

use running::{Running, file, folder, program, run, told};

#[test]
fn readme_s_first_command_serves_the_sample_cluster() {
    let readme = include_str!("../README.md");
    assert!(readme.contains("-conf Corefile.example -dns.port 1053 -manifests deploy/sample"));
    let pidfile = folder("readme").join("pid").display().to_string();
    let mut server =
        Running::start(&["-conf", "Corefile.example", "-manifests", "deploy/sample", "-pidfile", &pidfile]);
    assert_eq!(server.ask("db.data.svc.cluster.local."), (0, vec!["10.244.3.10".to_owned(), "10.244.3.11".to_owned()]));
    assert_eq!(server.ask("web.shop.svc.cluster.local."), (0, vec!["10.96.10.20".to_owned()]));
    assert_eq!(server.ask("web.nowhere.svc.cluster.local.").0, 3);
    assert_eq!(std::fs::read_to_string(&pidfile).expect("a pidfile").trim(), server.child.id().to_string());
    for ignored in ["-HUP", "-USR1", "-USR2"] {
        server.signal(ignored);
    }
    assert_eq!(
        server.ask("registry.shop.svc.cluster.local."),
        (0, vec!["192.0.2.1".to_owned(), "registry.example.".to_owned()])
    );
    server.signal("-TERM");
    assert_eq!(server.wait(), Some(0));
    assert!(!Path::new(&pidfile).exists());
}

#[test]
fn an_interrupt_ends_it() {
    for signal in ["-INT", "-QUIT"] {
        let mut server = Running::start(&["-conf", "Corefile.example", "-manifests", "deploy/sample"]);
        server.signal(signal);
        assert_eq!(server.wait(), Some(0));
    }
}

/// E08.
#[test]
fn a_check_tells_everything_and_its_status() {
    let folder = folder("check");
    let good = file(&folder, "good", "cluster.local {\n    kubernetes\n}\n");
    assert_eq!(
        told(&run(&["-check", "-conf", &good])),
        (Some(0), format!("{good}: 0 errors, 0 warnings\n"), String::new())
    );
    let bad = file(
        &folder,
        "bad",
        ". {\n    whoam\n    kubernetes x {\n        pod insecure\n    }\n}\n.:53 {\n    whoami\n}\n",
    );
    let (status, text, _) = told(&run(&["-check", "-conf", &bad]));
    assert_eq!(status, Some(1));
    for part in ["did you mean 'whoami'?", "unknown property 'pod'", "it is already defined", "3 errors, 0 warnings"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // The file may stand behind the flags.
    assert_eq!(told(&run(&["-check", &bad])), (status, text, String::new()));
    assert_eq!(run(&["-check", &good]).status.code(), Some(0));
    let (status, json, _) = told(&run(&["-check=json", &bad]));
    let found: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((status, found.as_array().map(Vec::len)), (Some(1), Some(3)));
    assert_eq!((&found[0]["line"], &found[0]["suggestion"]), (&2.into(), &"whoami".into()));
}

#[test]
fn a_corefile_on_standard_input_is_read_whole_or_refused() {
    let folder = folder("stdin");
    let check = |text: &str| {
        let input = std::fs::File::open(file(&folder, "Corefile", text)).expect("a file");
        let output = program().args(["-check", "-conf", "stdin"]).stdin(input).output().expect("the program runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(check(". {\n    whoami\n}\n"), (Some(0), "stdin: 0 errors, 0 warnings\n".to_owned()));
    let (status, text) = check(&format!("{}. {{\n    whoami\n}}\n", " ".repeat(16 << 20)));
    assert_eq!(status, Some(1));
    assert!(text.starts_with("stdin:1:1 - Error during parsing: the configuration is longer than 16777216"), "{text}");
    assert!(text.ends_with("stdin: 1 error, 0 warnings\n"), "{text}");
}

#[test]
fn mistakes_of_the_start_are_one_line() {
    let folder = folder("start");
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket").local_addr().expect("an address");
    let socket = UdpSocket::bind(taken).expect("the same again");
    let conf = file(&folder, "taken", &format!(".:{} {{\n    bind 127.0.0.1\n    whoami\n}}\n", taken.port()));
    let cluster = file(&folder, "cluster", "cluster.local:0 {\n    kubernetes\n}\n");
    for (words, message) in [
        (vec!["-conf", &conf], format!("listen udp {taken}: address already in use\n")),
        (
            vec!["-conf", "/nowhere/Corefile"],
            "cannot read the Corefile '/nowhere/Corefile': No such file or directory".to_owned(),
        ),
        (
            vec!["-conf", &cluster, "-manifests", "/nowhere"],
            "manifests: /nowhere: no such file or directory\n".to_owned(),
        ),
        (vec!["extra"], "extra command line arguments: [extra]\n".to_owned()),
    ] {
        let (status, _, errors) = told(&run(&words));
        assert_eq!(status, Some(1), "{words:?}");
        assert!(errors.starts_with(&message), "{words:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
    // As everything else is told where lines are objects.
    let (status, _, errors) = told(&run(&["-log-format=json", "-conf", "/nowhere/Corefile"]));
    let line: serde_json::Value = serde_json::from_str(&errors).expect("an object");
    assert_eq!((status, &line["level"]), (Some(1), &"FATAL".into()));
    assert!(line["msg"].as_str().is_some_and(|text| text.starts_with("cannot read the Corefile")), "{errors}");
    drop(socket);
}

#[test]
fn an_api_server_that_cannot_be_reached_as_configured_is_an_error_with_its_place() {
    let folder = folder("api");
    for (name, properties, message) in [
        ("pod", "", "not in a Pod with a ServiceAccount token"),
        ("kubeconfig", "kubeconfig /nowhere/config", "kubeconfig /nowhere/config: failed to read kubeconfig"),
        ("url", "endpoint https://a!b:6443", "endpoint \"https://a!b:6443\" is not a URL"),
        ("scheme", "endpoint ftp://10.0.0.1", "endpoint \"ftp://10.0.0.1\" is not a URL: neither http nor https"),
        ("tls", "endpoint https://127.0.0.1:1\n tls /nowhere/cert key ca", "tls /nowhere/cert: No such file"),
    ] {
        let conf = file(&folder, name, &format!(". {{\n  kubernetes cluster.local {{\n {properties}\n }}\n}}\n"));
        let output = program().args(["-conf", &conf]).env_remove("KUBERNETES_SERVICE_HOST").output().expect("it runs");
        let (status, _, errors) = told(&output);
        assert_eq!(status, Some(1), "{errors}");
        let start = format!("{conf}:2:3 - plugin/kubernetes: {message}");
        assert!(errors.starts_with(&start), "{errors}\nexpected {start}");
    }
}

#[test]
fn odd_words_and_closed_outputs_are_no_reason_to_panic() {
    let odd = OsString::from_vec(b"-conf=\xff".to_vec());
    let (status, _, errors) = told(&run(&[odd]));
    assert_eq!(status, Some(2));
    assert!(errors.starts_with("\"-conf=\\xFF\" is not UTF-8"), "{errors}");
    for word in ["-help", "-plugins", "-version", "-check"] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");
        let status = program().arg(word).stdout(full).stderr(Stdio::null()).status().expect("the program runs");
        assert_eq!(status.code(), Some(0), "{word}");
    }
}

#[test]
fn a_zone_that_is_no_name_is_an_error() {
    let folder = folder("zone");
    let zone = format!("aa.{}", "a.".repeat(126));
    let conf = file(&folder, "long", &format!("{zone}:0 {{\n    whoami\n}}\n"));
    let (status, text, _) = told(&run(&["-check", "-conf", &conf]));
    assert_eq!(status, Some(1));
    assert!(text.contains("specified zone is too long: 256 > 255"), "{text}");
}
