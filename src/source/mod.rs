//! Where the cluster's events come from. Every source turns the same objects into the same events with the same
//! converter, so that an answer never depends on how an object came here.
//!
//! ```text
//!  files ── manifests ── document (text → values) ─┐
//!                │                                 ├─ convert (API object → cluster::model) ── Event ── Sink
//!                └── derive (Pods → EndpointSlices)┤
//!  API server ── watch (list, then watch, a kind) ──┘
//! ```

pub mod convert;
pub mod derive;
pub mod manifests;
pub mod watch;

pub use convert::Labels;
pub use manifests::Manifests;
pub use watch::Watch;

use std::time::SystemTime;

use crate::cluster::model::Kind;
use crate::cluster::{Event, Selector};

/// What one index wants to hear of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Services, EndpointSlices and Pods with these labels only (`labels`).
    pub labels: Option<Selector>,
    /// Namespaces with these labels only (`namespace_labels`).
    pub namespace_labels: Option<Selector>,
    /// Pods too (`pods verified`).
    pub pods: bool,
    /// EndpointSlices too (no `noendpoints`).
    pub endpoints: bool,
}

impl Selection {
    /// The kinds that are wanted, in the order in which they are listed.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> + use<> {
        let (pods, endpoints) = (self.pods, self.endpoints);
        Kind::ALL.into_iter().filter(move |kind| match kind {
            Kind::Namespace | Kind::Service => true,
            Kind::EndpointSlice => endpoints,
            Kind::Pod => pods,
        })
    }

    /// The selector that objects of this kind have to meet.
    pub fn selector(&self, kind: Kind) -> Option<&Selector> {
        match kind {
            Kind::Namespace => self.namespace_labels.as_ref(),
            Kind::Service | Kind::EndpointSlice | Kind::Pod => self.labels.as_ref(),
        }
    }
}

/// Seconds since 1970, as a zone's serial: when an event was seen.
pub fn unix_seconds() -> u32 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() as u32
}

/// Where the events of one [`Selection`] go: an index, behind whatever lock its owner chose.
pub trait Sink: Send {
    /// Takes one event.
    fn apply(&mut self, event: Event);
}

impl<F: FnMut(Event) + Send> Sink for F {
    fn apply(&mut self, event: Event) {
        self(event);
    }
}
