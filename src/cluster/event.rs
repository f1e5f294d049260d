//! The events that a source sends to the index.

use super::model::{Kind, Object, ObjectKey};

/// An event. `Begin … Upsert … End` of a kind is a complete list: objects that it does not contain are removed at its
/// `End`.
///
/// Lists of different kinds may interleave, and changes may arrive during a list of the same kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A complete list of a kind starts. A second `Begin` before the `End` restarts that list.
    Begin(Kind),
    /// An object exists and is new or changed.
    Upsert(Object),
    /// An object still exists, and its known state remains. Has no effect if the object is not known.
    Retain(Kind, ObjectKey),
    /// A Pod is being deleted. It has its name until it is deleted, as in CoreDNS, but the namespace of clients with
    /// its addresses is no longer certain. Has no effect if the Pod is not known.
    Terminate(ObjectKey),
    /// An object was deleted.
    Remove(Kind, ObjectKey),
    /// The list is complete.
    End(Kind),
}
