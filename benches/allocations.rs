//! Asserts that an answer from the index allocates no memory, with a counting allocator.
//!
//! `cargo bench --bench allocations` prints a line for each kind of question, and fails if an answer is wrong or
//! allocates.

mod counting;
mod fixture;

use std::process::ExitCode;

use counting::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Whether answers of a kind may allocate: those that *template* writes do.
fn may_allocate(case: &fixture::Case) -> bool {
    case.name.starts_with("template")
}

fn main() -> ExitCode {
    let cases = fixture::cases();
    let mut worker = fixture::Worker::new();
    let mut failures = 0;
    println!("{:<36} {:>9} {:>8} {:>12}", "answer", "questions", "bytes", "allocations");
    for case in &cases {
        // The first round warms up the worker, and checks the answers.
        let (mut bytes, mut wrong) = (0, 0);
        for question in &case.questions {
            let answer = worker.answer(question);
            bytes += answer.len();
            if let Err(error) = question.check(answer) {
                if wrong == 0 {
                    println!("wrong answer to {error}");
                }
                wrong += 1;
            }
        }
        failures += wrong;
        let before = counting::allocations();
        for question in &case.questions {
            std::hint::black_box(worker.answer(question));
        }
        let allocations = counting::allocations() - before;
        failures += usize::from(allocations > 0 && !may_allocate(case));
        let count = case.questions.len();
        let each = allocations as f64 / count as f64;
        println!("{:<36} {:>9} {:>8} {:>12.2}", case.name, count, bytes / count, each);
    }
    // All kinds in turn: a buffer that grew for a large answer, or was released, must not make a small answer allocate.
    let before = counting::allocations();
    for question in cases.iter().filter(|case| !may_allocate(case)).flat_map(|case| &case.questions) {
        std::hint::black_box(worker.answer(question));
    }
    let allocations = counting::allocations() - before;
    println!("all kinds in turn: {allocations} allocations");
    if failures > 0 || allocations > 0 {
        println!("FAILED");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
