//! Reads a few objects once, outside of any watch, to explain an answer to people.

use http_body_util::{BodyExt as _, Limited};
use kube::api::ListParams;
use kube::core::request::Request as Resource;
use serde_json::Value;

use super::connection::{ApiConnection, ApiServer};
use super::error::WatchError;
use super::limits::RequestLimits;
use super::metrics::Metrics;
use super::resource::path;
use crate::cluster::model::Kind;
use crate::telemetry::metrics::Registry;

/// The maximum size of a response in bytes.
const MAX_BODY: usize = 16 << 20;

/// A client of an API server. Its requests are not counted in the metrics of watches.
#[derive(Debug)]
pub struct ApiReader {
    connection: ApiConnection,
}

/// Which objects to read.
#[derive(Clone, Debug)]
pub struct ReadQuery<'a> {
    /// The kind.
    pub kind: Kind,
    /// The namespace; empty for Namespaces, and for all.
    pub namespace: &'a str,
    /// The name, or any.
    pub name: Option<&'a str>,
    /// A label selector; empty for any.
    pub labels: &'a str,
    /// The maximum number of objects.
    pub limit: u32,
}

impl ApiReader {
    /// Creates a reader, which connects when it is used.
    pub fn new(server: ApiServer) -> ApiReader {
        let metrics = Metrics::new(&Registry::new());
        ApiReader { connection: ApiConnection::new(server, RequestLimits::default(), metrics) }
    }

    /// Returns objects. Only `list` is requested, which the server's role allows. A namespace or name that no object
    /// can have has none.
    pub async fn list(&self, query: &ReadQuery<'_>) -> Result<Vec<Value>, WatchError> {
        let is_name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
        if !is_name(query.namespace) || !query.name.is_none_or(|name| !name.is_empty() && is_name(name)) {
            return Ok(Vec::new());
        }
        let mut params = ListParams::default().limit(query.limit);
        if let Some(name) = query.name {
            params = params.fields(&format!("metadata.name={name}"));
        }
        if !query.labels.is_empty() {
            params = params.labels(query.labels);
        }
        let mut of = path(query.kind).to_owned();
        if !query.namespace.is_empty()
            && let Some((api, resource)) = path(query.kind).rsplit_once('/')
        {
            of = format!("{api}/namespaces/{}/{resource}", query.namespace);
        }
        let invalid = |reason: String| WatchError::InvalidResponse(reason);
        let request = Resource::new(of).list(&params).map_err(|error| invalid(error.to_string()))?;
        let body = self.connection.get(request, None).await?;
        let body = Limited::new(body, MAX_BODY).collect().await.map_err(|error| invalid(error.to_string()))?;
        let mut list: Value =
            serde_json::from_slice(&body.to_bytes()).map_err(|error| invalid(format!("not JSON: {error}")))?;
        match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }
}
