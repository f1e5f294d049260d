//! What a reader of the tree relies on: which module knows which, where unsafe code and libraries stand, and that the
//! words of the project are about the project.

use std::fs;
use std::path::{Path, PathBuf};

/// Each module with the modules that it may use, as `src/README.md` has it.
const LAYERS: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("corefile", &[]),
    ("files", &[]),
    ("net", &[]),
    ("telemetry", &[]),
    ("admin", &["net", "telemetry"]),
    ("cluster", &["wire"]),
    ("source", &["cluster", "files", "telemetry"]),
    ("upstream", &["wire", "telemetry"]),
    ("chain", &["wire", "upstream"]),
    ("plugins", &["chain", "wire", "corefile", "files", "net", "cluster", "telemetry", "upstream"]),
    ("serve", &["chain", "wire", "net", "upstream"]),
    (
        "app",
        &[
            "wire",
            "corefile",
            "files",
            "net",
            "telemetry",
            "admin",
            "cluster",
            "source",
            "upstream",
            "chain",
            "plugins",
            "serve",
        ],
    ),
];

/// Libraries that stand in one place.
const HOMES: &[(&str, &[&str])] = &[
    ("hickory_proto", &["src/wire/hickory.rs"]),
    ("hickory_server", &["src/serve", "src/upstream"]),
    ("libc", &["src/serve"]),
    ("tokio", &["src/serve", "src/app", "src/source", "src/admin", "src/upstream"]),
    ("hyper", &["src/serve", "src/source", "src/admin"]),
    ("quinn", &["src/serve"]),
    ("h3", &["src/serve"]),
    ("kube", &["src/source"]),
    ("k8s_openapi", &["src/source"]),
    ("notify", &["src/files", "src/source"]),
    ("rustls", &["src/net", "src/serve", "src/admin", "src/upstream"]),
    ("serde_saphyr", &["src/source", "src/admin"]),
    ("dashmap", &["src/cluster", "src/serve"]),
    ("anyhow", &["src/app"]),
];

/// Every Rust file below a folder, tests aside where asked.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                let path = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("below the project").to_owned();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} holds sources");
    found
}

/// The code of a file, without its test module and without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//"))
}

fn is_test_file(path: &Path) -> bool {
    path.iter().any(|part| part == "tests" || part == "tests.rs" || part == "testing.rs")
}

/// The module of `src` that a file belongs to.
fn module(path: &Path) -> Option<String> {
    let part = path.iter().nth(1)?.to_str()?;
    Some(part.trim_end_matches(".rs").to_owned())
}

#[test]
fn a_module_uses_only_modules_of_lower_layers() {
    let mut mistakes = Vec::new();
    for (path, text) in sources("src") {
        let Some(module) = module(&path).filter(|_| !is_test_file(&path)) else { continue };
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else { continue };
        for line in code(&text) {
            for used in line.match_indices("crate::").map(|(at, found)| &line[at + found.len()..]) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let known = LAYERS.iter().any(|(name, _)| *name == used);
                if known && used != module && !allowed.contains(&used.as_str()) {
                    mistakes.push(format!("{}: {module} uses {used}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn a_plugin_uses_no_other_plugin() {
    let mut mistakes = Vec::new();
    for (path, text) in sources("src/plugins") {
        let Some(own) = path.iter().nth(2).and_then(|part| part.to_str()).filter(|_| !is_test_file(&path)) else {
            continue;
        };
        let own = own.trim_end_matches(".rs");
        // What plugins share, and the table that names them all.
        if ["mod", "table", "path", "endpoint", "regexp"].contains(&own) {
            continue;
        }
        for line in code(&text) {
            for used in line.match_indices("plugins::").map(|(at, found)| &line[at + found.len()..]) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let is_plugin = clusterdns::plugins::DIRECTIVES.iter().any(|entry| entry.name == used);
                if is_plugin && used != own {
                    mistakes.push(format!("{}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn libraries_and_unsafe_code_stand_where_they_belong() {
    let mut mistakes = Vec::new();
    for (path, text) in sources("src") {
        if is_test_file(&path) {
            continue;
        }
        for line in code(&text) {
            for (library, homes) in HOMES {
                let uses = line.contains(&format!("{library}::"));
                if uses && !homes.iter().any(|home| path.starts_with(home)) {
                    mistakes.push(format!("{}: {library}: {}", path.display(), line.trim()));
                }
            }
            if line.contains("unsafe ") && !line.contains("unsafe_code") && path != Path::new("src/serve/udp/mmsg.rs") {
                mistakes.push(format!("{}: unsafe code: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let mut mistakes = Vec::new();
    for (path, text) in ["src", "tests", "benches"].into_iter().flat_map(sources) {
        let opens = text.starts_with("//!") || text.starts_with("#![doc");
        if !opens && path != Path::new("src/lib.rs") {
            mistakes.push(path.display().to_string());
        }
    }
    assert!(mistakes.is_empty(), "without a //! at the top:\n{}", mistakes.join("\n"));
}

#[test]
fn the_binary_is_a_few_lines() {
    let main = include_str!("../src/main.rs");
    assert!(main.lines().count() <= 40);
}

#[test]
fn readme_knows_every_directive_that_is_built() {
    let readme = include_str!("../README.md");
    for entry in clusterdns::plugins::DIRECTIVES.iter().filter(|entry| entry.read.is_some()) {
        assert!(readme.contains(&format!("`{}`", entry.name)), "README.md does not name {}", entry.name);
    }
}

#[test]
fn the_layers_are_those_of_the_front_page() {
    let page = include_str!("../src/README.md");
    for (module, _) in LAYERS {
        assert!(page.contains(&format!("| `{module}` |")), "src/README.md has no row for {module}");
    }
}
