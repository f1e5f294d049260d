//! A file of `loadbalance weighted`.
#![no_main]

use clusterdns_fuzz::support::targets::run;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| run("weights", data));
