//! A request for DNS over HTTPS: its method and URI, then header lines; and a packet, whose response is cached by its TTLs.
#![no_main]

use clusterdns_fuzz::support::requests::check_doh;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| check_doh(data));
