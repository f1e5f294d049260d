//! A request for DNS over HTTPS: its method and URI, then header lines; or a packet, whose response is cached by its
//! TTLs.
#![no_main]

use clusterdns_fuzz::support::targets::run;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| run("doh", data));
