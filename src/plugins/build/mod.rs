//! What a directive is to the rest of the program, and how its plugin is built.
//!
//! ```text
//! Setting (a directive's configuration, comparable) ─┬ configure ─► BlockOptions: listeners, process
//!                                                    ├ addresses, index_request, check
//!                                                    └ build ─► BlockBuilder: plugins, pages, periodic work
//! ```
//!
//! The program knows directives only through [`Setting`], so that a directive is one file or folder and one row of the
//! table.

mod builder;
mod options;
mod resources;

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Selector;
use crate::corefile::{Diagnostics, Scheme};
use crate::net::{Address, Interface};
use crate::wire::NameBuf;

pub use builder::{BlockBuilder, BlockContext, BoundTask, BuiltBlock, Chore, ListenerInfo, PageRequest, PageTask};
pub use options::{BlockOptions, ListenerLimits, ReloadTiming, TimeoutOptions};
pub use resources::{ActivePlugin, ActivePlugins, CarriedOver, ConfigurationState, Lifecycle, Phase, Resources};

/// The configuration of a directive, as read from the lines of one server block.
pub trait Setting: Comparable + fmt::Debug + Send + Sync {
    /// Changes how the block's listeners and the process are run.
    fn configure(&self, _options: &mut BlockOptions) {}

    /// Returns the addresses that the block listens on, if the directive restricts them. Addresses that this machine
    /// does not have are errors.
    fn addresses(&self, _interfaces: &[Interface], _diagnostics: &mut Diagnostics) -> Option<Vec<Address>> {
        None
    }

    /// Returns the cluster's objects that the plugin answers from.
    fn index_request(&self) -> Option<IndexRequest> {
        None
    }

    /// Returns the zones in which the plugin answers from a state that changes at any time, so that a cache in front of
    /// it must not.
    fn live_zones(&self) -> Vec<LiveZone> {
        Vec::new()
    }

    /// Returns the errors that [`Setting::build`] would report because of what only this machine has, such as files.
    fn check(&self) -> Vec<BuildError> {
        Vec::new()
    }

    /// Builds the plugin, and registers whatever else the directive contributes.
    fn build(&self, _block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        Ok(())
    }
}

/// The equality of settings of any type: a reload keeps what is built from equal settings.
pub trait Comparable: Any {
    /// Returns whether this is equal to another setting.
    fn is_equal(&self, other: &dyn Any) -> bool;
}

impl<T: Any + PartialEq> Comparable for T {
    fn is_equal(&self, other: &dyn Any) -> bool {
        other.downcast_ref::<T>().is_some_and(|other| self == other)
    }
}

/// A directive of a server block, read.
#[derive(Clone, Debug)]
pub struct ReadDirective {
    /// Its name.
    pub name: &'static str,
    setting: Arc<dyn Setting>,
}

impl ReadDirective {
    /// Creates a directive from its configuration.
    pub fn new(name: &'static str, setting: Arc<dyn Setting>) -> ReadDirective {
        ReadDirective { name, setting }
    }
}

impl Deref for ReadDirective {
    type Target = dyn Setting;

    fn deref(&self) -> &Self::Target {
        &*self.setting
    }
}

impl PartialEq for ReadDirective {
    fn eq(&self, other: &ReadDirective) -> bool {
        let other_setting: &dyn Any = &*other.setting;
        self.name == other.name && self.setting.is_equal(other_setting)
    }
}

/// A server block, read.
#[derive(Clone, Debug)]
pub struct ServerBlock {
    /// The zones that it serves.
    pub keys: Vec<ZoneKey>,
    /// Its directives, in the order in which their plugins run.
    pub directives: Vec<ReadDirective>,
    /// What they say about listeners and the process.
    pub options: BlockOptions,
}

impl ServerBlock {
    /// Creates a block.
    pub fn new(keys: Vec<ZoneKey>, directives: Vec<ReadDirective>) -> ServerBlock {
        let mut options = BlockOptions::default();
        directives.iter().for_each(|directive| directive.configure(&mut options));
        ServerBlock { keys, directives, options }
    }

    /// Returns whether the block serves the same zones with the same directives.
    fn is_same(&self, other: &ServerBlock) -> bool {
        self.keys == other.keys && self.directives == other.directives
    }
}

/// A zone on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneKey {
    /// The zone.
    pub zone: NameBuf,
    /// The port.
    pub port: u16,
    /// The transport.
    pub scheme: Scheme,
}

/// A zone of which some answers are live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveZone {
    /// The zone.
    pub zone: NameBuf,
    /// Every name in the zone is answered live; otherwise only names that the plugin claims
    /// ([`crate::chain::Plugin::claims`]).
    pub is_whole: bool,
}

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
    pub tls: Option<[std::path::PathBuf; 3]>,
    /// A kubeconfig and its context; it has precedence over `endpoint`.
    pub kubeconfig: Option<(std::path::PathBuf, Option<String>)>,
}

impl Default for ApiConfig {
    fn default() -> ApiConfig {
        let startup_timeout = Duration::from_secs(5);
        ApiConfig { server: ApiAddress::default(), qps: None, burst: None, max_inflight: 0, startup_timeout }
    }
}

/// An error that only the machine shows, such as a file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BuildError(pub String);

impl From<String> for BuildError {
    fn from(message: String) -> BuildError {
        BuildError(message)
    }
}
