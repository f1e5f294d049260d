//! Any question has a meaning, in every zone and view; and an address survives being an endpoint's label.
#![no_main]

use std::net::Ipv6Addr;
use std::sync::{Arc, LazyLock};

use clusterdns::cluster::Index;
use clusterdns_fuzz::support::cluster::sample;
use clusterdns_fuzz::support::names::{check_dashed, check_question};
use libfuzzer_sys::fuzz_target;

static SAMPLE: LazyLock<Arc<Index>> = LazyLock::new(sample);

fuzz_target!(|data: &[u8]| {
    check_question(data, &SAMPLE);
    if let Some(address) = data.first_chunk::<16>() {
        check_dashed(Ipv6Addr::from(*address).into());
    }
});
