//! User instructions of an answer from the index, counted by callgrind. The number is nearly the same on a busy machine
//! as on an idle one.
//!
//! `cargo bench --bench instructions` runs itself under `valgrind --tool=callgrind`. Only calls from [`answers`] are
//! counted, and its end writes the count of a kind of question, which the table divides by the number of answers. The
//! count contains everything of this server from packet to packet, but not the kernel and the loop over sockets.

mod fixture;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use fixture::{Case, Worker};

/// The argument of the run under callgrind.
const COUNTED: &str = "--counted";
/// The number of counted answers of each kind.
const ANSWERS: usize = 1_000;
/// The limits of instructions for an answer with one address of a Service, and for a denial.
const ADDRESS_LIMIT: u64 = 2_000;
const DENIAL_LIMIT: u64 = 2_500;
/// The limit of an answer that *template* writes.
const TEMPLATE_LIMIT: u64 = 6_000;
/// The limit of the cost of a *view* of two comparisons.
const VIEW_LIMIT: u64 = 300;

/// Returns the limit of a kind of answer; most kinds have none. `counts` has the answers of each kind.
fn limit(case: &Case, counts: &[(&str, u64)]) -> Option<u64> {
    let count_of = |name: &str| counts.iter().find(|(other, _)| *other == name).map(|(_, count)| *count);
    // Rewritten names, and those of a view, are compared with the same answer from a block like theirs: one that has a
    // zone of its own, but neither *rewrite* nor *view*.
    let of_own_zone = |same: &str| count_of(&format!("own zone: {same}")).expect("the same answer is a kind too");
    match case.name.split_once(": ") {
        Some((how, same)) if how.starts_with("rewritten") => return Some(of_own_zone(same) * 3 / 2),
        Some(("view", same)) => return Some(of_own_zone(same) + VIEW_LIMIT),
        _ => {}
    }
    match case.name {
        name if name.contains("NXDOMAIN") || name.contains("NODATA") => Some(DENIAL_LIMIT),
        name if name.starts_with("template") => Some(TEMPLATE_LIMIT),
        name if name.starts_with("ClusterIP") => Some(ADDRESS_LIMIT),
        _ => None,
    }
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == COUNTED) {
        count();
        return ExitCode::SUCCESS;
    }
    let directory = std::env::temp_dir().join(format!("clusterdns-instructions-{}", std::process::id()));
    let outcome = run(&directory);
    // If this fails, files stay in the temporary directory.
    let _ = std::fs::remove_dir_all(&directory);
    match outcome {
        Ok(counts) => report(&counts),
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Answers each kind of question under callgrind.
fn count() {
    let cases = fixture::cases();
    let mut worker = Worker::new();
    for case in &cases {
        for question in &case.questions {
            question.check(worker.answer(question)).expect("the right answer");
        }
        answers(&mut worker, case);
    }
}

/// The counted function. callgrind gets its name as an option, so it must not be inlined.
#[inline(never)]
fn answers(worker: &mut Worker, case: &Case) {
    for question in case.questions.iter().cycle().take(ANSWERS) {
        std::hint::black_box(worker.answer(question));
    }
}

/// Runs this program under callgrind, and returns the instructions of the answers of each kind.
fn run(directory: &Path) -> Result<Vec<u64>, String> {
    std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=instructions::answers", "--dump-after=instructions::answers"])
        .arg(format!("--callgrind-out-file={}", directory.join("out").display()))
        .arg(program)
        .arg(COUNTED)
        .output()
        .map_err(|error| format!("valgrind cannot be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("the counted run failed:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    // `out.1` is the result of the first call of `answers`, and so on.
    (1..=fixture::cases().len()).map(|part| total(&directory.join(format!("out.{part}")))).collect()
}

/// Returns the total of instructions in a file of callgrind.
fn total(file: &PathBuf) -> Result<u64, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    total.ok_or_else(|| format!("{}: no totals", file.display()))
}

/// Prints the table, and fails if a limit is exceeded.
fn report(counts: &[u64]) -> ExitCode {
    let mut exceeded = 0;
    println!("{:<36} {:>12} {:>6}", "answer", "instructions", "limit");
    let cases = fixture::cases();
    let counts: Vec<(&str, u64)> =
        cases.iter().zip(counts).map(|(case, count)| (case.name, count.div_ceil(ANSWERS as u64))).collect();
    for (case, &(_, each)) in cases.iter().zip(&counts) {
        let limit = limit(case, &counts);
        let verdict = if limit.is_some_and(|limit| each > limit) { "EXCEEDED" } else { "" };
        exceeded += usize::from(!verdict.is_empty());
        let limit = limit.map_or_else(String::new, |limit| limit.to_string());
        println!("{:<36} {each:>12} {limit:>6} {verdict}", case.name);
    }
    if exceeded > 0 {
        println!("FAILED: {exceeded} above their limit");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
