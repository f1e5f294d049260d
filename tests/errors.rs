//! Common errors in Corefiles (`tests/data/errors.txt`): what `-check` says about each, side by side with CoreDNS.
//! `UPDATE_EXPECT=1` writes docs/errors.md.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The texts of which every message has one: what was expected, or what to do, or which value is out of range.
const WAYS_OUT: [&str; 11] = [
    "expected: ",
    "did you mean",
    ": write ",
    "; write ",
    "delete it",
    "forward ZONE",
    "cannot read ",
    "not found: ",
    "must be ",
    "unexpected token",
    "'whoami' and 'log' are served",
];

/// A Corefile with an error.
struct Wrong {
    title: String,
    corefile: String,
    /// The lines that CoreDNS prints at start. Without one, it starts.
    coredns: Vec<String>,
}

fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn wrong_corefiles() -> Vec<Wrong> {
    let mut all: Vec<Wrong> = Vec::new();
    for line in fs::read_to_string(file("tests/data/errors.txt")).expect("the Corefiles").lines() {
        if let Some(title) = line.strip_prefix("== ") {
            all.push(Wrong { title: title.to_owned(), corefile: String::new(), coredns: Vec::new() });
        } else if let Some(last) = all.last_mut() {
            if let Some(line) = line.strip_prefix("    ") {
                writeln!(last.corefile, "{line}").expect("a string takes everything");
            } else if let Some(line) = line.strip_prefix("coredns: ") {
                last.coredns.push(line.to_owned());
            } else {
                assert_eq!(line, "", "a line of the file");
            }
        }
    }
    all
}

/// Returns what `-check` prints for a Corefile, without its last line, and whether it accepts the Corefile.
fn check(corefile: &str) -> (String, bool) {
    let folder = std::env::temp_dir().join(format!("clusterdns-errors-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("Corefile"), corefile).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_clusterdns"));
    let output = command.args(["-check", "-conf", "Corefile"]).current_dir(&folder).output().expect("the program runs");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).expect("text");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("Corefile: ")).collect();
    (lines.join("\n"), output.status.success())
}

/// Every error is reported with its place and with what to do, and no message says less than CoreDNS's.
#[test]
fn every_error_is_reported_with_its_place_and_a_way_out() {
    let mut page = String::from(
        "# Errors in Corefiles\n\nWhat `clusterdns -check` says about common errors, beside what CoreDNS 1.15.0 prints at start. \
         A start prints the\nsame. A warning is about what CoreDNS accepts, so the server starts all the same, or about what this machine\nlacks, \
         such as a file, an address or an interface: a start here fails. `tests/errors.rs` writes this page.\n",
    );
    let all = wrong_corefiles();
    assert!(all.len() >= 40, "{}", all.len());
    for Wrong { title, corefile, coredns } in all {
        let (text, is_accepted) = check(&corefile);
        assert!(!text.is_empty(), "{title}: nothing is reported");
        let has_place = text.starts_with("Corefile:") || corefile.is_empty();
        assert!(has_place, "{title}: no place\n{text}");
        let has_way_out = WAYS_OUT.iter().any(|part| text.contains(part));
        assert!(has_way_out, "{title}: no way out\n{text}");
        // What CoreDNS refuses for a reason that is not of this machine is refused here too.
        let is_refused_there =
            coredns.iter().any(|line| line.contains("Error during parsing") || line.contains("Syntax error"));
        assert!(!is_refused_there || !is_accepted, "{title}: accepted\n{text}");
        let mut capital = title.chars();
        let capital: String = capital.next().into_iter().flat_map(char::to_uppercase).chain(capital).collect();
        let coredns = if coredns.is_empty() { "(starts without a message)".to_owned() } else { coredns.join("\n") };
        write!(
            page,
            "\n## {capital}\n\n```text\n{corefile}```\n\nCoreDNS:\n\n```text\n{coredns}\n```\n\nHere:\n\n```text\n{text}\n```\n"
        )
        .expect("a string takes everything");
    }
    let path = file("docs/errors.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &page).expect("written");
    }
    assert_eq!(fs::read_to_string(path).unwrap_or_default(), page, "run with UPDATE_EXPECT=1");
}
