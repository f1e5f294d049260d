//! Certificates of listeners and of clients: reloads, what a client must prove, and errors at start.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::running::{Running, TIMEOUT, file, get, run, status_and_output};
use super::{Trust, port, prefixed, query, read_prefixed, run_client};

/// Returns whether a listener has a certificate for a name.
fn has_certificate_for(trust: &Trust, at: SocketAddr, name: &str) -> bool {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let session = ClientConnection::new(Arc::new(trust.client(&[])), name).expect("a session");
    let socket = TcpStream::connect_timeout(&at, TIMEOUT).expect("connected");
    socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    let mut stream = StreamOwned::new(session, socket);
    stream.write_all(&prefixed(&query(1, "a.example"))).is_ok() && read_prefixed(&mut stream).is_ok()
}

#[test]
fn a_reload_uses_a_new_certificate_and_an_invalid_one_changes_nothing() {
    let trust = Trust::new("reload");
    let server = trust.start("tls://.:0 https://.:0", "prometheus 127.0.0.1:0\n    whoami");
    // Port 0 would be another port after the reload.
    let tls = port(&server, "tls");
    let conf = trust.path("Corefile");
    drop(server);
    let keys = format!("tls://.:{}", tls.port());
    std::fs::write(&conf, trust.corefile(&keys, "prometheus 127.0.0.1:0\n    whoami")).expect("a file");
    let server = Running::start(&["-conf", &conf]);
    let metrics = server.page("prometheus");
    assert!(has_certificate_for(&trust, tls, "dns.example"));
    let failed = || {
        let text = get(metrics, "/metrics").1;
        let line = text.lines().find_map(|line| line.strip_prefix("coredns_reload_failed_total "));
        line.and_then(|count| count.parse::<u32>().ok()).expect("a count")
    };
    let eventually = |what: &str, holds: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < TIMEOUT, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    std::fs::write(trust.path("cert.pem"), "junk").expect("a file");
    server.signal("-USR1");
    eventually("it fails", &|| failed() == 1);
    assert!(has_certificate_for(&trust, tls, "dns.example"));
    trust.sign("other.example");
    server.signal("-USR1");
    eventually("the other certificate is in use", &|| has_certificate_for(&trust, tls, "other.example"));
    // It is also used without a reload.
    trust.sign("third.example");
    eventually("the third certificate is in use", &|| has_certificate_for(&trust, tls, "third.example"));
}

#[test]
fn clients_need_certificates_as_the_corefile_requires() {
    let trust = Trust::new("clients");
    let authority = trust.path("ca.pem");
    let certificate = trust.path("cert.pem");
    let key = trust.path("key.pem");
    let conf = |auth: &str, authority: &str| {
        format!(
            "tls://.:0 .:0 {{\n    bind 127.0.0.1\n    tls {certificate} {key} {authority} {{\n        client_auth {auth}\n    }}\n    whoami\n}}\n"
        )
    };
    for (auth, without, with) in [
        ("nocert", true, true),
        ("request", true, true),
        ("require", false, true),
        ("verify_if_given", true, true),
        ("require_and_verify", false, true),
    ] {
        let conf = file(&trust.folder, "Clients", &conf(auth, &authority));
        let server = Running::start(&["-conf", &conf]);
        let at = port(&server, "tls").port().to_string();
        let ca = format!("+tls-ca={authority}");
        let words = ["+short", "+tls", &ca, "+tls-hostname=dns.example", "@127.0.0.1", "-p", &at, "a.example"];
        let is_answered = |more: &[&str]| {
            let text = run_client("kdig", &[&words[..], &["+noshort", "+noall", "+header"], more].concat())?;
            Some(text.contains("NOERROR"))
        };
        let certificate = format!("+tls-certfile={certificate}");
        let key = format!("+tls-keyfile={key}");
        if let (Some(plain), Some(known)) = (is_answered(&[]), is_answered(&[&certificate, &key])) {
            assert_eq!((plain, known), (without, with), "{auth}");
        }
    }
}

/// A self-signed certificate is often marked as an authority's; Go accepts it if it is in the file.
#[test]
fn a_self_signed_certificate_of_a_client_is_accepted_if_it_is_in_the_file() {
    let trust = Trust::new("self-signed");
    let client = || {
        let mut params = CertificateParams::default();
        let key = KeyPair::generate().expect("a key");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.self_signed(&key).expect("a certificate"), key)
    };
    let (known, unknown) = (client(), client());
    let certificate = trust.path("cert.pem");
    let key = trust.path("key.pem");
    let clients = file(&trust.folder, "clients.pem", &known.0.pem());
    let conf = format!(
        "tls://.:0 .:0 {{\n    bind 127.0.0.1\n    tls {certificate} {key} {clients} {{\n        client_auth \
         require_and_verify\n    }}\n    whoami\n}}\n"
    );
    let conf = file(&trust.folder, "SelfSigned", &conf);
    let server = Running::start(&["-conf", &conf]);
    let at = port(&server, "tls");
    let is_answered = |(certificate, key): &(rcgen::Certificate, KeyPair)| {
        let mut roots = RootCertStore::empty();
        roots.add(trust.authority.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate.der().clone()], key)
            .expect("a certificate");
        let name = ServerName::try_from("dns.example").expect("a name");
        let session = ClientConnection::new(Arc::new(config), name).expect("a session");
        let socket = TcpStream::connect_timeout(&at, TIMEOUT).expect("connected");
        socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        let mut stream = StreamOwned::new(session, socket);
        stream.write_all(&prefixed(&query(1, "a.example"))).is_ok() && read_prefixed(&mut stream).is_ok()
    };
    assert!(is_answered(&known));
    assert!(!is_answered(&unknown));
}

#[test]
fn errors_of_certificates_are_reported_at_start() {
    let trust = Trust::new("wrong");
    let write = |text: &str| file(&trust.folder, "Wrong", text);
    let certificate = trust.path("cert.pem");
    let key = trust.path("key.pem");
    let none = trust.path("none.pem");
    let empty = file(&trust.folder, "empty.pem", "");
    let other = Trust::new("wrong-other");
    let other_key = other.path("key.pem");
    for (text, message) in [
        (format!("tls://.:0 {{\n    tls {none} {key}\n}}\n"), format!("Wrong:2:5 - plugin/tls: cannot read {none}")),
        (format!("tls://.:0 {{\n    tls {certificate} {none}\n}}\n"), format!("cannot read {none}")),
        (format!("tls://.:0 {{\n    tls {empty} {key}\n}}\n"), format!("{empty} does not contain a certificate")),
        (
            format!("tls://.:0 {{\n    tls {certificate} {empty}\n}}\n"),
            format!("{empty} does not contain a private key"),
        ),
        (
            format!("tls://.:0 {{\n    tls {certificate} {other_key}\n}}\n"),
            format!("{certificate}: tls: private key does not match public key"),
        ),
        (
            format!(".:0 {{\n    forward . tls://127.0.0.1 {{\n        tls {certificate} {other_key}\n    }}\n}}\n"),
            format!("{certificate}: tls: private key does not match public key"),
        ),
        ("quic://.:0 {\n    whoami\n}\n".to_owned(), "quic:// needs a certificate".to_owned()),
        ("https3://.:0 {\n    whoami\n}\n".to_owned(), "https3:// needs a certificate".to_owned()),
        (
            format!("tls://a:9 https://b:9 {{\n    tls {certificate} {key}\n}}\n"),
            "cannot serve https://:9: tls://:9 has the same port".to_owned(),
        ),
        (
            format!("tls://a:9 {{\n    tls {certificate} {key}\n}}\ntls://b:9 {{\n    whoami\n}}\n"),
            "conflicting TLS configuration for shared listener tls://:9".to_owned(),
        ),
    ] {
        let (status, _, error) = status_and_output(&run(&["-conf", &write(&text)]));
        assert_eq!(status, Some(1), "{text}");
        assert!(error.contains(&message) && !error.contains("panicked"), "{text}{error}");
    }
    // Conflicts of listeners do not depend on the machine, so that '-check' reports them too.
    for (text, message) in [
        (
            format!(".:9 {{\n    whoami\n}}\nquic://.:9 {{\n    tls {certificate} {key}\n}}\n"),
            "Wrong:4:1 - cannot serve quic://:9: dns://:9 has the same port",
        ),
        (
            format!("tls://a:9 {{\n    tls {certificate} {key}\n}}\ntls://b:9 {{\n    whoami\n}}\n"),
            "conflicting TLS configuration for shared listener tls://:9",
        ),
    ] {
        let (status, output, _) = status_and_output(&run(&["-check", &write(&text)]));
        assert_eq!(status, Some(1), "{text}");
        assert!(output.contains(message), "{text}{output}");
    }
    let other_ports =
        format!("tls://.:9 {{\n    tls {certificate} {key}\n}}\nquic://.:9 {{\n    tls {certificate} {key}\n}}\n");
    assert_eq!(status_and_output(&run(&["-check", &write(&other_ports)])).0, Some(0), "TCP and UDP");
    assert!(Path::new(&certificate).exists());
}
