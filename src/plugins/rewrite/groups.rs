//! The groups of a match of a regular expression.

use crate::plugins::regexp::FoundGroups;

/// The groups of a match.
pub(super) struct Groups<'a> {
    pub(super) text: &'a str,
    pub(super) places: Places<'a>,
}

/// The places of groups in the text.
pub(super) enum Places<'a> {
    /// As the automaton has found them.
    Found(&'a FoundGroups<'a>),
    /// The group ends at the first offset, and the whole match at the second one. Both start with the text.
    Ending(usize, usize),
}

impl<'a> Groups<'a> {
    /// Returns the text of a group; 0 is the whole match. A group that did not take part is empty, as in Go.
    pub(super) fn get(&self, group: usize) -> &'a str {
        match (&self.places, group) {
            (Places::Found(places), _) => places.get(group).map_or("", |(start, end)| &self.text[start..end]),
            (Places::Ending(_, end), 0) | (Places::Ending(end, _), 1) => &self.text[..*end],
            (Places::Ending(..), _) => "",
        }
    }

    /// Returns the number of groups, with the whole match.
    pub(super) fn len(&self) -> usize {
        match &self.places {
            Places::Found(places) => places.count(),
            Places::Ending(..) => 2,
        }
    }
}
