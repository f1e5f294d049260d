//! A packet through the whole chain of a small cluster. The first four octets choose the view and the transport.
#![no_main]

use std::sync::{Arc, LazyLock};

use clusterdns::chain::Transport;
use clusterdns::cluster::Index;
use clusterdns_fuzz::support::Choices;
use clusterdns_fuzz::support::answers::Subject;
use clusterdns_fuzz::support::cluster::{sample, view};
use clusterdns_fuzz::support::messages::{check_answer, check_query};
use libfuzzer_sys::fuzz_target;

static SAMPLE: LazyLock<Arc<Index>> = LazyLock::new(sample);

fuzz_target!(|data: &[u8]| {
    let Some((settings, packet)) = data.split_at_checked(4) else { return };
    let subject = Subject::with_classes(&SAMPLE, view(&mut Choices::new(settings)), settings[3] & 1 == 1);
    for transport in [Transport::Udp, Transport::Tcp] {
        check_answer(&subject, transport, packet);
    }
    check_query(packet);
});
