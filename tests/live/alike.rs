//! The same answers as CoreDNS, for each Corefile.

use libtest_mimic::Failed;

use super::Test;
use super::compare::{Depth, Pair};
use super::corefiles::{COREFILES, Corefile};
use super::marker::Marker;
use super::questions::Objects;
use super::shared::CALM;
use super::wait::SOON;

pub fn tests() -> Vec<Test> {
    COREFILES.iter().map(|corefile| Test::new(format!("alike: {}", corefile.name), || alike(corefile))).collect()
}

fn alike(corefile: &Corefile) -> Result<(), Failed> {
    let cluster = CALM.lock();
    let marker = Marker::set(&cluster.api);
    let pair = Pair::start(&cluster, &[*corefile]);
    pair.wait_for(&marker, SOON);
    pair.compare(&Objects::of(&cluster.api), Depth::Full)?;
    marker.remove(&cluster.api);
    Ok(())
}
