//! Whole Corefiles: those of real clusters must be parsed without an error, and invalid ones must cause the messages of
//! `tests/corefile/bad/*.expected`. `UPDATE_EXPECT=1` rewrites the expectations.
//!
//! Only the parser is tested; the plugins parse the contents of directives.

use std::path::{Path, PathBuf};

use clusterdns::corefile::{Corefile, Diagnostics, Known, RealFiles, load, render_text, suggest};

/// The names of known directives.
const DIRECTIVES: &[&str] = &[
    "any",
    "autopath",
    "bind",
    "bufsize",
    "cache",
    "cancel",
    "chaos",
    "debug",
    "dns64",
    "errors",
    "file",
    "forward",
    "header",
    "health",
    "hosts",
    "k8s_external",
    "kubernetes",
    "loadbalance",
    "log",
    "loop",
    "metadata",
    "minimal",
    "pprof",
    "prometheus",
    "ready",
    "reload",
    "rewrite",
    "template",
    "tls",
    "whoami",
];

/// Classifies a word as `plugins::known` does.
fn known(name: &str) -> Known {
    match name {
        "route53" => Known::Unsupported(Some("serve the zone with 'file' or forward it".to_owned())),
        "k8s_gateway" => Known::External(Some("k8s_gateway runs as a server of its own".to_owned())),
        _ if DIRECTIVES.contains(&name) => Known::Yes,
        _ => Known::No(|name| suggest(name, DIRECTIVES.iter().copied())),
    }
}

/// Reads a Corefile. Paths in its messages are relative to `tests/corefile`.
fn read(path: &Path) -> (Corefile, String, bool) {
    let mut diagnostics = Diagnostics::new();
    let corefile = load(path, &RealFiles, &known, &mut diagnostics);
    let corpus = folder("").display().to_string();
    let text = render_text(&diagnostics, &corefile.sources).replace(&corpus, "");
    (corefile, text, diagnostics.has_errors())
}

/// Returns a directory of the corpus.
fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corefile").join(name)
}

/// Returns the Corefiles in a directory, sorted.
fn corpus(name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder(name)).expect("a folder");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "corefile"));
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

#[test]
fn corefiles_of_real_clusters_are_read_without_errors() {
    for path in corpus("good") {
        let (corefile, text, has_errors) = read(&path);
        assert!(!has_errors, "{}:\n{text}", path.display());
        assert!(!corefile.blocks.is_empty(), "{}", path.display());
        for line in text.lines().filter(|line| line.contains("Warning")) {
            assert!(line.contains("No files matching import glob pattern"), "{}:\n{text}", path.display());
        }
    }
}

#[test]
fn broken_corefiles_are_explained() {
    let mut wrong = Vec::new();
    for path in corpus("bad") {
        let (_, text, has_errors) = read(&path);
        assert!(has_errors, "{} is accepted:\n{text}", path.display());
        let expected = path.with_extension("expected");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&expected, &text).unwrap();
        } else if std::fs::read_to_string(&expected).unwrap_or_default() != text {
            wrong.push(format!("{}:\n{text}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
