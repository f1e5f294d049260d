//! However a state was reached, it is that of one full list. The first 24 bytes are settings, each 24 that follow a step
//! of the history.
#![no_main]

use std::hash::Hasher as _;

use clusterdns_fuzz::support::history::{Depth, STEP, Step, check_history};
use libfuzzer_sys::fuzz_target;

/// One case in this many compares every answer. Coverage must not choose it, or the corpus fills with slow cases.
const ANSWERS: u64 = 128;

fuzz_target!(|data: &[u8]| {
    let (settings, steps) = data.split_at(data.len().min(24));
    let steps: Vec<Step> = steps.chunks(STEP).map(Step::new).collect();
    // `DefaultHasher::new` has fixed keys: the same input makes the same choice.
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(data);
    let depth = if hasher.finish() % ANSWERS == 0 { Depth::Answers } else { Depth::State };
    check_history(&steps, settings, depth);
});
