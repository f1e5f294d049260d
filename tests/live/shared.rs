//! Clusters that several tests use, one test at a time: a start costs seconds, most of them the API server's.

use std::path::{Path, PathBuf};

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};

use super::cluster::Cluster;
use super::shop;

/// A cluster that is started by the first test that wants it.
pub struct Shared {
    name: &'static str,
    /// Locked by the test that uses it. A test that fails leaves it to the next, which heals it first.
    cluster: Mutex<Option<Cluster>>,
}

/// For tests that change objects only.
pub static CALM: Shared = Shared { name: "calm", cluster: Mutex::new(None) };
/// For tests that take the control plane away.
pub static ROUGH: Shared = Shared { name: "rough", cluster: Mutex::new(None) };
/// For tests of rights and credentials, and those that need a cluster to restart.
pub static GUARDED: Shared = Shared { name: "guarded", cluster: Mutex::new(None) };
/// How many tests can run at a time, and how many more may wait for their turns so that no cluster has to.
pub const THREADS: usize = 3 + 5;

impl Shared {
    /// Waits for one's turn; the cluster runs and holds the shop.
    pub fn lock(&'static self) -> MappedMutexGuard<'static, Cluster> {
        let mut cluster = self.cluster.lock();
        match &mut *cluster {
            Some(cluster) => cluster.heal(),
            None => {
                let started = Cluster::start(folder().join(self.name));
                shop::open(&started.api);
                *cluster = Some(started);
            }
        }
        MutexGuard::map(cluster, |cluster| cluster.as_mut().expect("started above"))
    }
}

/// Removes what runs before this one have left.
pub fn sweep() {
    let Ok(entries) = std::fs::read_dir(all()) else { return };
    for entry in entries.flatten() {
        if !Path::new("/proc").join(entry.file_name()).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Ends the clusters. Their files stay where a test has failed.
pub fn end(failed: bool) {
    for shared in [&CALM, &ROUGH, &GUARDED] {
        shared.cluster.lock().take();
    }
    if failed {
        eprintln!("logs of the clusters and servers: {}", folder().display());
    } else {
        let _ = std::fs::remove_dir_all(folder());
    }
}

/// The folder of this run.
pub fn folder() -> PathBuf {
    all().join(std::process::id().to_string())
}

/// The folder of all runs.
fn all() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("live")
}
