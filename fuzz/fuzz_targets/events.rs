//! A history of a cluster. The first 24 bytes are settings, each 24 that follow a step.
#![no_main]

use clusterdns_fuzz::support::targets::run;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| run("events", data));
