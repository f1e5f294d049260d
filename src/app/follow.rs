//! What keeps the indexes in step: manifests, where the command line names some, else the API servers of the stanzas.

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

/// How often it is looked whether the cluster is in step, before the sockets open.
const LOOK: Duration = Duration::from_millis(10);
/// After this time of waiting it is said what is waited for.
const FIRST_WORD: Duration = Duration::from_millis(500);
/// And again and again after this time.
const NEXT_WORD: Duration = Duration::from_secs(5);

/// What is there as long as the program, for whoever follows the cluster.
pub struct Follow {
    registry: Registry,
    /// There is one for all watches of the process, made when the first starts.
    metrics: OnceLock<Metrics>,
}

/// Whatever keeps indexes in step, until this is dropped.
#[derive(Default)]
pub struct Following {
    _manifests: Option<manifests::FollowerThread>,
    watch: Option<ApiWatch>,
    /// The indexes.
    indexes: Vec<Arc<Index>>,
    /// The indexes that an API server fills, and how long the start waits for each.
    waiting: Vec<(Arc<Index>, Duration)>,
}

impl Follow {
    /// Nothing is followed yet.
    pub fn new(registry: &Registry) -> Follow {
        Follow { registry: registry.clone(), metrics: OnceLock::new() }
    }

    /// Reports manifests that are of no use: that they cannot be served, or that no stanza wants them.
    pub fn check_manifests(args: &Args, used: &[CurrentIndex]) -> anyhow::Result<()> {
        if !args.manifests.is_empty() && used.is_empty() {
            Manifests::load(&args.manifests)?;
            tracing::warn!("no block has 'kubernetes': the manifests are not served");
        }
        Ok(())
    }

    /// Starts to fill these indexes.
    pub fn start(
        &self, args: &Args, indexes: Vec<Followed>, sources: &Sources, runtime: &Handle,
    ) -> anyhow::Result<Following> {
        let known = indexes.iter().map(|followed| followed.writer.index().clone()).collect();
        if indexes.is_empty() {
            return Ok(Following::default());
        }
        if !args.manifests.is_empty() {
            let following = follow_manifests(args, indexes)?;
            return Ok(Following { _manifests: Some(following), indexes: known, ..Following::default() });
        }
        let metrics = self.metrics.get_or_init(|| Metrics::new(&self.registry));
        let following = follow_api(indexes, sources, metrics, runtime)?;
        Ok(Following { indexes: known, ..following })
    }
}

/// Follows API servers.
fn follow_api(
    indexes: Vec<Followed>, sources: &Sources, metrics: &Metrics, runtime: &Handle,
) -> anyhow::Result<Following> {
    let waiting = indexes.iter().map(|followed| (followed.writer.index().clone(), followed.api.startup_timeout));
    let waiting = waiting.collect();
    let places: Vec<_> = indexes.iter().map(|followed| followed.span).collect();
    let targets = indexes.into_iter().map(target).collect();
    let watch = ApiWatch::start(targets, metrics, Timing::default(), runtime).map_err(|error| {
        let mut diagnostics = Diagnostics::default();
        let diagnostic = Diagnostic::error(Stage::Setup, places[error.target], error.to_string());
        diagnostics.push(diagnostic.plugin("kubernetes"));
        anyhow::anyhow!("{}", render_text(&diagnostics, sources).trim_end())
    })?;
    Ok(Following { watch: Some(watch), waiting, ..Following::default() })
}

/// What the watch wants to know.
fn target(followed: Followed) -> WatchTarget {
    let Followed { api: ApiConfig { server, qps, burst, max_inflight, .. }, selection, writer, .. } = followed;
    let server = match (server.kubeconfig, server.endpoint) {
        (Some((file, context)), _) => ApiServer::Kubeconfig { file, context },
        (None, Some(url)) => ApiServer::Endpoint { url, tls: server.tls },
        (None, None) => ApiServer::InCluster,
    };
    WatchTarget { server, limits: RequestLimits { qps, burst, max_inflight }, selection, writer }
}

impl Following {
    /// Whether any of these indexes is one that it fills.
    pub fn is_used(&self, used: &[CurrentIndex]) -> bool {
        self.indexes.iter().any(|index| used.iter().any(|of| of.uses(index)))
    }

    /// Waits until all indexes are in step, together, and for each at most as long as its stanzas say. CoreDNS's words,
    /// which scripts look for (kubernetes.go, `InitKubeCache`).
    /// `used` says whether an index before it answers until then.
    pub fn wait(&self, used: &[CurrentIndex]) {
        let start = Instant::now();
        let mut next_word = FIRST_WORD;
        let missing = |index: &Index| index.unsynced().map(Kind::name).collect::<Vec<_>>().join(", ");
        loop {
            let behind: Vec<_> = self.waiting.iter().filter(|(index, _)| !index.is_synced()).collect();
            if behind.is_empty() {
                break;
            }
            if behind.iter().all(|(_, patience)| start.elapsed() >= *patience) {
                for (index, _) in behind {
                    let missing = missing(index);
                    if used.iter().any(|of| of.uses(index) && of.is_settling()) {
                        tracing::warn!(
                            plugin = "kubernetes",
                            "no full list yet of {missing}: the cluster's state from before the reload is served"
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
            if start.elapsed() >= next_word {
                let missing = missing(&behind[0].0);
                tracing::info!(
                    plugin = "kubernetes",
                    "waiting for Kubernetes API before starting server: no full list yet of {missing}"
                );
                next_word = start.elapsed() + NEXT_WORD;
            }
            std::thread::sleep(LOOK);
        }
        if let Some(watch) = &self.watch {
            let mut objects = String::new();
            for (kind, count) in watch.counts() {
                let comma = if objects.is_empty() { "" } else { ", " };
                let _ = write!(objects, "{comma}{count} {}", resource(kind));
            }
            let took = start.elapsed().as_secs_f64();
            tracing::info!(plugin = "kubernetes", "in step with the Kubernetes API after {took:.2} s: {objects}");
        }
    }
}

/// Loads the manifests and follows them.
fn follow_manifests(args: &Args, indexes: Vec<Followed>) -> anyhow::Result<manifests::FollowerThread> {
    let manifests = Manifests::load(&args.manifests)?;
    for warning in manifests.snapshot().warnings() {
        tracing::warn!("{warning}");
    }
    let known: Vec<_> = indexes.iter().map(|followed| followed.writer.index().clone()).collect();
    let subscribers = indexes.into_iter().map(|Followed { selection, mut writer, .. }| {
        let sink = Box::new(move |event| {
            writer.apply(event, unix_seconds());
        });
        Subscriber { selection, sink }
    });
    let following = manifests.follow(subscribers.collect()).context("manifests: cannot start a thread")?;
    if known.iter().any(|index| index.is_empty()) {
        tracing::warn!("the manifests hold no Service that is asked for, so that no Service has a name");
    }
    Ok(following)
}
