//! Clusters that tests share, one test at a time, since a start takes seconds, mostly for the API server.

use std::path::{Path, PathBuf};

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};

use super::cluster::Cluster;
use super::shop;

/// A cluster that the first test starts.
pub struct Shared {
    name: &'static str,
    /// Locked by the test that uses it. After a failed test, the next one repairs it first.
    cluster: Mutex<Option<Cluster>>,
}

/// For tests that change objects only.
pub static CALM: Shared = Shared { name: "calm", cluster: Mutex::new(None) };
/// For tests with outages of the control plane.
pub static ROUGH: Shared = Shared { name: "rough", cluster: Mutex::new(None) };
/// For tests of rights and credentials, and those that need a cluster to restart.
pub static GUARDED: Shared = Shared { name: "guarded", cluster: Mutex::new(None) };
/// The number of tests that can run at a time, and how many more may wait, so that no cluster is idle.
pub const THREADS: usize = 3 + 5;

impl Shared {
    /// Waits for the cluster, which is running and has the objects of the shop.
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

/// Removes files of earlier runs.
pub fn sweep() {
    let Ok(entries) = std::fs::read_dir(all()) else { return };
    for entry in entries.flatten() {
        if !Path::new("/proc").join(entry.file_name()).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Stops the clusters. Their files stay if a test has failed.
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

/// Returns the directory of this run.
pub fn folder() -> PathBuf {
    all().join(std::process::id().to_string())
}

/// Returns the directory of all runs.
fn all() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("live")
}
