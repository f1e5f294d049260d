//! The state of a Kubernetes cluster as DNS needs it: events in, answers to look-ups out. Pure: no socket, no task, no
//! clock.
//!
//! ```text
//! model ─ event ─► index (writer) ─► entry ◄─ index (readers) ◄─ lookup ◄─ name, address
//! ```

pub mod address;
mod current;
pub mod entry;
pub mod event;
pub mod index;
pub mod lookup;
pub mod model;
pub mod name;
mod nearest;
mod reverse;
pub mod selector;

#[cfg(test)]
mod tests;

pub use current::CurrentIndex;
pub use event::Event;
pub use index::{Changes, Index, IndexWriter, Options};
pub use lookup::{Lookup, PodMode, Reason, ReverseLookup, View};
pub use name::ClusterName;
pub use nearest::{distance, is_near};
pub use reverse::ServiceKey;
pub use selector::{Selector, SelectorError};
