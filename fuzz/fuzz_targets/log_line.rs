//! A format of *log*, a zero byte and a packet whose line it makes.
#![no_main]

use clusterdns_fuzz::support::log_lines::check_log_line;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| check_log_line(data));
