//! A packet through the whole chain of a small cluster. The first four bytes choose the view and the classes.
#![no_main]

use clusterdns_fuzz::support::targets::run;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| run("query", data));
