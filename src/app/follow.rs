//! Starts the sources that keep the indexes up to date: manifests if the command line names some, else the API servers
//! of the stanzas.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::runtime::Handle;

use super::args::Args;
use super::indexes::Followed;
use crate::cluster::model::Kind;
use crate::cluster::{CurrentIndex, Index};
use crate::corefile::{Diagnostic, Diagnostics, Sources, Stage, render_text};
use crate::plugins::build::ApiConfig;
use crate::source::manifests::{self, Manifests, Subscriber};
use crate::source::unix_seconds;
use crate::source::watch::{ApiServer, ApiWatch, Metrics, RequestLimits, Timing, WatchTarget, resource};
use crate::telemetry::metrics::Registry;

/// How often the start checks whether the indexes are synced, before the sockets open.
const SYNC_CHECK_INTERVAL: Duration = Duration::from_millis(10);
/// How long the start waits before it logs what it waits for.
const FIRST_REPORT: Duration = Duration::from_millis(500);
/// How long the start waits between two such lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Starts sources. It lives as long as the process.
pub(super) struct SourceStarter {
    registry: Registry,
    /// The metrics of all watches of the process, registered when the first watch starts.
    metrics: OnceLock<Metrics>,
}

/// The running source of some indexes. It stops when this is dropped.
#[derive(Default)]
pub(super) struct RunningSource {
    _manifests: Option<manifests::FollowerThread>,
    watch: Option<ApiWatch>,
    /// The indexes that it updates.
    indexes: Vec<Arc<Index>>,
    /// The indexes that are synced from an API server, and the `startup_timeout` of each.
    startup_timeouts: Vec<(Arc<Index>, Duration)>,
}

impl SourceStarter {
    /// Creates a starter that has started no source yet.
    pub(super) fn new(registry: &Registry) -> SourceStarter {
        SourceStarter { registry: registry.clone(), metrics: OnceLock::new() }
    }

    /// Reports manifests that cannot be read, or that no stanza serves.
    pub(super) fn check_manifests(args: &Args, used: &[CurrentIndex]) -> anyhow::Result<()> {
        if !args.manifests.is_empty() && used.is_empty() {
            Manifests::load(&args.manifests)?;
            tracing::warn!("no block has 'kubernetes': the manifests are not served");
        }
        Ok(())
    }

    /// Starts a source that updates these indexes.
    pub(super) fn start(
        &self, args: &Args, indexes: Vec<Followed>, sources: &Sources, runtime: &Handle,
    ) -> anyhow::Result<RunningSource> {
        let updated = indexes.iter().map(|followed| followed.writer.index().clone()).collect();
        if indexes.is_empty() {
            return Ok(RunningSource::default());
        }
        if !args.manifests.is_empty() {
            let manifests = follow_manifests(args, indexes)?;
            return Ok(RunningSource { _manifests: Some(manifests), indexes: updated, ..RunningSource::default() });
        }
        let metrics = self.metrics.get_or_init(|| Metrics::new(&self.registry));
        let source = follow_api(indexes, sources, metrics, runtime)?;
        Ok(RunningSource { indexes: updated, ..source })
    }
}

/// Starts to watch the API servers of these indexes.
fn follow_api(
    indexes: Vec<Followed>, sources: &Sources, metrics: &Metrics, runtime: &Handle,
) -> anyhow::Result<RunningSource> {
    let startup_timeouts =
        indexes.iter().map(|followed| (followed.writer.index().clone(), followed.api.startup_timeout)).collect();
    let places: Vec<_> = indexes.iter().map(|followed| followed.span).collect();
    let targets = indexes.into_iter().map(watch_target).collect();
    let watch = ApiWatch::start(targets, metrics, Timing::default(), runtime).map_err(|error| {
        let mut diagnostics = Diagnostics::default();
        let diagnostic = Diagnostic::error(Stage::Setup, places[error.target], error.to_string());
        diagnostics.push(diagnostic.plugin("kubernetes"));
        anyhow::anyhow!("{}", render_text(&diagnostics, sources).trim_end())
    })?;
    Ok(RunningSource { watch: Some(watch), startup_timeouts, ..RunningSource::default() })
}

/// Returns how an index is watched: the API server, the limits on requests, and the selected objects.
fn watch_target(followed: Followed) -> WatchTarget {
    let Followed { api: ApiConfig { server, qps, burst, max_inflight, .. }, selection, writer, .. } = followed;
    let server = match (server.kubeconfig, server.endpoint) {
        (Some((file, context)), _) => ApiServer::Kubeconfig { file, context },
        (None, Some(url)) => ApiServer::Endpoint { url, tls: server.tls },
        (None, None) => ApiServer::InCluster,
    };
    WatchTarget { server, limits: RequestLimits { qps, burst, max_inflight }, selection, writer }
}

impl RunningSource {
    /// Returns whether it updates any of these indexes.
    pub(super) fn is_used(&self, used: &[CurrentIndex]) -> bool {
        self.indexes.iter().any(|index| used.iter().any(|of| of.uses(index)))
    }

    /// Waits until all indexes are synced. The wait is concurrent, and for each index at most its `startup_timeout`.
    /// The log lines are those of CoreDNS, which scripts look for (kubernetes.go, `InitKubeCache`). `used` are the
    /// indexes that answer, some of them with the state from before a reload until their successor is synced.
    pub(super) fn wait_until_synced(&self, used: &[CurrentIndex]) {
        let start = Instant::now();
        let mut next_report = FIRST_REPORT;
        let missing = |index: &Index| index.unsynced().map(Kind::name).collect::<Vec<_>>().join(", ");
        loop {
            let unsynced: Vec<_> = self.startup_timeouts.iter().filter(|(index, _)| !index.is_synced()).collect();
            if unsynced.is_empty() {
                break;
            }
            if unsynced.iter().all(|(_, timeout)| start.elapsed() >= *timeout) {
                for (index, _) in unsynced {
                    let missing = missing(index);
                    if used.iter().any(|of| of.uses(index) && of.is_settling()) {
                        tracing::warn!(
                            plugin = "kubernetes",
                            "no full list yet of {missing}: the cluster state from before the reload is served"
                        );
                        continue;
                    }
                    tracing::warn!(
                        plugin = "kubernetes",
                        "starting server with unsynced Kubernetes API: no full list yet of {missing}"
                    );
                }
                return;
            }
            if start.elapsed() >= next_report {
                let missing = missing(&unsynced[0].0);
                tracing::info!(
                    plugin = "kubernetes",
                    "waiting for Kubernetes API before starting server: no full list yet of {missing}"
                );
                next_report = start.elapsed() + REPORT_INTERVAL;
            }
            std::thread::sleep(SYNC_CHECK_INTERVAL);
        }
        if let Some(watch) = &self.watch {
            let mut objects = String::new();
            for (kind, count) in watch.counts() {
                let comma = if objects.is_empty() { "" } else { ", " };
                let _ = write!(objects, "{comma}{count} {}", resource(kind));
            }
            let took = start.elapsed().as_secs_f64();
            tracing::info!(plugin = "kubernetes", "synced with the Kubernetes API after {took:.2} s: {objects}");
        }
    }
}

/// Loads the manifests into these indexes, and follows changes of the files.
fn follow_manifests(args: &Args, indexes: Vec<Followed>) -> anyhow::Result<manifests::FollowerThread> {
    let manifests = Manifests::load(&args.manifests)?;
    for warning in manifests.snapshot().warnings() {
        tracing::warn!("{warning}");
    }
    let filled: Vec<_> = indexes.iter().map(|followed| followed.writer.index().clone()).collect();
    let subscribers = indexes.into_iter().map(|Followed { selection, mut writer, .. }| {
        let sink = Box::new(move |event| {
            writer.apply(event, unix_seconds());
        });
        Subscriber { selection, sink }
    });
    let follower = manifests.follow(subscribers.collect()).context("manifests: cannot start a thread")?;
    if filled.iter().any(|index| index.is_empty()) {
        tracing::warn!("no Service of the manifests is selected, so that no Service has a name");
    }
    Ok(follower)
}
