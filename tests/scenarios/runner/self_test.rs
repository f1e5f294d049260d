//! The runner itself: that a wrong expectation fails, and that mistakes in a file are told with their line.

use libtest_mimic::{Failed, Trial};

use super::{check, format};

/// A file whose expectations are right.
const RIGHT: &str = "\
corefile
    cluster.local {
        kubernetes
    }
objects
    kind: Service
    metadata: {name: web, namespace: a}
    spec: {clusterIP: 10.0.0.5, ports: [{name: http, port: 80}]}

== an address
query web.a.svc.cluster.local A +edns
    NOERROR aa rd edns=1232
    answer web.a.svc.cluster.local. 5 A 10.0.0.5
query no.a.svc.cluster.local A
    NXDOMAIN aa rd
    authority cluster.local. 5 SOA ... _ ... 5
delete Service a/web
query web.a.svc.cluster.local A
    NXDOMAIN aa rd
    authority cluster.local. 5 SOA ... _ ... 5
raw 1234 8100 0001
    silence
";

/// The tests.
pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("self-test: a right expectation passes", || Ok(run(RIGHT)?)),
        Trial::test("self-test: a wrong expectation fails", || {
            for (right, wrong, told) in [
                ("10.0.0.5\n", "10.0.0.6\n", "- answer web.a.svc.cluster.local. 5 A 10.0.0.6"),
                (" 5 A ", " 6 A ", "x:11: expected (-), came (+)"),
                ("NOERROR aa", "NOERROR", "- NOERROR rd edns=1232"),
                (" edns=1232", "", "+ NOERROR aa rd edns=1232"),
                (
                    "    answer web.a.svc.cluster.local. 5 A 10.0.0.5\n",
                    "",
                    "+ answer web.a.svc.cluster.local. 5 A 10.0.0.5",
                ),
                ("    NXDOMAIN aa rd\n", "    NOERROR aa rd\n", "- NOERROR aa rd"),
                ("_ ... 5\n", "_ ... 30\n", "SOA ... _ ... 30"),
                ("    silence\n", "    FORMERR rd\n", "+ silence"),
                ("    silence\n", "", "nothing is expected yet"),
                ("delete Service a/web\n", "delete Service a/wob\n", "x:17: there is no Service a/wob"),
                ("delete Service a/web\n", "", "+ NOERROR aa rd"),
                ("port: 80", "port: 80000", "x:10: the objects have mistakes"),
                ("        kubernetes\n", "        kuberneetes\n", "x:10: the Corefile has mistakes"),
            ] {
                let text = RIGHT.replacen(right, wrong, 1);
                assert_ne!(text, RIGHT, "{right:?} is in the text");
                says(run(&text), told)?;
            }
            Ok(())
        }),
        Trial::test("self-test: mistakes in a file are told with their line", || {
            for (line, told) in [
                ("quarry a A", "x:10: 'quarry' is no keyword here"),
                ("query a", "x:10: a name and a type are expected"),
                ("query a AA", "x:10: 'AA' is no type"),
                ("query a A +edsn", "x:10: '+edsn' is no flag of a query"),
                ("query a A +edns=x", "x:10: '+edns=x': a number is expected"),
                ("query a..b A", "x:10: 'a..b'"),
                ("query a A from=x", "x:10: 'from=x': an address is expected"),
                ("raw 123", "x:10: '123' are no octets"),
                ("time soon", "x:10: 'soon'"),
                ("delete Service", "x:10: a kind and NAMESPACE/NAME are expected"),
                ("sync\n    x", "x:10: 'sync' has no body"),
                ("query a A\n    differs: x", "x:10: 'differs:' starts with a number"),
                ("objects nosuch.yaml", "x:10: nosuch.yaml"),
                ("  x", "x:10: a line with nothing before it"),
            ] {
                let text = RIGHT.replacen("== an address\n", &format!("{line}\n"), 1).replacen("\n\n", "\n== a\n", 1);
                says(run(&text), told)?;
            }
            says(run("query a A\n"), "x:1: 'query' is no keyword in front of the first section")?;
            says(run("== a\n== a\n"), "x:2: a second section 'a'")
        }),
    ]
}

/// Runs a file's text.
fn run(text: &str) -> Result<(), String> {
    let load = |name: &str| Err(format!("{name}: not here"));
    let sections = format::parse(text, &load).map_err(|mistake| format!("x:{mistake}"))?;
    sections.iter().try_for_each(|section| check("x", section, None).map(|_| ()))
}

/// Checks that a run fails with these words.
fn says(result: Result<(), String>, words: &str) -> Result<(), Failed> {
    match result {
        Err(told) if told.contains(words) => Ok(()),
        Err(told) => Err(format!("expected '{words}', told: {told}").into()),
        Ok(()) => Err(format!("expected '{words}', but it passes").into()),
    }
}
