//! The Kubernetes API as a source of events: a list and a watch of each kind that an index needs.
//!
//! ```text
//! ApiConnection (client, limits) ─ Follower (one a kind) ─ Lines (body → lines) ─ decode (JSON → model) ─ IndexWriter
//!                                     └ Schedule: the next step, and the wait before it
//! ```
//!
//! Watches recover from every failure of an API server without a restart. An error deletes nothing: the last known
//! state is served until a complete list replaces it.

mod backoff;
mod connection;
pub mod decode;
mod error;
mod follow;
mod limits;
pub mod lines;
mod metrics;
mod read;
mod resource;
mod schedule;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};

pub use connection::ApiServer;
pub use error::{ConnectionError, Refusal, WatchError};
pub use limits::RequestLimits;
pub use metrics::Metrics;
pub use read::{ApiReader, ReadQuery};
pub use resource::resource;
pub use schedule::Timing;

use super::Selection;
use crate::cluster::IndexWriter;
use crate::cluster::model::Kind;
use connection::ApiConnection;
use follow::Follower;
use status::{ErrorLog, WatchStatus};

/// The delay before a kind is indexes again after a panic.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// An index, and the API server with its objects.
pub struct WatchTarget {
    /// The API server.
    pub server: ApiServer,
    /// The limits of requests to the API server.
    pub limits: RequestLimits,
    /// The objects of the index.
    pub selection: Selection,
    /// The writer of the index.
    pub writer: IndexWriter,
}

/// Watches, which run until this is dropped.
#[derive(Debug, Default)]
pub struct ApiWatch {
    tasks: Vec<JoinHandle<()>>,
    /// The selection and the writer of each index.
    indexes: Vec<(Selection, Arc<Mutex<IndexWriter>>)>,
}

/// An error in the configuration of the API server of a target.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct StartError {
    /// The index of the target.
    pub target: usize,
    /// The error.
    #[source]
    pub error: ConnectionError,
}

impl ApiWatch {
    /// Starts to follow all targets on a runtime. Configured files must be readable; an API server that does not answer
    /// is not an error.
    pub fn start(
        targets: Vec<WatchTarget>, metrics: &Metrics, timing: Timing, runtime: &Handle,
    ) -> Result<ApiWatch, StartError> {
        // Targets of the same API server share its client, its limits and the log of its errors.
        let mut connections: Vec<(ApiServer, Arc<ApiConnection>, Arc<ErrorLog>)> = Vec::new();
        let mut watch = ApiWatch::default();
        for (target, WatchTarget { server, limits, selection, writer }) in targets.into_iter().enumerate() {
            let (connection, log) = match connections.iter().find(|(known, ..)| *known == server) {
                Some((_, connection, log)) => (connection.clone(), log.clone()),
                None => {
                    let connection = Arc::new(ApiConnection::new(server.clone(), limits, metrics.clone()));
                    runtime.block_on(connection.check()).map_err(|error| StartError { target, error })?;
                    let log = Arc::new(ErrorLog::default());
                    connections.push((server, connection.clone(), log.clone()));
                    (connection, log)
                }
            };
            let endpoint_fields = writer.endpoint_fields();
            let index = writer.index().clone();
            let writer = Arc::new(Mutex::new(writer));
            for kind in selection.kinds() {
                let follower = Follower {
                    kind,
                    endpoint_fields,
                    selection: selection.clone(),
                    connection: connection.clone(),
                    writer: writer.clone(),
                    index: index.clone(),
                    status: WatchStatus::new(kind, metrics.clone(), log.clone()),
                    timing,
                };
                watch.tasks.push(runtime.spawn(supervise(Arc::new(follower))));
            }
            watch.indexes.push((selection, writer));
        }
        Ok(watch)
    }

    /// Returns the number of known objects of each selected kind, in all indexes together.
    pub fn counts(&self) -> impl Iterator<Item = (Kind, usize)> {
        Kind::ALL.into_iter().filter_map(|kind| {
            let of = self.indexes.iter().filter(|(selection, _)| selection.kinds().any(|wanted| wanted == kind));
            of.map(|(_, writer)| writer.lock().count(kind)).reduce(|a, b| a + b).map(|count| (kind, count))
        })
    }
}

/// Follows a kind, and restarts after a panic.
async fn supervise(follower: Arc<Follower>) {
    loop {
        let mut task = JoinSet::new();
        task.spawn(follower.clone().run());
        if let Some(Err(error)) = task.join_next().await {
            tracing::error!(plugin = "kubernetes", %error, "watching {} restarts after a panic", resource(follower.kind));
        }
        tokio::time::sleep(RESTART_DELAY).await;
    }
}

impl Drop for ApiWatch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
