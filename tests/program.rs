//! The program as a process: README's first command, messages, exit statuses, signals.

mod running;

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use running::{Running, TIMEOUT, file, folder, program, run, status_and_output};

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
fn sigint_and_sigquit_stop_it() {
    for signal in ["-INT", "-QUIT"] {
        let mut server = Running::start(&["-conf", "Corefile.example", "-manifests", "deploy/sample"]);
        server.signal(signal);
        assert_eq!(server.wait(), Some(0));
    }
}

/// Starts a server that waits for an API server, which accepts connections and does not respond. Returns the server and
/// its output from then on.
fn start_slowly(conf: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = program().args(["-conf", conf]).stdout(Stdio::piped()).spawn().expect("the program runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("waiting for Kubernetes API") {
        line.clear();
        assert!(lines.read_line(&mut line).expect("a line") > 0, "it has exited");
    }
    (child, lines)
}

fn kill(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill runs").success());
}

/// Without a handler, a process is killed by these signals, and process 1 does not get them.
#[test]
fn signals_are_handled_while_it_starts() {
    let unanswering = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let text = format!(
        ".:0 {{\n    bind 127.0.0.1\n    health 127.0.0.1:0 {{\n        lameduck 10m\n    }}\n    kubernetes cluster.local \
         {{\n        endpoint http://{}\n        startup_timeout 10m\n    }}\n}}\n",
        unanswering.local_addr().expect("an address")
    );
    let conf = file(&folder("starting"), "slow", &text);
    for (signal, line) in [
        ("-TERM", "[INFO] SIGTERM: Shutting down servers then terminating\n"),
        ("-INT", "[INFO] SIGINT: Shutting down\n"),
        ("-QUIT", "[INFO] SIGQUIT: Quitting process immediately\n"),
    ] {
        let (mut child, mut lines) = start_slowly(&conf);
        kill(&child, "-HUP");
        kill(&child, signal);
        let start = Instant::now();
        let status = loop {
            match child.try_wait().expect("a status") {
                Some(status) => break status,
                None if start.elapsed() > TIMEOUT => {
                    child.kill().expect("killed");
                    unreachable!("{signal} does not stop it");
                }
                None => std::thread::sleep(std::time::Duration::from_millis(5)),
            }
        };
        assert_eq!(status.code(), Some(0), "{signal}: {status}");
        let mut rest = String::new();
        lines.read_to_string(&mut rest).expect("text");
        assert!(rest.contains(line), "{signal}: {rest}");
    }
}

/// The reload reads the Corefile as it is after the start.
#[test]
fn a_reload_during_the_start_is_done_after_the_start() {
    let unanswering = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let port = running::port_free_everywhere();
    let text = |address: &str| {
        format!(
            ".:{port} {{\n    bind 127.0.0.1\n    hosts {{\n        {address} name.example\n        fallthrough\n    }}\n    \
             kubernetes cluster.local {{\n        endpoint http://{}\n        startup_timeout 1500ms\n    }}\n}}\n",
            unanswering.local_addr().expect("an address")
        )
    };
    let conf = file(&folder("starting"), "reload", &text("10.0.0.1"));
    let (mut child, mut lines) = start_slowly(&conf);
    file(&folder("starting"), "reload", &text("10.0.0.2"));
    kill(&child, "-USR1");
    let mut line = String::new();
    while !line.contains("Reloading complete") {
        line.clear();
        assert!(lines.read_line(&mut line).expect("a line") > 0, "it has exited");
    }
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    client.send_to(&running::upstream::query(7, "name.example."), ("127.0.0.1", port)).expect("sent");
    let mut answer = [0; 512];
    let len = client.recv(&mut answer).expect("an answer");
    assert_eq!(answer[len - 4..len], [10, 0, 0, 2]);
    child.kill().expect("killed");
    child.wait().expect("a status");
}

/// Without a Corefile, the manifests are served, and not *whoami*.
#[test]
fn manifests_are_served_without_a_corefile() {
    let server = Running::start(&["-manifests", "deploy/sample"]);
    assert!(server.lines.concat().contains("the manifests are served by the built-in Corefile"), "{:?}", server.lines);
    assert_eq!(server.ask("web.shop.svc.cluster.local."), (0, vec!["10.96.10.20".to_owned()]));
    assert_eq!(server.ask("web.nowhere.svc.cluster.local.").0, 3);
}

/// The built-in Corefile answers every name, so that a missing one is noticed in the log only.
#[test]
fn a_start_without_a_server_block_is_logged() {
    let empty = file(&folder("no-block"), "empty", "# nothing\n");
    let server = Running::start(&["-conf", &empty]);
    let lines = server.lines.concat();
    let message = format!("[WARNING] {empty} has no server block: 'whoami' and 'log' are served on port 0");
    assert!(lines.contains(&message), "{lines}");
}

/// A check reports with its place what a start would refuse: as an error, or as a warning if another machine may accept
/// it.
#[test]
fn a_check_reports_what_the_start_would_refuse() {
    let folder = folder("check-start");
    let empty = file(&folder, "empty", "# no server\n");
    let check = |name: &str, text: &str| {
        let conf = file(&folder, name, text);
        let (status, report, _) = status_and_output(&run(&["-check", &conf]));
        (status, report.lines().next().unwrap_or_default().replace(&conf, "C"))
    };
    for (name, lines, place, message) in [
        (
            "keylog",
            "tls a b {\n        keylog /nowhere/at/all\n    }",
            "C:3:16",
            "cannot write /nowhere/at/all: its directory does not exist",
        ),
        ("nul", "loadbalance weighted a\0b", "C:2:26", "invalid file name \"a\\0b\""),
        ("root", "root a\0b", "C:2:10", "invalid file name"),
        ("kubeconfig", "kubernetes {\n        kubeconfig a\0b\n    }", "C:3:20", "invalid file name"),
        (
            "multicluster",
            "kubernetes a {\n        multicluster a\n    }",
            "C:3:9",
            "Unsupported property 'multicluster'",
        ),
    ] {
        let (status, report) = check(name, &format!("a:53 {{\n    {lines}\n}}\n"));
        assert_eq!(status, Some(1), "{name}: {report}");
        assert!(report.starts_with(place) && report.contains(message), "{name}: {report}");
    }
    let (status, report) = check("shed", "tls://.:853 {\n    shed\n    tls a b\n}\n");
    assert_eq!(status, Some(1), "{report}");
    assert!(report.starts_with("C:2:5") && report.contains("only plain DNS server blocks are supported"), "{report}");
    for (name, lines, place, message) in [
        ("address", "bind 192.0.2.77", "C:2:5", "cannot listen on 192.0.2.77: no interface has this address"),
        ("forward", &format!("forward . {empty}"), "C:2:15", "names no server: queries fail until it does"),
        ("interface", "bind nosuch0", "C:2:10", "not a valid IP address or interface name: \"nosuch0\""),
        ("certificate", "tls /nowhere/a /nowhere/b", "C:2:5", "cannot read /nowhere/a"),
        ("weights", "loadbalance weighted /nowhere/w {\n        reload 0s\n    }", "C:2:5", "weight file open error"),
        ("authorities", "forward . 192.0.2.1 {\n        tls /nowhere/ca\n    }", "C:2:5", "cannot read /nowhere/ca"),
    ] {
        let (status, report) = check(name, &format!(".:53 {{\n    {lines}\n}}\n"));
        assert_eq!(status, Some(0), "{name}: {report}");
        assert!(
            report.starts_with(place) && report.contains("Warning") && report.contains(message),
            "{name}: {report}"
        );
    }
    let good = file(&folder, "good", "cluster.local {\n    kubernetes\n}\n");
    let (status, report, _) = status_and_output(&run(&["-check", "-manifests", "/nowhere", &good]));
    assert_eq!(status, Some(1));
    assert!(report.contains("manifests: /nowhere: no such file or directory"), "{report}");
}

/// N29: a value is one word; a variable that is not set is an empty word. Everything that CoreDNS 1.15.0 accepts is
/// accepted.
#[test]
fn variables_in_keys_and_arguments() {
    let folder = folder("variables");
    let check = |name: &str, text: &str| {
        let conf = file(&folder, name, text);
        let variables = [("Z", "z.example"), ("P", "1053"), ("HP", "8080"), ("T", "30"), ("B", "b.example c.example")];
        let resolvers = ("UP", "127.0.0.1:5301 127.0.0.1:5302");
        let output = program().args(["-check", &conf]).envs(variables).envs([resolvers]).output().expect("it runs");
        let (status, report, _) = status_and_output(&output);
        (status, report.replace(&conf, "C"))
    };
    for (name, text) in [
        ("key", "{$Z}:{$P} {\n    whoami\n}\n"),
        ("unset", "a.example {$MORE} {\n    whoami\n}\n"),
        ("one", "{$B} {\n    whoami\n}\n"),
        ("address", ". {\n    health :{$HP} # note\n    whoami\n}\n"),
        ("numbers", ". {\n    cache {$T} {\n        success {$T}00\n    }\n    whoami\n}\n"),
        ("zones", ". {\n    cache {$MORE}\n    acl {$MORE} {\n        block\n    }\n    whoami\n}\n"),
    ] {
        let (status, report) = check(name, text);
        assert_eq!(status, Some(0), "{name}: {report}");
        if text.contains("{$MORE}") {
            assert!(report.contains("Warning") && report.contains("MORE"), "an unset variable is reported: {report}");
        }
    }
    for (name, text, message) in [
        ("upstreams", ". {\n    forward . {$UP}\n}\n", "C:2:15"),
        ("class", ". {\n    log . {\n        class {$CLS}\n    }\n    whoami\n}\n", "C:3:15"),
        ("cluster", ". {\n    kubernetes {$CLS}\n}\n", "non-reverse zone name must be used"),
    ] {
        let (status, report) = check(name, text);
        assert_eq!(status, Some(1), "{name}: {report}");
        assert!(report.contains(message), "{name}: {report}");
    }
    // `{$B}` is one zone, whose name has a blank in it.
    let mut command = program();
    command.env("B", "b.example c.example");
    let conf =
        file(&folder, "blank", "{$B} {\n    bind 127.0.0.1\n    whoami\n}\n.:0 {\n    bind 127.0.0.1\n    whoami\n}\n");
    let server = Running::start_as(command, &["-conf", &conf]);
    assert!(
        server
            .lines
            .iter()
            .any(|line| line.starts_with("b.example\\ c.example.:") || line.starts_with("b.example c.example.:")),
        "{:?}",
        server.lines
    );
}

/// N32: queries to an address that has blocks of its own never reach those of all addresses, as in CoreDNS on Linux.
#[test]
fn a_bound_address_hides_the_blocks_of_all_addresses() {
    let conf = file(
        &folder("bound"),
        "Corefile",
        "org:0 {\n    hosts {\n        192.0.2.1 a.org\n    }\n}\n.:0 {\n    bind 127.0.0.1\n    hosts {\n        192.0.2.2 a.org\n    }\n}\n",
    );
    let text = std::fs::read_to_string(&conf).expect("a file");
    let port = running::port_free_everywhere();
    let conf = file(&folder("bound"), "Corefile", &text.replace(":0 {", &format!(":{port} {{")));
    let server = Running::start(&["-conf", &conf]);
    assert!(server.lines.concat().contains("never reach the block"), "{:?}", server.lines);
    let ask = |at: &str| {
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        client.send_to(&running::upstream::query(7, "a.org."), (at, port)).expect("sent");
        let mut answer = [0; 512];
        let len = client.recv(&mut answer).expect("an answer");
        answer[len - 1]
    };
    for _ in 0..8 {
        assert_eq!((ask("127.0.0.1"), ask("127.0.0.2")), (2, 1));
    }
}

/// N35: the name of an upstream is resolved at start. A failure is an error within seconds, also if the query leads
/// back to this server, which does not answer yet.
#[test]
fn an_upstream_whose_name_is_unknown_is_an_error_at_start() {
    let unanswering = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let at = unanswering.local_addr().expect("an address");
    let own = UdpSocket::bind("127.0.0.1:0").expect("a socket").local_addr().expect("an address");
    for (name, resolver) in [("unanswering", at), ("own", own)] {
        let text = format!(
            ".:{} {{\n    bind 127.0.0.1\n    forward . dns.consul.svc.cluster.local {{\n        resolver {resolver}\n    }}\n}}\n",
            own.port()
        );
        let conf = file(&folder("unknown"), name, &text);
        let start = Instant::now();
        let (status, _, errors) = status_and_output(&run(&["-conf", &conf]));
        assert_eq!(status, Some(1), "{errors}");
        let message = format!(
            "{conf}:3:5 - plugin/forward: failed to resolve \"dns.consul.svc.cluster.local.\": no addresses found: {resolver}"
        );
        assert!(errors.starts_with(&message), "{errors}");
        assert!(start.elapsed() < TIMEOUT, "{:?}", start.elapsed());
    }
}

/// The number of threads depends on the cores and not on the sockets.
#[test]
fn many_sockets_have_few_threads() {
    let conf = file(
        &folder("multisocket"),
        "Corefile",
        ".:0 {\n    bind 127.0.0.1\n    multisocket 64\n    hosts {\n        192.0.2.1 a.example\n    }\n}\n",
    );
    let server = Running::start(&["-conf", &conf]);
    let process = Path::new("/proc").join(server.child.id().to_string());
    let names = std::fs::read_dir(process.join("task")).expect("threads");
    let names = names.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    let workers = names.filter(|name| name.starts_with("udp-")).count();
    let cores = std::thread::available_parallelism().expect("cores").get();
    assert!((1..=cores).contains(&workers), "{workers} workers on {cores} cores");
    let sockets = std::fs::read_to_string("/proc/net/udp").expect("sockets");
    let port = format!("0100007F:{:04X} ", server.at.port());
    let sockets = sockets.lines().filter(|line| line.contains(&port)).count();
    assert!((64..64 + cores).contains(&sockets), "{sockets} sockets");
    // The kernel assigns each flow to one of the sockets, and every socket is served.
    for _ in 0..400 {
        assert_eq!(server.ask("a.example."), (0, vec!["192.0.2.1".to_owned()]));
    }
}

/// E08
#[test]
fn a_check_reports_everything_and_its_status() {
    let folder = folder("check");
    let good = file(&folder, "good", "cluster.local {\n    kubernetes\n}\n");
    assert_eq!(
        status_and_output(&run(&["-check", "-conf", &good])),
        (Some(0), format!("{good}: 0 errors, 0 warnings\n"), String::new())
    );
    let bad = file(
        &folder,
        "bad",
        ". {\n    whoam\n    kubernetes x {\n        pod insecure\n    }\n}\n.:53 {\n    whoami\n}\n",
    );
    let (status, text, _) = status_and_output(&run(&["-check", "-conf", &bad]));
    assert_eq!(status, Some(1));
    for part in ["did you mean 'whoami'?", "unknown property 'pod'", "it is already defined", "3 errors, 0 warnings"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // The file may follow the flags.
    assert_eq!(status_and_output(&run(&["-check", &bad])), (status, text, String::new()));
    assert_eq!(run(&["-check", &good]).status.code(), Some(0));
    // A check in the wrong directory must not pass.
    let output = program().current_dir(&folder).arg("-check").output().expect("it runs");
    let (status, text, _) = status_and_output(&output);
    assert_eq!(status, Some(1));
    assert!(text.contains("there is no file Corefile in this directory\n  expected: the name of the file"), "{text}");
    assert!(!text.contains("whoami") && text.ends_with("Corefile: 1 error, 0 warnings\n"), "{text}");
    let (status, json, _) = status_and_output(&run(&["-check=json", &bad]));
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
fn an_error_at_start_is_one_line() {
    let folder = folder("start");
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket").local_addr().expect("an address");
    let socket = UdpSocket::bind(taken).expect("the same again");
    let conf = file(&folder, "taken", &format!(".:{} {{\n    bind 127.0.0.1\n    whoami\n}}\n", taken.port()));
    let cluster = file(&folder, "cluster", "cluster.local:0 {\n    kubernetes\n}\n");
    let whoami = file(&folder, "whoami", ".:0 {\n    whoami\n}\n");
    let words = file(&folder, "words.txt", "just words\n");
    let folder_text = folder.display().to_string();
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
        (
            vec!["-conf", &cluster, "-manifests", &folder_text],
            format!("manifests: {folder_text}: no file in it is a manifest (*.yaml, *.yml or *.json)\n"),
        ),
        (
            vec!["-conf", &cluster, "-manifests", &words],
            format!("manifests: {words}: a document that is not a map is not an object of the API\n"),
        ),
        // No stanza serves them.
        (
            vec!["-conf", &whoami, "-manifests", "/nowhere"],
            "manifests: /nowhere: no such file or directory\n".to_owned(),
        ),
        (vec!["extra"], "extra command line arguments: [extra], write '-conf FILE' for a Corefile\n".to_owned()),
    ] {
        let (status, _, errors) = status_and_output(&run(&words));
        assert_eq!(status, Some(1), "{words:?}");
        assert!(errors.starts_with(&message), "{words:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
    // With JSON, this line is an object too.
    let (status, _, errors) = status_and_output(&run(&["-log-format=json", "-conf", "/nowhere/Corefile"]));
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
        let (status, _, errors) = status_and_output(&output);
        assert_eq!(status, Some(1), "{errors}");
        let start = format!("{conf}:2:3 - plugin/kubernetes: {message}");
        assert!(errors.starts_with(&start), "{errors}\nexpected {start}");
    }
}

#[test]
fn odd_words_and_closed_outputs_are_no_reason_to_panic() {
    let odd = OsString::from_vec(b"-conf=\xff".to_vec());
    let (status, _, errors) = status_and_output(&run(&[odd]));
    assert_eq!(status, Some(2));
    assert!(errors.starts_with("\"-conf=\\xFF\" is not UTF-8"), "{errors}");
    for word in ["-help", "-plugins", "-version", "-check"] {
        let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");
        let status = program().arg(word).stdout(full()).stderr(full()).status().expect("the program runs");
        assert_eq!(status.code(), Some(1), "{word}");
    }
}

#[test]
fn a_zone_that_is_no_name_is_an_error() {
    let folder = folder("zone");
    let zone = format!("aa.{}", "a.".repeat(126));
    let conf = file(&folder, "long", &format!("{zone}:0 {{\n    whoami\n}}\n"));
    let (status, text, _) = status_and_output(&run(&["-check", "-conf", &conf]));
    assert_eq!(status, Some(1));
    assert!(text.contains("specified zone is too long: 256 > 255"), "{text}");
}
