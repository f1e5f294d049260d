//! Tests of the runner: a wrong expectation fails, and errors in a file are reported with their line.

use libtest_mimic::{Failed, Trial};

use super::{check, format};

/// A file with correct expectations.
const CORRECT: &str = "\
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
    no response
";

/// The tests.
pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("self-test: a correct expectation passes", || Ok(run(CORRECT)?)),
        Trial::test("self-test: a wrong expectation fails", || {
            for (correct, wrong, message) in [
                ("10.0.0.5\n", "10.0.0.6\n", "- answer web.a.svc.cluster.local. 5 A 10.0.0.6"),
                (" 5 A ", " 6 A ", "x:11: expected (-), got (+)"),
                ("NOERROR aa", "NOERROR", "- NOERROR rd edns=1232"),
                (" edns=1232", "", "+ NOERROR aa rd edns=1232"),
                (
                    "    answer web.a.svc.cluster.local. 5 A 10.0.0.5\n",
                    "",
                    "+ answer web.a.svc.cluster.local. 5 A 10.0.0.5",
                ),
                ("    NXDOMAIN aa rd\n", "    NOERROR aa rd\n", "- NOERROR aa rd"),
                ("_ ... 5\n", "_ ... 30\n", "SOA ... _ ... 30"),
                ("    no response\n", "    FORMERR rd\n", "+ no response"),
                ("    no response\n", "", "no expectation yet"),
                ("delete Service a/web\n", "delete Service a/wob\n", "x:17: there is no Service a/wob"),
                ("delete Service a/web\n", "", "+ NOERROR aa rd"),
                ("port: 80", "port: 80000", "x:10: the objects have errors"),
                ("        kubernetes\n", "        kuberneetes\n", "x:10: the Corefile has errors"),
            ] {
                let text = CORRECT.replacen(correct, wrong, 1);
                assert_ne!(text, CORRECT, "{correct:?} is in the text");
                fails(run(&text), message)?;
            }
            Ok(())
        }),
        Trial::test("self-test: errors in a file are reported with their line", || {
            for (line, message) in [
                ("quarry a A", "x:10: 'quarry' is not a keyword here"),
                ("query a", "x:10: expected a name and a type"),
                ("query a AA", "x:10: 'AA' is not a type"),
                ("query a A +edsn", "x:10: '+edsn' is not a flag of a query"),
                ("query a A +edns=x", "x:10: '+edns=x': expected a number"),
                ("query a..b A", "x:10: 'a..b'"),
                ("query a A from=x", "x:10: 'from=x': expected an address"),
                ("raw 123", "x:10: '123' is not hexadecimal"),
                ("time soon", "x:10: 'soon'"),
                ("delete Service", "x:10: expected a kind and NAMESPACE/NAME"),
                ("sync\n    x", "x:10: 'sync' has no body"),
                ("query a A\n    differs: x", "x:10: 'differs:' starts with a number"),
                ("objects nosuch.yaml", "x:10: nosuch.yaml"),
                ("  x", "x:10: an indented line"),
            ] {
                let text = CORRECT.replacen("== an address\n", &format!("{line}\n"), 1).replacen("\n\n", "\n== a\n", 1);
                fails(run(&text), message)?;
            }
            fails(run("query a A\n"), "x:1: 'query' is not a keyword before the first section")?;
            fails(run("== a\n== a\n"), "x:2: a second section 'a'")
        }),
    ]
}

/// Runs the text of a file.
fn run(text: &str) -> Result<(), String> {
    let load = |name: &str| Err(format!("{name}: not here"));
    let sections = format::parse(text, &load).map_err(|error| format!("x:{error}"))?;
    sections.iter().try_for_each(|section| check("x", section, None).map(|_| ()))
}

/// Checks that a run fails with a message.
fn fails(result: Result<(), String>, message: &str) -> Result<(), Failed> {
    match result {
        Err(error) if error.contains(message) => Ok(()),
        Err(error) => Err(format!("expected '{message}', got: {error}").into()),
        Ok(()) => Err(format!("expected '{message}', but it passes").into()),
    }
}
