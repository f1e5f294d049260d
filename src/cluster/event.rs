//! What a source tells the index.

use super::model::{Key, Kind, Object};

/// One event. `Begin … Upsert … End` of a kind is one full list: what it did not name is gone at its `End`.
///
/// Lists of different kinds may interleave, and changes may come in the middle of a list of the same kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A full list of a kind starts. A second `Begin` before the `End` starts that list over.
    Begin(Kind),
    /// An object is there, new or changed.
    Upsert(Object),
    /// An object is still there, and what was known of it stays: a Pod that is being deleted keeps its name until it is
    /// gone, as in CoreDNS. Nothing if it was not known.
    Keep(Kind, Key),
    /// An object is gone.
    Remove(Kind, Key),
    /// The full list is complete.
    End(Kind),
}
