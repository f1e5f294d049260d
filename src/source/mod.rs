//! The sources of cluster events. All sources convert the same objects into the same events with the same code, so that
//! an answer does not depend on the origin of an object.
//!
//! ```text
//!  files ── manifests ── document (text → values) ─┐
//!                │                                 ├─ convert (API object → cluster::model) ── Event ── EventSink
//!                └── derive (Pods → EndpointSlices)┤
//!  API server ── watch (list, then watch, a kind) ──┘
//! ```

pub mod convert;
pub mod derive;
pub mod manifests;
pub mod watch;

pub use convert::ObjectLabels;
pub use manifests::Manifests;
pub use watch::ApiWatch;

use std::time::SystemTime;

use crate::cluster::model::Kind;
use crate::cluster::{Event, Selector};

/// The objects that an index needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Select only Services, EndpointSlices and Pods with these labels (`labels`).
    pub labels: Option<Selector>,
    /// Select only Namespaces with these labels (`namespace_labels`).
    pub namespace_labels: Option<Selector>,
    /// Include Pods (`pods verified`).
    pub pods: bool,
    /// Include EndpointSlices (no `noendpoints`).
    pub endpoints: bool,
}

impl Selection {
    /// Returns the selected kinds, in the order in which they are listed.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> + use<> {
        let (pods, endpoints) = (self.pods, self.endpoints);
        Kind::ALL.into_iter().filter(move |kind| match kind {
            Kind::Namespace | Kind::Service => true,
            Kind::EndpointSlice => endpoints,
            Kind::Pod => pods,
        })
    }

    /// Returns the label selector for objects of this kind.
    pub fn selector(&self, kind: Kind) -> Option<&Selector> {
        match kind {
            Kind::Namespace => self.namespace_labels.as_ref(),
            Kind::Service | Kind::EndpointSlice | Kind::Pod => self.labels.as_ref(),
        }
    }
}

/// Returns the current Unix time in seconds, as the serial of a zone.
pub fn unix_seconds() -> u32 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() as u32
}

/// Receives the events of a [`Selection`]: an index, behind the lock that its owner chose.
pub trait EventSink: Send {
    /// Applies an event.
    fn apply(&mut self, event: Event);
}

impl<F: FnMut(Event) + Send> EventSink for F {
    fn apply(&mut self, event: Event) {
        self(event);
    }
}
