//! A manifest as YAML and as JSON. The first byte chooses what an index wants to hear of.
#![no_main]

use clusterdns_fuzz::support::targets::run;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| run("manifest", data));
