//! A manifest as YAML and as JSON. The first byte chooses what an index wants to hear of.
#![no_main]

use clusterdns_fuzz::support::sources::check_manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| check_manifest(data));
