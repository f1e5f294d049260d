//! The index that a stanza answers from, while another takes its place.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};

use super::Index;

/// An index, and the one before it, which answers until the first lists of the new one are complete: a cluster that was
/// known does not become unknown because other objects of it are wanted, whatever the API server does meanwhile.
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
    /// An index in the place of a previous one.
    pub fn instead_of(index: Arc<Index>, previous: Option<Arc<Index>>) -> CurrentIndex {
        CurrentIndex { index, previous: Arc::new(ArcSwapOption::new(previous)) }
    }

    /// The index to answer from.
    pub fn get(&self) -> impl Deref<Target = Index> {
        if self.index.synced() {
            return IndexGuard::Own(&self.index);
        }
        let previous = self.previous.load();
        if previous.is_some() { IndexGuard::Previous(previous) } else { IndexGuard::Own(&self.index) }
    }

    /// Whether this is the index, or the one before it as long as that answers.
    pub fn uses(&self, index: &Arc<Index>) -> bool {
        Arc::ptr_eq(&self.index, index)
            || self.previous.load().as_ref().is_some_and(|previous| Arc::ptr_eq(previous, index))
    }

    /// Lets go of the previous index once it has a synced successor. Returns whether it has done so now.
    pub fn settle(&self) -> bool {
        self.index.synced() && self.previous.swap(None).is_some()
    }

    /// Whether the previous index answers.
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
            IndexGuard::Previous(previous) => previous.as_deref().expect("it is made of one that is there"),
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
        let current = CurrentIndex::instead_of(second.clone(), Some(first.clone()));
        let is = |index: &Arc<Index>| std::ptr::eq(&*current.get(), Arc::as_ptr(index));
        list(&mut next, Kind::Service);
        assert!(is(&first) && current.is_settling() && !current.settle());
        assert!(current.uses(&first) && current.uses(&second));
        list(&mut next, Kind::Pod);
        assert!(is(&second) && current.settle() && !current.settle());
        assert!(!current.uses(&first) && current.uses(&second) && !current.is_settling());
        // Without one before it, an index that is not synced answers for itself.
        let (third, _) = new(&[Kind::Service]);
        assert!(std::ptr::eq(&*CurrentIndex::from(third.clone()).get(), Arc::as_ptr(&third)));
    }
}
