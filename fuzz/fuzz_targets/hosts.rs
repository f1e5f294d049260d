//! A hosts file. The first byte chooses the zone and the pieces in which the file arrives.
#![no_main]

use clusterdns_fuzz::support::targets::run;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| run("hosts", data));
