//! A reply, encoded within a limit, is what hickory decodes. The first 24 octets make the query and the reply's head,
//! each 24 that follow a record.
#![no_main]

use clusterdns_fuzz::support::messages::check_reply;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (settings, records) = data.split_at(data.len().min(24));
    check_reply(settings, records);
});
