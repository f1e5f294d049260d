//! Scenarios: a Corefile, the objects of a cluster, and the answers to queries (`tests/scenarios/*.dns`; the README
//! there describes the format). Each section is a test.
//!
//! * `cargo test --test scenarios` runs them in this process, through everything but sockets.
//! * `UPDATE_EXPECT=1` replaces expectations by the actual results.
//! * `SUBJECT=127.0.0.1:1053` runs them against a server; `SERVES=NAME` is the fixture that it serves (default `shop`).

#[path = "scenarios/runner/address.rs"]
mod address;
#[path = "scenarios/runner/format.rs"]
mod format;
#[path = "scenarios/runner/inside.rs"]
mod inside;
#[path = "scenarios/runner/outside.rs"]
mod outside;
#[path = "scenarios/runner/run.rs"]
mod run;
#[path = "scenarios/runner/self_test.rs"]
mod self_test;
#[path = "scenarios/runner/show.rs"]
mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use format::Section;
use libtest_mimic::{Arguments, Completion, Trial};
use run::Outcome;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let subject = std::env::var("SUBJECT").ok();
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    if update && subject.is_some() {
        eprintln!("UPDATE_EXPECT writes the answers of this server, so it cannot be combined with SUBJECT");
        return ExitCode::FAILURE;
    }
    let mut trials = self_test::trials();
    for path in files() {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match read(&path) {
            Err(error) => trials.push(Trial::test(name, move || Err(error.into()))),
            Ok((text, sections)) if update => {
                trials.push(Trial::test(name, move || Ok(rewrite(&path, &text, &sections)?)));
            }
            Ok((_, sections)) => trials.extend(sections.into_iter().map(|section| {
                let path = shown(&path);
                let subject = subject.clone();
                let title = format!("{name}: {}", section.title);
                Trial::ignorable_test(title, move || Ok(check(&path, &section, subject.as_deref())?))
            })),
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Returns the scenario files, sorted.
fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let entries = std::fs::read_dir(folder).expect("the folder of scenarios can be read");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry can be read").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "dns"));
    files.sort();
    files
}

/// Returns a path relative to the crate.
fn shown(path: &Path) -> String {
    path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(path).display().to_string()
}

/// Reads a scenario file.
fn read(path: &Path) -> Result<(String, Vec<Section>), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let load = |name: &str| std::fs::read_to_string(folder.join(name)).map_err(|error| format!("{name}: {error}"));
    let sections = format::parse(&text, &load).map_err(|error| format!("{}:{error}", shown(path)))?;
    Ok((text, sections))
}

/// Runs a section; the error lists all steps with a wrong result.
fn check(path: &str, section: &Section, subject: Option<&str>) -> Result<Completion, String> {
    let outcomes = match subject {
        None => run::inside(section),
        Some(address) => {
            let serves = std::env::var("SERVES").unwrap_or_else(|_| "shop".to_owned());
            if let Some(reason) = run::not_for_addresses(section, &serves) {
                return Ok(Completion::ignored_with(reason));
            }
            run::outside(section, run::server(address)?)
        }
    };
    let outcomes = outcomes.map_err(|what| format!("{path}:{what}"))?;
    let wrong = outcomes.iter().filter_map(|outcome| wrong(path, outcome, subject.is_some()));
    let wrong: Vec<String> = wrong.collect();
    if wrong.is_empty() { Ok(Completion::Completed) } else { Err(format!("\n{}", wrong.join("\n"))) }
}

/// Describes a wrong result.
fn wrong(path: &str, outcome: &Outcome, address: bool) -> Option<String> {
    let place = format!("{path}:{}", outcome.line);
    match &outcome.differs {
        Some(words) if address && outcome.is_right() => Some(format!("{place}: no longer differs: {words}")),
        Some(_) if address => None,
        _ if outcome.expected.is_empty() => {
            Some(format!("{place}: no expectation yet; UPDATE_EXPECT=1 writes the result:\n{}", outcome.difference()))
        }
        _ if outcome.is_right() => None,
        _ => Some(format!("{place}: expected (-), got (+):\n{}", outcome.difference())),
    }
}

/// Writes the actual results into the file.
fn rewrite(path: &Path, text: &str, sections: &[Section]) -> Result<(), String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut outcomes = Vec::new();
    let mut failed = Vec::new();
    for section in sections {
        match run::inside(section) {
            Ok(more) => outcomes.extend(more),
            Err(what) => failed.push(format!("{}:{what}", shown(path))),
        }
    }
    // From the end, so that line numbers before it stay valid.
    for outcome in outcomes.iter().rev().filter(|outcome| !outcome.is_right()) {
        let differs = lines[outcome.body.clone()].iter().filter(|line| line.trim().starts_with("differs:")).cloned();
        let new: Vec<String> =
            differs.chain(outcome.actual.iter().map(|line| format!("    {line}").trim_end().to_owned())).collect();
        lines.splice(outcome.body.clone(), new);
    }
    let new = lines.join("\n") + "\n";
    if new != text {
        std::fs::write(path, new).map_err(|error| error.to_string())?;
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}
