//! User instructions of an answer from the index, counted by callgrind: nearly the same number on a busy machine as on an idle one.
//!
//! `cargo bench --bench instructions` runs itself once under `valgrind --tool=callgrind`. Only what [`answers`] calls is
//! counted, and its end writes the count of one kind of question; the table divides that by the number of answers. From
//! packet to packet, everything of this server is in it; the kernel and the loop over sockets are not.

mod fixture;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use fixture::{Case, Worker};

/// The argument of the run under callgrind.
const COUNTED: &str = "--counted";
/// How many answers of a kind are counted.
const ANSWERS: usize = 1_000;
/// The most instructions of an answer that has one address of a Service, and of one that denies a name or a record.
const ADDRESS_LIMIT: u64 = 2_000;
const DENIAL_LIMIT: u64 = 2_500;

/// The limit of a kind of answer; most are only told.
fn limit(case: &Case) -> Option<u64> {
    match case.name {
        name if name.contains("NXDOMAIN") || name.contains("NODATA") => Some(DENIAL_LIMIT),
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
    // What is left behind is in the temporary directory.
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

/// What is counted. Its name is an option of callgrind's, so that it must stay a function of its own.
#[inline(never)]
fn answers(worker: &mut Worker, case: &Case) {
    for question in case.questions.iter().cycle().take(ANSWERS) {
        std::hint::black_box(worker.answer(question));
    }
}

/// Runs this program under callgrind; gives the instructions of each kind's answers.
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
    // `out.1` is what the first call of `answers` left, and so on.
    (1..=fixture::cases().len()).map(|part| total(&directory.join(format!("out.{part}")))).collect()
}

/// The instructions that a file of callgrind's counts in all.
fn total(file: &PathBuf) -> Result<u64, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    total.ok_or_else(|| format!("{}: no totals", file.display()))
}

/// Prints the table, and says whether all limits hold.
fn report(counts: &[u64]) -> ExitCode {
    let mut exceeded = 0;
    println!("{:<36} {:>12} {:>6}", "answer", "instructions", "limit");
    for (case, &count) in fixture::cases().iter().zip(counts) {
        let each = count.div_ceil(ANSWERS as u64);
        let limit = limit(case);
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
