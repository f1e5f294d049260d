//! Anything that another server may send. The first octet chooses the question, and whether the rest is a whole message.
#![no_main]

use clusterdns_fuzz::support::upstream::check_upstream_answer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| check_upstream_answer(data));
