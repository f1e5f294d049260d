//! The body of a watch or of a list. The first four bytes choose the kind and the pieces in which the body arrives.
#![no_main]

use clusterdns_fuzz::support::sources::check_watch;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| check_watch(data));
