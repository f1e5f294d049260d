//! The index that a stanza answers from, while it is replaced.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};

use super::Index;

/// An index and the previous one, which answers until the first lists of the new one are complete: a change of the
/// selected objects does not make a known cluster unknown, whatever the state of the API server.
#[derive(Clone, Debug)]
pub struct CurrentIndex {
    index: Arc<Index>,
    /// Written once when the index is synced; every query reads it until then.
    previous: Arc<ArcSwapOption<Index>>,
}

impl From<Arc<Index>> for CurrentIndex {
    fn from(index: Arc<Index>) -> CurrentIndex {
        CurrentIndex { index, previous: Arc::default() }
    }
}

impl CurrentIndex {
    /// Creates a reference to an index that replaces a previous one.
    pub fn replacing(index: Arc<Index>, previous: Option<Arc<Index>>) -> CurrentIndex {
        CurrentIndex { index, previous: Arc::new(ArcSwapOption::new(previous)) }
    }

    /// Returns the index to answer from.
    pub fn get(&self) -> impl Deref<Target = Index> {
        if self.index.is_synced() {
            return IndexGuard::Own(&self.index);
        }
        let previous = self.previous.load();
        if previous.is_some() { IndexGuard::Previous(previous) } else { IndexGuard::Own(&self.index) }
    }

    /// Returns the index if it is synced, as nearly always. Cheaper than [`CurrentIndex::get`], which is for the rest.
    #[inline(always)]
    pub fn synced(&self) -> Option<&Index> {
        self.index.is_synced().then_some(&*self.index)
    }

    /// Returns whether this is the index, or the previous one while it answers.
    pub fn uses(&self, index: &Arc<Index>) -> bool {
        Arc::ptr_eq(&self.index, index)
            || self.previous.load().as_ref().is_some_and(|previous| Arc::ptr_eq(previous, index))
    }

    /// Releases the previous index once the new one is synced. Returns whether it was released now.
    pub fn settle(&self) -> bool {
        self.index.is_synced() && self.previous.swap(None).is_some()
    }

    /// Returns whether the previous index answers.
    pub fn is_settling(&self) -> bool {
        self.previous.load().is_some()
    }
}

/// A reference to an index.
enum IndexGuard<'a> {
    Own(&'a Index),
    Previous(Guard<Option<Arc<Index>>>),
}

impl Deref for IndexGuard<'_> {
    type Target = Index;

    fn deref(&self) -> &Index {
        match self {
            IndexGuard::Own(index) => index,
            IndexGuard::Previous(previous) => previous.as_deref().expect("it is created from a value that is present"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::entry::EndpointFields;
    use crate::cluster::model::Kind;
    use crate::cluster::{Event, Options};

    #[test]
    fn the_previous_index_answers_until_the_next_is_synced() {
        let new =
            |kinds: &[Kind]| Index::new(&Options { kinds: kinds.to_vec(), endpoint_fields: EndpointFields::default() });
        let list = |writer: &mut crate::cluster::IndexWriter, kind| {
            writer.apply(Event::Begin(kind), 7);
            writer.apply(Event::End(kind), 7);
        };
        let ((first, mut old), (second, mut next)) = (new(&[Kind::Service]), new(&[Kind::Service, Kind::Pod]));
        list(&mut old, Kind::Service);
        let current = CurrentIndex::replacing(second.clone(), Some(first.clone()));
        let is = |index: &Arc<Index>| std::ptr::eq(&*current.get(), Arc::as_ptr(index));
        list(&mut next, Kind::Service);
        assert!(is(&first) && current.is_settling() && !current.settle());
        assert!(current.uses(&first) && current.uses(&second));
        list(&mut next, Kind::Pod);
        assert!(is(&second) && current.settle() && !current.settle());
        assert!(!current.uses(&first) && current.uses(&second) && !current.is_settling());
        // Without a previous one, an index that is not synced answers itself.
        let (third, _) = new(&[Kind::Service]);
        assert!(std::ptr::eq(&*CurrentIndex::from(third.clone()).get(), Arc::as_ptr(&third)));
    }
}
