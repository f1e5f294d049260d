//! The questions of users, and the answer of `resolve`: what goes through the local socket.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::stub::Resolution;

/// A name to explain.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ask {
    /// The name.
    pub name: String,
    /// The type.
    pub qtype: String,
    /// The Pod that looks the name up: `NAMESPACE/NAME`, or a name in the namespace `default`.
    pub from: Option<String>,
    /// The address of the client.
    pub client: Option<IpAddr>,
    /// The port that the query is sent to; `None` for that of the listener that serves the name.
    #[serde(default)]
    pub port: Option<u16>,
}

/// A name to resolve, as the user resolves it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ResolveAsk {
    pub(super) name: String,
    pub(super) pod: Option<String>,
    pub(super) policy: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) host_network: bool,
    /// The text of a resolv.conf.
    pub(super) resolv_conf: Option<String>,
    /// The text of the resolv.conf of the node.
    pub(super) node_resolv_conf: Option<String>,
    pub(super) cluster_dns: Option<String>,
    pub(super) cluster_domain: Option<String>,
    pub(super) library: String,
    /// The port that the queries are sent to; `None` for that of the listener that serves each name.
    #[serde(default)]
    pub(super) port: Option<u16>,
}

/// The answer of `resolve`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Resolved {
    /// Whose resolv.conf it is.
    pub(super) of: String,
    /// The text of the resolv.conf.
    pub(super) resolv_conf: String,
    /// Values that are left out, and how the library reads the file.
    pub(super) notes: Vec<String>,
    pub(super) library: String,
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) resolution: Resolution,
}
