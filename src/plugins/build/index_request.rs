//! The objects of a cluster that a directive answers from, and the API server that has them.

use std::path::PathBuf;
use std::time::Duration;

use crate::cluster::Selector;

/// Objects of a cluster that a plugin answers from. Plugins with the same API server and selectors share an index.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexRequest {
    /// The connection to the API server.
    pub api: ApiConfig,
    /// The selector of Services, EndpointSlices and Pods.
    pub labels: Option<Selector>,
    /// The selector of Namespaces.
    pub namespace_labels: Option<Selector>,
    /// Pods are needed.
    pub pods: bool,
    /// EndpointSlices are needed.
    pub endpoints: bool,
    /// The names of the Pods of endpoints are needed.
    pub endpoint_pod_names: bool,
    /// The zones of endpoints are needed.
    pub endpoint_zones: bool,
}

/// The connection to an API server.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiConfig {
    /// The API server.
    pub server: ApiAddress,
    /// Requests per second; the default of the client if `None`.
    pub qps: Option<f32>,
    /// The number of requests that may exceed the rate at once; the default of the client if `None`.
    pub burst: Option<u32>,
    /// The number of requests in flight; 0 for no limit.
    pub max_inflight: u32,
    /// How long the start waits for the first lists.
    pub startup_timeout: Duration,
}

/// The address of an API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiAddress {
    /// The URL; the API server of the cluster is used if neither this nor a kubeconfig is configured.
    pub endpoint: Option<String>,
    /// The client certificate, its key, and the CA, for `endpoint`.
    pub tls: Option<[PathBuf; 3]>,
    /// A kubeconfig and its context; it has precedence over `endpoint`.
    pub kubeconfig: Option<(PathBuf, Option<String>)>,
}

impl Default for ApiConfig {
    fn default() -> ApiConfig {
        let startup_timeout = Duration::from_secs(5);
        ApiConfig { server: ApiAddress::default(), qps: None, burst: None, max_inflight: 0, startup_timeout }
    }
}
