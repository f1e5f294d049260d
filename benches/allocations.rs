//! Asserts that an answer from the index allocates nothing: a counting allocator looks on.
//!
//! `cargo bench --bench allocations` prints a line a kind of question and fails if any answer is wrong or any allocates.

mod counting;
mod fixture;

use std::process::ExitCode;

use counting::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    let cases = fixture::cases();
    let mut worker = fixture::Worker::new();
    let mut faults = 0;
    println!("{:<36} {:>9} {:>8} {:>12}", "answer", "questions", "octets", "allocations");
    for case in &cases {
        // The first round warms up, as a worker's first answers do, and checks what is said.
        let (mut octets, mut wrong) = (0, 0);
        for question in &case.questions {
            let answer = worker.answer(question);
            octets += answer.len();
            if let Err(fault) = question.check(answer) {
                if wrong == 0 {
                    println!("wrong answer to {fault}");
                }
                wrong += 1;
            }
        }
        faults += wrong;
        let before = counting::allocations();
        for question in &case.questions {
            std::hint::black_box(worker.answer(question));
        }
        let allocations = counting::allocations() - before;
        faults += usize::from(allocations > 0);
        let count = case.questions.len();
        let each = allocations as f64 / count as f64;
        println!("{:<36} {:>9} {:>8} {:>12.2}", case.name, count, octets / count, each);
    }
    // Kinds in turn: what a large answer has made the worker keep or give back must not make a small one allocate.
    let before = counting::allocations();
    for question in cases.iter().flat_map(|case| &case.questions) {
        std::hint::black_box(worker.answer(question));
    }
    let allocations = counting::allocations() - before;
    println!("all kinds in turn: {allocations} allocations");
    if faults > 0 || allocations > 0 {
        println!("FAILED");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
