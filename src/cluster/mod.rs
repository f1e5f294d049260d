//! Kubernetes as DNS sees it: events in, answers out. Pure: no socket, no task, no clock.

pub mod event;
pub mod model;

pub use event::Event;
