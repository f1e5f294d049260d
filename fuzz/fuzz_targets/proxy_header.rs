//! A header of the PROXY protocol.
#![no_main]

use clusterdns_fuzz::support::targets::run;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| run("proxy_header", data));
