//! The Kubernetes API as a source of events: a list and a watch of each kind that is wanted.
//!
//! ```text
//! Connection (client, limits) ─ Follower (one a kind) ─ Lines (body → lines) ─ decode (JSON → model) ─ IndexWriter
//!                                  └ Schedule: what comes next, after how long
//! ```
//!
//! It heals from everything that an API server has been seen to do, and never needs a restart. Nothing is deleted
//! because of an error: the last known state is served until a full list says otherwise.

mod backoff;
mod connection;
pub mod decode;
mod error;
mod follow;
mod limits;
pub mod lines;
mod metrics;
mod schedule;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};

pub use connection::{ConnectionError, Server};
pub use error::Refusal;
pub use limits::Limits;
pub use metrics::Metrics;
pub use schedule::Timing;

use super::Selection;
use crate::cluster::IndexWriter;
use crate::cluster::model::Kind;
use connection::Connection;
use follow::Follower;
use status::Complaints;

/// How long after a panic a kind is followed anew.
const AGAIN: Duration = Duration::from_secs(1);

/// An index, and where its objects are.
pub struct Target {
    /// The API server.
    pub server: Server,
    /// How often it may be asked.
    pub limits: Limits,
    /// Which objects.
    pub selection: Selection,
    /// Where they go.
    pub writer: IndexWriter,
}

/// Watches that go on until this is dropped.
#[derive(Debug, Default)]
pub struct Watch {
    tasks: Vec<JoinHandle<()>>,
    /// What is followed, by index.
    followed: Vec<(Selection, Arc<Mutex<IndexWriter>>)>,
}

/// A target whose API server cannot be reached as it is configured.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct StartError {
    /// Which of the targets.
    pub target: usize,
    /// Why.
    #[source]
    pub error: ConnectionError,
}

impl Watch {
    /// Starts to follow all targets on a runtime. What is configured must be readable; that an API server does not
    /// answer is no error.
    pub fn start(
        targets: Vec<Target>, metrics: &Metrics, timing: Timing, runtime: &Handle,
    ) -> Result<Watch, StartError> {
        // Whoever asks the same API server shares its client, its limits, and what is told of it.
        let mut connections: Vec<(Server, Arc<Connection>, Arc<Complaints>)> = Vec::new();
        let mut watch = Watch::default();
        for (target, Target { server, limits, selection, writer }) in targets.into_iter().enumerate() {
            let (connection, log) = match connections.iter().find(|(known, ..)| *known == server) {
                Some((_, connection, log)) => (connection.clone(), log.clone()),
                None => {
                    let connection = Arc::new(Connection::new(server.clone(), limits, metrics.clone()));
                    runtime.block_on(connection.check()).map_err(|error| StartError { target, error })?;
                    let log = Arc::new(Complaints::default());
                    connections.push((server, connection.clone(), log.clone()));
                    (connection, log)
                }
            };
            let (keep, index) = (writer.endpoint_fields(), writer.index().clone());
            let writer = Arc::new(Mutex::new(writer));
            for kind in selection.kinds() {
                let follower = Follower {
                    kind,
                    keep,
                    selection: selection.clone(),
                    connection: connection.clone(),
                    writer: writer.clone(),
                    index: index.clone(),
                    status: metrics.watch(kind, log.clone()),
                    timing,
                };
                watch.tasks.push(runtime.spawn(keep_on(Arc::new(follower))));
            }
            watch.followed.push((selection, writer));
        }
        Ok(watch)
    }

    /// How many objects of each kind that is wanted are known, in all indexes together.
    pub fn counts(&self) -> impl Iterator<Item = (Kind, usize)> {
        Kind::ALL.into_iter().filter_map(|kind| {
            let of = self.followed.iter().filter(|(selection, _)| selection.kinds().any(|wanted| wanted == kind));
            of.map(|(_, writer)| writer.lock().count(kind)).reduce(|a, b| a + b).map(|count| (kind, count))
        })
    }
}

/// Follows a kind, and goes on should that panic.
async fn keep_on(follower: Arc<Follower>) {
    loop {
        let mut task = JoinSet::new();
        task.spawn(follower.clone().run());
        if let Some(Err(error)) = task.join_next().await {
            tracing::error!(plugin = "kubernetes", %error, "following {} starts anew", resource(follower.kind));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A kind's resource, as RBAC and messages name it.
pub fn resource(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "namespaces",
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices.discovery.k8s.io",
        Kind::Pod => "pods",
    }
}

/// A kind's path on the API server, over all namespaces.
fn path(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "/api/v1/namespaces",
        Kind::Service => "/api/v1/services",
        Kind::EndpointSlice => "/apis/discovery.k8s.io/v1/endpointslices",
        Kind::Pod => "/api/v1/pods",
    }
}
