//! Any text as a Corefile. The parts between the first form feeds are the Corefile and files that it may import.
#![no_main]

use clusterdns_fuzz::support::targets::run;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| run("corefile", data));
