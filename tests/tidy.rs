//! Rules for the source tree that a machine can check: which module uses which, that files do not use each other in a
//! circle, where unsafe code and libraries are used, that ids of cases resolve, that type names are unique, and that
//! the text is plain English.
//!
//! Some rules do not hold everywhere yet. For those, ratchet files in `tests/data` have the number of remaining hits. A
//! higher number fails the test, and so does a lower one that is not in the file yet, so that the numbers only fall:
//! `UPDATE_EXPECT=1 cargo test --test tidy` lowers them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// Each module with the modules that it may use, as `src/README.md` has it.
const LAYERS: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("corefile", &[]),
    ("files", &[]),
    ("net", &[]),
    ("telemetry", &[]),
    ("admin", &["net", "telemetry"]),
    ("cluster", &["wire"]),
    ("source", &["cluster", "files", "net", "telemetry"]),
    ("upstream", &["net", "wire", "telemetry"]),
    ("stub", &[]),
    ("chain", &["wire", "upstream"]),
    ("explain", &["chain", "cluster", "stub", "wire"]),
    ("plugins", &["admin", "chain", "wire", "corefile", "files", "net", "cluster", "telemetry", "upstream"]),
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
            "stub",
            "explain",
        ],
    ),
];

/// Libraries, and the places that may use them.
const HOMES: &[(&str, &[&str])] = &[
    ("hickory_proto", &["src/wire/hickory.rs"]),
    ("hickory_server", &["src/serve", "src/upstream"]),
    ("libc", &["src/serve"]),
    (
        "tokio",
        &[
            "src/serve",
            "src/app",
            "src/source",
            "src/admin",
            "src/upstream",
            "src/plugins/dnstap",
            "src/plugins/trace",
            "src/plugins/etcd",
            "src/plugins/health.rs",
            "src/plugins/loops",
        ],
    ),
    ("hyper", &["src/serve", "src/source", "src/admin", "src/upstream", "src/plugins/trace"]),
    ("quinn", &["src/serve"]),
    ("h3", &["src/serve"]),
    ("prost", &["src/net", "src/plugins/dnstap", "src/plugins/etcd"]),
    ("kube", &["src/source"]),
    ("k8s_openapi", &["src/source"]),
    ("notify", &["src/files", "src/source"]),
    ("rustls", &["src/net", "src/serve", "src/admin", "src/upstream", "src/plugins/dnstap", "src/plugins/trace"]),
    ("x509_parser", &["src/net"]),
    ("serde_saphyr", &["src/source", "src/admin"]),
    ("dashmap", &["src/cluster", "src/serve"]),
    ("anyhow", &["src/app"]),
];

/// Returns the path and the text of every Rust file below a folder.
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

/// Returns the lines of code of a file, without its test module and comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//"))
}

fn is_test_file(path: &Path) -> bool {
    path.iter().any(|part| part == "tests" || part == "tests.rs" || part == "testing.rs")
}

/// Returns the module of `src` that a file belongs to.
fn module(path: &Path) -> Option<String> {
    let part = path.iter().nth(1)?.to_str()?;
    Some(part.trim_end_matches(".rs").to_owned())
}

#[test]
fn a_module_uses_only_modules_of_lower_layers() {
    let mut errors = Vec::new();
    for (path, text) in sources("src") {
        let Some(module) = module(&path).filter(|_| !is_test_file(&path)) else { continue };
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else { continue };
        for line in code(&text) {
            for used in line.match_indices("crate::").map(|(at, found)| &line[at + found.len()..]) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let known = LAYERS.iter().any(|(name, _)| *name == used);
                if known && used != module && !allowed.contains(&used.as_str()) {
                    errors.push(format!("{}: {module} uses {used}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

/// Folders whose files may use each other in a circle, each with the reason.
const CIRCLES: [(&str, &str); 2] = [
    ("chain", "a pending query knows its place in the chain, and an internal look-up goes through the router again"),
    ("plugins::build", "a directive builds itself with the builder, which knows the block and its directives"),
];

/// Returns the code of each file of `src` without tests, by the path of its module; that of `lib.rs` is empty.
fn modules() -> BTreeMap<String, String> {
    let files = sources("src").into_iter().filter(|(path, _)| !is_test_file(path) && path != Path::new("src/main.rs"));
    let modules = files.map(|(path, text)| {
        let path = path.with_extension("");
        let parts = path.iter().skip(1).filter_map(|part| part.to_str());
        let parts: Vec<&str> = parts.filter(|part| !["mod", "lib"].contains(part)).collect();
        (parts.join("::"), code(&text).collect::<Vec<_>>().join("\n"))
    });
    modules.collect()
}

/// Returns the paths of a `use` declaration: `a::b` and `a::c::d` for `a::{b, c::d}`.
fn paths(declaration: &str) -> Vec<String> {
    let Some((prefix, list)) = declaration.split_once('{') else {
        let path = declaration.split(" as ").next().unwrap_or_default();
        return vec![path.trim().to_owned()];
    };
    let list = list.trim_end().strip_suffix('}').unwrap_or(list);
    let (mut items, mut depth) = (vec![String::new()], 0);
    for c in list.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        match items.last_mut() {
            Some(item) if c != ',' || depth > 0 => item.push(c),
            _ => items.push(String::new()),
        }
    }
    let items = items.iter().filter(|item| !item.trim().is_empty());
    items.flat_map(|item| paths(item)).map(|path| format!("{}{path}", prefix.trim())).collect()
}

/// Returns the modules that each module uses, by `use` and by paths in its code.
///
/// An item is used where it is defined, even if a parent exports it. The `pub use` of a `mod.rs` for items of its own
/// folder is a list of contents and does not count as a use.
fn uses(modules: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
    let declaration = Regex::new(r"\b(pub(?:\([^)]*\))? )?use ([^;]+);").expect("an expression");
    let path = Regex::new(r"\b\w+(?:::\w+)+").expect("an expression");
    let visibility = Regex::new(r"pub\(in [^)]*\)").expect("an expression");
    let child = |module: &str, name: &str| {
        let child = if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") };
        modules.contains_key(&child).then_some(child)
    };
    // The modules of the items that a module imports from its folder.
    let mut imports: BTreeMap<(&str, String), String> = BTreeMap::new();
    for (module, code) in modules {
        for found in declaration.captures_iter(code).flat_map(|found| paths(&found[2])) {
            let mut parts = found.trim_start_matches("self::").split("::");
            let Some(mut home) = parts.next().and_then(|name| child(module, name)) else { continue };
            let mut item = None;
            for part in parts {
                match child(&home, part) {
                    Some(next) => home = next,
                    None => item = Some(part.to_owned()),
                }
            }
            imports.extend(item.map(|item| ((module.as_str(), item), home)));
        }
    }
    let resolve = |from: &str, path: &str| -> Option<String> {
        let mut module = from.to_owned();
        for (number, part) in path.split("::").enumerate() {
            match part {
                "crate" => module.clear(),
                "self" => {}
                "super" => module = module.rsplit_once("::").map_or("", |(parent, _)| parent).to_owned(),
                name => {
                    let imported = || imports.get(&(module.as_str(), name.to_owned())).filter(|_| number > 0).cloned();
                    match child(&module, name).or_else(imported) {
                        Some(next) => module = next,
                        None => break,
                    }
                }
            }
        }
        (module != from && !module.is_empty()).then_some(module)
    };
    let all = modules.iter().map(|(module, code)| {
        let mut used = BTreeSet::new();
        for found in declaration.captures_iter(code) {
            for path in paths(&found[2]) {
                let first = path.trim_start_matches("self::").split("::").next().unwrap_or_default();
                if found.get(1).is_none() || child(module, first).is_none() {
                    used.extend(resolve(module, &path));
                }
            }
        }
        let rest = declaration.replace_all(code, "");
        let rest = visibility.replace_all(&rest, "");
        used.extend(path.find_iter(&rest).filter_map(|path| resolve(module, path.as_str())));
        (module.clone(), used)
    });
    all.collect()
}

/// Returns the sets of modules that use each other in a circle.
fn circles(modules: &BTreeMap<String, String>) -> Vec<BTreeSet<String>> {
    let uses = uses(modules);
    let reached_from = |start: &String| {
        let mut reached = BTreeSet::new();
        let mut next = vec![start];
        while let Some(module) = next.pop() {
            next.extend(uses[module].iter().filter(|used| reached.insert((*used).clone())));
        }
        reached
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        modules.keys().map(|start| (start, reached_from(start))).collect();
    let circle_of = |module: &String| -> BTreeSet<String> {
        reached[module].iter().filter(|other| reached[other].contains(module)).cloned().collect()
    };
    let circles: BTreeSet<BTreeSet<String>> = modules.keys().map(circle_of).filter(|circle| circle.len() > 1).collect();
    circles.into_iter().collect()
}

#[test]
fn files_that_use_each_other_in_a_circle_are_found() {
    let modules = [
        ("", "pub mod a; pub mod b;"),
        ("a", "mod one;\nmod two;\npub use one::{One, Other};\npub(crate) use two::Two;"),
        ("a::one", "use super::{Two, missing};"),
        ("a::two", "fn two(b: crate::b::B) {}"),
        ("b", "mod c;\nuse c::C;"),
        ("b::c", "use crate::a::{\n    One,\n    two::Two,\n};\npub(in crate::b) struct C;"),
    ];
    let modules: BTreeMap<String, String> = modules.map(|(path, code)| (path.to_owned(), code.to_owned())).into();
    let circle = ["a::one", "a::two", "b", "b::c"].map(str::to_owned).into();
    assert_eq!(circles(&modules), [circle]);
}

#[test]
fn files_do_not_use_each_other_in_a_circle() {
    let modules = modules();
    assert!(modules.len() > 150 && uses(&modules).values().map(BTreeSet::len).sum::<usize>() > 400);
    let circles = circles(&modules);
    let is_within = |circle: &BTreeSet<String>, folder: &str| {
        circle
            .iter()
            .all(|module| module.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(':')))
    };
    let errors: Vec<String> = circles
        .iter()
        .filter(|circle| !CIRCLES.iter().any(|(folder, _)| is_within(circle, folder)))
        .map(|circle| format!("{circle:?} use each other: move what they share into a file that uses neither"))
        .collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    for (folder, _) in CIRCLES {
        let is_used = circles.iter().any(|circle| is_within(circle, folder));
        assert!(is_used, "{folder} has no circle any more: remove its line");
    }
}

#[test]
fn a_plugin_uses_no_other_plugin() {
    let mut errors = Vec::new();
    for (path, text) in sources("src/plugins") {
        let Some(own) = path.iter().nth(2).and_then(|part| part.to_str()).filter(|_| !is_test_file(&path)) else {
            continue;
        };
        let own = own.trim_end_matches(".rs");
        // Code that plugins share, and the table of all plugins.
        if ["mod", "table", "context", "embedded_ipv4", "page_address", "path", "regexp"].contains(&own) {
            continue;
        }
        for line in code(&text) {
            for used in line.match_indices("plugins::").map(|(at, found)| &line[at + found.len()..]) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let is_plugin = clusterdns::plugins::DIRECTIVES.iter().any(|entry| entry.name == used);
                if is_plugin && used != own {
                    errors.push(format!("{}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

/// A method with a default that the wrapper of *trace* does not pass on would be lost in blocks with *trace*.
#[test]
fn the_wrapper_of_trace_passes_on_every_method_of_a_plugin() {
    let methods = |path: &str, from: &str| {
        let text = std::fs::read_to_string(path).expect("a source file");
        let body = text.split_once(from).and_then(|(_, rest)| rest.split_once("\n}\n")).expect(from).0.to_owned();
        let names = body
            .lines()
            .filter_map(|line| line.strip_prefix("    fn ")?.split_once('(').map(|(name, _)| name.to_owned()));
        names.collect::<BTreeSet<_>>()
    };
    let all = methods("src/chain/mod.rs", "pub trait Plugin: Send + Sync {");
    assert!(all.len() > 10, "{all:?}");
    assert_eq!(methods("src/plugins/trace/mod.rs", "impl Plugin for TracedPlugin {"), all);
}

/// A method that a chain leaves out, since `calls` does not name it, would never run.
#[test]
fn plugins_name_the_calls_that_they_need() {
    let (mut found, mut mistakes) = (0, Vec::new());
    for (path, text) in sources("src") {
        for body in text.split("impl Plugin for ").skip(1).filter_map(|rest| rest.split("\n}\n").next()) {
            let calls = body.split_once("Calls { ").and_then(|(_, rest)| rest.split(" }").next()).unwrap_or_default();
            // A wrapper has the calls of the plugin within.
            let methods = if calls.contains("..") { &[][..] } else { &["reply", "sent"] };
            for method in methods {
                let exists = body.contains(&format!("    fn {method}("));
                found += usize::from(exists);
                if exists != calls.contains(&format!("{method}: true")) {
                    mistakes.push(format!("{}: {method}", path.display()));
                }
            }
            // `query` must exist.
            if calls.contains("query: false")
                && !body.contains("fn query(&self, _: &mut Exchange<'_>) -> Step {\n        Step::Next\n    }")
            {
                mistakes.push(format!("{}: query", path.display()));
            }
        }
    }
    assert!(found >= 15, "{found}");
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

/// The program knows directives through `plugins::build` and the table only: adding one changes its own file or folder,
/// its `mod` line, and its row.
#[test]
fn a_directive_is_named_only_at_home_and_in_the_table() {
    let mut mistakes = Vec::new();
    let modules = modules_of_directives();
    assert!(modules.len() > 25 && modules.contains("whoami"), "{modules:?}");
    for (path, text) in sources("src") {
        let is_table = ["src/plugins/mod.rs", "src/plugins/table.rs"].map(Path::new).contains(&path.as_path());
        if is_table || is_test_file(&path) {
            continue;
        }
        let home = path.strip_prefix("src/plugins").ok().and_then(|path| path.iter().next()?.to_str());
        let home = home.map(|home| home.trim_end_matches(".rs"));
        for line in code(&text) {
            for used in line.match_indices("plugins::").map(|(at, found)| &line[at + found.len()..]) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if modules.contains(used.as_str()) && home != Some(&used) {
                    mistakes.push(format!("{}: {}", path.display(), line.trim()));
                }
            }
            // Lists such as `plugins::{bind, tls}` are written as paths, so that they are found.
            if home.is_none() && line.contains("plugins::{") && modules.iter().any(|module| has_word(line, module)) {
                mistakes.push(format!("{}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

/// The modules of directives, from the rows of the table.
fn modules_of_directives() -> BTreeSet<String> {
    let table = include_str!("../src/plugins/table.rs");
    let row = Regex::new(r"read!\((\w+)::").expect("an expression");
    row.captures_iter(table).map(|row| row[1].to_owned()).collect()
}

/// Returns whether a line has this word.
fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|other| other == word)
}

#[test]
fn libraries_and_unsafe_code_are_where_they_belong() {
    let mut errors = Vec::new();
    for (path, text) in sources("src") {
        if is_test_file(&path) {
            continue;
        }
        for line in code(&text) {
            for (library, homes) in HOMES {
                let uses = line.contains(&format!("{library}::"));
                if uses && !homes.iter().any(|home| path.starts_with(home)) {
                    errors.push(format!("{}: {library}: {}", path.display(), line.trim()));
                }
            }
            if line.contains("unsafe ") && !line.contains("unsafe_code") && path != Path::new("src/serve/udp/mmsg.rs") {
                errors.push(format!("{}: unsafe code: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let mut errors = Vec::new();
    for (path, text) in ["src", "tests", "benches"].into_iter().flat_map(sources) {
        let opens = text.starts_with("//!") || text.starts_with("#![doc");
        if !opens && path != Path::new("src/lib.rs") {
            errors.push(path.display().to_string());
        }
    }
    assert!(errors.is_empty(), "without a //! at the top:\n{}", errors.join("\n"));
}

/// `src/README.md` ends with a table of all files. `UPDATE_EXPECT=1` writes it.
#[test]
fn the_front_page_lists_every_file_with_its_first_sentence() {
    const HEADING: &str = "## Every file\n\n";
    let files = sources("src").into_iter().filter(|(path, _)| !is_test_file(path));
    let rows: BTreeMap<PathBuf, String> = files.map(|(path, text)| (path, first_sentence(&text))).collect();
    assert!(rows.len() > 200);
    let rows: String = rows.iter().map(|(path, text)| format!("| `{}` | {text} |\n", shown(path))).collect();
    let table = format!("{HEADING}| file | contents |\n|---|---|\n{rows}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/README.md");
    let page = fs::read_to_string(&path).expect("the front page");
    let start = page.find(HEADING).expect("the heading of the table");
    if std::env::var_os("UPDATE_EXPECT").is_some_and(|value| value == "1") {
        fs::write(&path, page[..start].to_owned() + &table).expect("src/README.md can be written");
    } else {
        assert!(page[start..] == table, "src/README.md: the table of files is old: run with UPDATE_EXPECT=1");
    }
}

/// Returns a path as the front page has it.
fn shown(path: &Path) -> String {
    path.strip_prefix("src").unwrap_or(path).display().to_string()
}

/// Returns the first sentence of a file's documentation.
fn first_sentence(text: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix("//! ").or(line.strip_prefix("//!")));
    let paragraph: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    let paragraph = paragraph.join(" ");
    let end = paragraph.match_indices(". ").map(|(at, _)| at).next().unwrap_or(paragraph.len());
    let sentence = paragraph[..end].trim_end_matches('.').replace('|', "\\|").replace("crate::", "");
    // Links are those of rustdoc.
    let link = Regex::new(r"\[([^\]]*)\]\([^)]*\)").expect("an expression");
    link.replace_all(&sentence, "$1").into_owned()
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

/// The list of what is not built is exact, so that it gets shorter with each directive.
#[test]
fn readme_names_every_directive_that_is_not_built() {
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once("**Not implemented**").expect("the list");
    let listed: Vec<&str> = rest.split("\n\n").next().expect("a paragraph").split('`').skip(1).step_by(2).collect();
    let missing = clusterdns::plugins::DIRECTIVES.iter().filter(|entry| entry.read.is_none());
    assert_eq!(listed, missing.map(|entry| entry.name).collect::<Vec<_>>());
}

#[test]
fn the_layers_are_those_of_the_front_page() {
    let page = include_str!("../src/README.md");
    for (module, _) in LAYERS {
        assert!(page.contains(&format!("| `{module}` |")), "src/README.md has no row for {module}");
    }
}

/// Words of the private language of earlier versions, and what to write instead. The test looks for them in comments,
/// documents, messages and names: `is_told` and `IsTold` count as "is told".
const OLD_VOICE: &[(&str, &str)] = &[
    (r"kept", "cached, stored, open, unchanged"),
    (r"other servers?", "upstream"),
    (r"(?:outside|others') names?|names of others", "external names"),
    (r"tells?|told", "reports, logs, returns"),
    (r"(?:is|are|was|were|be|been) (?:said|asked)", "the response, the query"),
    (r"said", "the response, the message"),
    (r"somebody|nobody|anybody|whoever|whomever", "the client, the caller, no client"),
    (r"anew|made as new", "again"),
    (r"in step(?: with)?", "synced"),
    (r"left away", "ignored, left out"),
    (r"stands? (?:here|there|in|behind|before|beside|twice|alone|still|once|at|on|below)", "is, is defined"),
    (r"so many", "the number of"),
    (r"the world", "the system, the environment"),
    (r"octets?", "bytes"),
    (r"mistakes?|nonsense", "errors, invalid"),
    (r"patience|patient|silences?|silent", "timeout"),
    (r"troubles?", "failure"),
    (r"tally|tallies", "metrics, counter"),
    (r"carriers?", "upstream"),
    (r"outlets?", "upstream socket"),
    (r"seats?|room|gives? way", "permit, limit, space"),
    (r"awaited", "in flight"),
    (r"likewise|perhaps none|of use", "the same, or nothing, usable"),
];

/// Files and phrases that may have such words, each with the reason.
const VOICE_EXCEPTIONS: &[(&str, &str, &str)] = &[
    // The list itself.
    ("tests/tidy.rs", "", "has the words in order to find them"),
    ("CONTRIBUTING.md", "", "its glossary has the words that are not written"),
    // Names of the standard library.
    ("", ".octets()", "std::net"),
    ("", "from_octets", "std::net"),
    ("", "has to be awaited", "what Rust does with a future"),
    ("", "have to be awaited", "what Rust does with a future"),
    // Names of Linux.
    ("src/telemetry/metrics/process.rs", "InOctets", "/proc/net/netstat"),
    ("src/telemetry/metrics/process.rs", "OutOctets", "/proc/net/netstat"),
];

/// Folders with our text, and the endings of their files.
const TEXTS: &[&str] = &["src", "tests", "benches", "fuzz/src", "fuzz/fuzz_targets", "docs", "deploy", ".github"];
const TEXT_ENDINGS: &[&str] = &["rs", "md", "dns", "py", "yaml", "sh"];

/// Returns every file with our text, with its path within the project.
fn texts() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = TEXTS.iter().map(|folder| root.join(folder)).filter(|path| path.exists()).collect();
    let in_root = fs::read_dir(root).expect("the project").flatten().map(|entry| entry.path());
    let fuzz = ["README.md"].map(|name| root.join("fuzz").join(name));
    let mut files: Vec<PathBuf> =
        in_root.chain(fuzz).filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).expect("a folder of the project").flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    for path in files {
        let has_text = path.extension().is_some_and(|end| TEXT_ENDINGS.iter().any(|text| end == *text));
        let name = path.strip_prefix(root).expect("below the project").display().to_string();
        if has_text && !name.starts_with("tests/data/") {
            found.push((name, fs::read_to_string(&path).expect("a text")));
        }
    }
    found.sort();
    assert!(found.len() > 200, "{}", found.len());
    found
}

/// Compares numbers with those of a file of `tests/data`, whose lines are `NUMBER NAME`. A name that is not listed has
/// 0.
///
/// With `UPDATE_EXPECT=1` the file gets the lower numbers. A file that does not exist is written with the numbers as
/// they are, which resolves a conflict of a merge.
fn ratchet(file: &str, hits: &BTreeMap<String, Vec<String>>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file);
    let text = fs::read_to_string(&path).ok();
    let parse = |line: &str| {
        let (number, name) = line.split_once(' ').expect("a number and a name");
        (name.to_owned(), number.parse().expect("a number"))
    };
    let listed: Option<BTreeMap<String, usize>> = text.map(|text| text.lines().map(parse).collect());
    let update = std::env::var_os("UPDATE_EXPECT").is_some_and(|value| value == "1");
    let mut errors = Vec::new();
    let mut numbers = BTreeMap::new();
    for (name, hits) in hits.iter().filter(|(_, hits)| !hits.is_empty()) {
        let most = listed.as_ref().map_or(hits.len(), |listed| listed.get(name).copied().unwrap_or(0));
        if hits.len() > most {
            errors.push(format!("{name} has {} where {most} are allowed:\n  {}", hits.len(), hits.join("\n  ")));
        }
        numbers.insert(name.clone(), hits.len().min(most));
    }
    if update {
        let lines: String = numbers
            .iter()
            .filter(|(_, number)| **number > 0)
            .map(|(name, number)| format!("{number} {name}\n"))
            .collect();
        fs::write(&path, lines).expect("tests/data can be written");
    } else {
        for (name, most) in listed.iter().flatten() {
            let now = hits.get(name).map_or(0, Vec::len);
            if now < *most {
                errors.push(format!("{name} has {now}, and {most} are listed: lower the number (UPDATE_EXPECT=1)"));
            }
        }
    }
    assert!(errors.is_empty(), "tests/data/{file}:\n{}", errors.join("\n"));
}

/// Splits names in snake case and camel case into words, and converts everything to lower case.
fn words(line: &str) -> String {
    let mut words = String::with_capacity(line.len() + 8);
    let mut before = ' ';
    for c in line.chars() {
        if c.is_uppercase() && before.is_lowercase() {
            words.push(' ');
        }
        words.push(if c == '_' { ' ' } else { c.to_ascii_lowercase() });
        before = c;
    }
    words
}

#[test]
fn names_are_split_into_words() {
    assert_eq!(words("fn is_told(WasKept, 0x00FF)"), "fn is told(was kept, 0x00ff)");
}

#[test]
fn the_old_voice_becomes_rarer() {
    // One expression with a group for each word, since many passes over all texts would take long.
    let all: Vec<String> = OLD_VOICE.iter().map(|(words, _)| format!("({words})")).collect();
    let pattern = Regex::new(&format!(r"\b(?:{})\b", all.join("|"))).expect("an expression");
    let mut hits = BTreeMap::new();
    for (path, text) in texts() {
        let exceptions: Vec<&str> = VOICE_EXCEPTIONS
            .iter()
            .filter(|(of, ..)| of.is_empty() || *of == path)
            .map(|(_, phrase, _)| *phrase)
            .collect();
        if exceptions.contains(&"") {
            continue;
        }
        let words = words(&exceptions.iter().fold(text, |text, phrase| text.replace(phrase, "")));
        let found = pattern.captures_iter(&words).map(|found| {
            let group = (1..=OLD_VOICE.len()).find_map(|group| Some((group, found.get(group)?)));
            let (group, phrase) = group.expect("one of the groups");
            let line = words[..phrase.start()].matches('\n').count() + 1;
            format!("{line}: '{}' (rather: {})", phrase.as_str(), OLD_VOICE[group - 1].1)
        });
        hits.insert(path, found.collect());
    }
    ratchet("old-voice.txt", &hits);
}

#[test]
fn lines_of_documents_and_comments_have_120_columns() {
    let mut all = BTreeMap::new();
    for (path, text) in texts() {
        let is_code = path.ends_with(".rs");
        if !is_code && !path.ends_with(".md") {
            continue;
        }
        let mut hits = Vec::new();
        let mut fenced = false;
        for (number, line) in text.lines().enumerate() {
            fenced ^= line.trim_start().starts_with("```");
            // Output of programs, tables and links cannot be wrapped.
            let free = !is_code && (fenced || line.trim_start().starts_with('|') || line.contains("](http"));
            let counts = if is_code { line.trim_start().starts_with("//") } else { !free };
            if counts && line.chars().count() > 120 {
                hits.push(format!("{}: {} columns", number + 1, line.chars().count()));
            }
        }
        all.insert(path, hits);
    }
    ratchet("long-lines.txt", &all);
}

/// Customary names, which several types may have.
const CUSTOMARY: [&str; 3] = ["Config", "Error", "Metrics"];

#[test]
fn a_types_name_is_unique() {
    let definition = Regex::new(
        r"^\s*(?:pub(?:\([a-z: ]+\))? )?(?:struct|enum|trait|union) ([A-Z]\w*)|^(?:pub(?:\([a-z: ]+\))? )?type ([A-Z]\w*)",
    );
    let definition = definition.expect("an expression");
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in sources("src") {
        if is_test_file(&path) {
            continue;
        }
        for line in code(&text) {
            let Some(found) = definition.captures(line) else { continue };
            let name = found.get(1).or(found.get(2)).expect("one of the two").as_str();
            if !CUSTOMARY.contains(&name) {
                all.entry(name.to_owned()).or_default().push(path.display().to_string());
            }
        }
    }
    assert!(all.len() > 300, "{}", all.len());
    all.retain(|_, places| places.len() > 1);
    ratchet("duplicate-types.txt", &all);
}

/// Returns the table of cases, by id.
fn cases() -> BTreeMap<String, String> {
    let page = include_str!("../docs/cases.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let cases: BTreeMap<String, String> =
        rows.filter(|(id, _)| *id != "id").map(|(id, rest)| (id.to_owned(), rest.to_owned())).collect();
    assert!(cases.len() > 100, "{}", cases.len());
    cases
}

#[test]
fn ids_of_cases_resolve() {
    let cases = cases();
    let id = Regex::new(r"\b(?:[A-N][0-9]{2}|K[0-9])\b").expect("an expression");
    // Record types look like ids.
    let is_known = |id: &str| cases.contains_key(id) || ["L32", "L64"].contains(&id);
    assert!(id.is_match("A01") && !id.is_match("F32x") && !id.is_match("A1"));
    let mut errors = Vec::new();
    // L32 and L64 are record types.
    let others = ["docs/cases.md", "tests/tidy.rs", "src/wire/types.rs"];
    for (path, text) in texts().into_iter().filter(|(path, _)| !others.contains(&path.as_str())) {
        for (number, line) in text.lines().enumerate() {
            for found in id.find_iter(line).filter(|found| !is_known(found.as_str())) {
                errors.push(format!("{path}:{}: {} is not in docs/cases.md", number + 1, found.as_str()));
            }
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

#[test]
fn tests_that_cases_name_exist() {
    let name = Regex::new("`([a-z0-9_]+(?:_[a-z0-9]+)+|[a-z]+\\.dns)`").expect("an expression");
    let texts: BTreeMap<String, String> = texts().into_iter().collect();
    let functions: BTreeSet<&str> = texts
        .iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .flat_map(|(_, text)| text.split("fn ").skip(1))
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default())
        .collect();
    let mut errors = Vec::new();
    for (id, row) in cases() {
        let tests = row.rsplit_once(" | ").map_or("", |(_, tests)| tests);
        for found in name.captures_iter(tests).map(|found| found.get(1).expect("a group").as_str().to_owned()) {
            let exists = match found.strip_suffix(".dns") {
                Some(_) => texts.contains_key(&format!("tests/scenarios/{found}")),
                None => functions.contains(found.as_str()),
            };
            // The name of an option is not the name of a test.
            if !exists && found != "endpoint_pod_names" {
                errors.push(format!("{id}: no test {found}"));
            }
        }
    }
    assert!(errors.is_empty(), "docs/cases.md:\n{}", errors.join("\n"));
}

#[test]
fn links_of_documents_resolve() {
    let link = Regex::new(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)").expect("an expression");
    let anchors = |text: &str| -> BTreeSet<String> {
        text.lines()
            .filter(|line| line.starts_with('#'))
            .map(|line| {
                let title = line.trim_start_matches('#').trim().to_lowercase();
                let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
                title.chars().filter(kept).collect::<String>().replace(' ', "-")
            })
            .collect()
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut errors = Vec::new();
    for (path, text) in texts().into_iter().filter(|(path, _)| path.ends_with(".md")) {
        for found in link.captures_iter(&text) {
            let to = found.get(1).map_or("", |to| to.as_str());
            let anchor = found.get(2).map(|anchor| anchor.as_str());
            if to.contains("://") || to.starts_with("mailto:") {
                continue;
            }
            let target =
                if to.is_empty() { root.join(&path) } else { root.join(&path).parent().expect("a folder").join(to) };
            let is_there = match anchor {
                Some(anchor) => fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(anchor)),
                None => target.exists(),
            };
            if !is_there {
                errors.push(format!("{path}: {}", found.get(0).expect("all").as_str()));
            }
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}
