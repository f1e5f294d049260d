//! The names of kinds on the API server.

use crate::cluster::model::Kind;

/// Returns the resource of a kind, as in RBAC and messages.
pub fn resource(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "namespaces",
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices.discovery.k8s.io",
        Kind::Pod => "pods",
    }
}

/// Returns the path of a kind on the API server, over all namespaces.
pub(super) fn path(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "/api/v1/namespaces",
        Kind::Service => "/api/v1/services",
        Kind::EndpointSlice => "/apis/discovery.k8s.io/v1/endpointslices",
        Kind::Pod => "/api/v1/pods",
    }
}
