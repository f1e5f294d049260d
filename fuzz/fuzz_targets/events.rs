//! However a state was reached, the answers are those of one full list of it. The first 24 octets are settings, each 24
//! that follow a step of the history.
#![no_main]

use clusterdns_fuzz::support::history::{STEP, Step, check_history};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (settings, steps) = data.split_at(data.len().min(24));
    let steps: Vec<Step> = steps.chunks(STEP).map(Step::new).collect();
    check_history(&steps, settings);
});
