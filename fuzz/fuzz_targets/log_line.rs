//! A format of *log*, a zero byte and a packet whose line it makes.
#![no_main]

use clusterdns_fuzz::support::targets::run;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| run("log_line", data));
