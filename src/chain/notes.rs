//! Notes of plugins about a query, for their later calls with the same query.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

/// A note.
type Note = Arc<dyn Any + Send + Sync>;

/// The notes about a query, each with a type of its own. A query without notes costs nothing.
#[derive(Clone, Default)]
pub struct Notes(Option<Box<SmallVec<[Note; 2]>>>);

impl Notes {
    /// Adds a note. Of several notes of one type, the first one is found.
    pub fn add<T: Any + Send + Sync>(&mut self, note: Arc<T>) {
        self.0.get_or_insert_default().push(note);
    }

    /// Returns the note of a type.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.0.as_ref()?.iter().find_map(|note| note.downcast_ref())
    }

    /// Returns the note of a type, to keep it.
    pub fn find<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.as_ref()?.iter().find_map(|note| note.clone().downcast().ok())
    }

    /// Removes all notes.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }
}

impl fmt::Debug for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Notes({})", self.0.as_ref().map_or(0, |notes| notes.len()))
    }
}
