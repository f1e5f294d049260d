//! What the page shows.

use crate::app::top::TopReport;

/// The state of the server, as text and numbers.
#[derive(Debug, Default)]
pub(super) struct ServerStatus {
    /// The name and version.
    pub version: String,
    /// The commit; empty if it was not known when this was built.
    pub commit: String,
    /// The operating system and the architecture.
    pub platform: String,
    /// The name of the machine; in a Pod that of the Pod.
    pub host: String,
    /// When the process started, in UTC, and how long ago that is.
    pub up_since: String,
    pub up_for: String,
    /// `serving`, or what the process does instead.
    pub phase: &'static str,
    /// The listeners for queries with their zones.
    pub listeners: Vec<(String, Vec<String>)>,
    /// The objects of the cluster.
    pub kinds: Vec<KindStatus>,
    /// The upstreams.
    pub upstreams: Vec<UpstreamStatus>,
    /// The caches, all together.
    pub cache: Option<CacheStatus>,
    /// The visitor may see what clients look up, and errors.
    pub is_local: bool,
    /// The most frequent names and clients of the last minute.
    pub top: Option<TopReport>,
    /// The last errors and warnings, newest first: time, level and text.
    pub errors: Vec<[String; 3]>,
    /// The paths of the other pages of this listener.
    pub pages: Vec<&'static str>,
    /// Address and path of the pages of other listeners.
    pub pages_elsewhere: Vec<String>,
    /// The port of this listener; 0 if it is another one each time.
    pub port: u16,
    /// The ports of other listeners that `kubectl port-forward` reaches.
    pub ports_elsewhere: Vec<u16>,
}

/// The sync state of a kind of object.
#[derive(Debug)]
pub(super) struct KindStatus {
    pub kind: &'static str,
    pub is_synced: bool,
    /// The number of objects.
    pub objects: Option<u64>,
    /// Seconds since the API server sent something.
    pub seen: Option<f64>,
}

/// The state of an upstream.
#[derive(Debug)]
pub(super) struct UpstreamStatus {
    pub address: String,
    /// Failed attempts and health checks since the last success.
    pub fails: u32,
    /// Failed health checks since the start.
    pub failed_checks: u64,
    pub answers: u64,
    /// Answers with SERVFAIL.
    pub failures: u64,
    /// The mean time to an answer in milliseconds.
    pub mean: Option<f64>,
    /// The bound in milliseconds below which 99 % of the answers came.
    pub p99: Option<f64>,
}

/// The state of the caches.
#[derive(Debug)]
pub(super) struct CacheStatus {
    pub entries: u64,
    pub requests: u64,
    pub hits: u64,
}
