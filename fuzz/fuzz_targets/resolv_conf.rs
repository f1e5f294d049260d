//! A resolv.conf.
#![no_main]

use clusterdns_fuzz::support::files::check_resolv_conf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| check_resolv_conf(data));
