//! The body of a watch or of a list. The first four bytes choose the kind, the buffer and the pieces.
#![no_main]

use clusterdns_fuzz::support::targets::run;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| run("watch", data));
