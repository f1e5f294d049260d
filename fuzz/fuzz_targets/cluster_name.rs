//! Any question has a meaning in every zone and view, and an address survives its form as a label.
#![no_main]

use clusterdns_fuzz::support::targets::run;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| run("cluster_name", data));
