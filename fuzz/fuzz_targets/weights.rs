//! A file of `loadbalance weighted`.
#![no_main]

use clusterdns_fuzz::support::files::check_weights;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| check_weights(data));
