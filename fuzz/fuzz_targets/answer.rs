//! Anything that an upstream may send. The first byte chooses the question, and whether the rest is a whole message.
#![no_main]

use clusterdns_fuzz::support::targets::run;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| run("answer", data));
