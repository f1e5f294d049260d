//! A reply that is encoded. The first 24 bytes make the query and the reply's head, each 24 that follow a record.
#![no_main]

use clusterdns_fuzz::support::targets::run;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| run("reply", data));
