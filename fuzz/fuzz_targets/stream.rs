//! Messages in a stream: of a client over TCP and QUIC, and of an upstream, whose answer has the ID of the first two
//! bytes.
#![no_main]

use clusterdns_fuzz::support::targets::run;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| run("stream", data));
