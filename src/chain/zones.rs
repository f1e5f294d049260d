//! Finds the server block of a name: the zone that is its longest suffix, label by label.

use std::collections::HashMap;

use crate::wire::{NameBuf, Question, Type};

/// The zones of a listener, each with the index of its block.
#[derive(Clone, Debug, Default)]
pub struct Zones {
    /// The block of the root, which nearly every Corefile has; it needs no search.
    root: Option<usize>,
    /// Zone in lower case, except the root → index of its block.
    zones: HashMap<Box<[u8]>, usize, foldhash::fast::RandomState>,
    /// The maximum number of labels of a zone: longer suffixes are not looked up.
    most_labels: usize,
    /// A bit for each length of a zone in bytes: suffixes of other lengths are not looked up.
    lengths: [u64; 4],
}

impl Zones {
    /// Adds a zone, and returns whether it was new. The first block of a zone wins.
    pub fn add(&mut self, zone: &NameBuf, block: usize) -> bool {
        if zone.as_name().is_root() {
            let is_new = self.root.is_none();
            self.root.get_or_insert(block);
            return is_new;
        }
        let zone = zone.to_lower();
        self.most_labels = self.most_labels.max(zone.as_name().labels().count());
        let (word, bit) = length_bit(zone.as_wire().len());
        self.lengths[word] |= bit;
        match self.zones.entry(zone.as_wire().into()) {
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(block);
                true
            }
            std::collections::hash_map::Entry::Occupied(_) => false,
        }
    }

    /// Returns the block for a question.
    ///
    /// A DS record belongs to the parent side of a zone cut (RFC 4035 3.1.4.1). Therefore the shortest zone except the
    /// root is selected for DS, as in CoreDNS `Server.ServeDNS`, and the root only if there is no other.
    pub fn find(&self, question: &Question) -> Option<usize> {
        let mut found = self.within(question, usize::MAX);
        if question.qtype == Type::DS {
            while let Some((labels, _)) = found
                && let Some(shorter) = self.within(question, labels - 1)
            {
                found = Some(shorter);
            }
        }
        found.map(|(_, block)| block).or(self.root)
    }

    /// Returns the first result of `choose` for the blocks of the zones that contain a name. [`Zones::find`] returns
    /// the first of these blocks; the root is the last.
    pub fn find_map<T>(&self, question: &Question, mut choose: impl FnMut(usize) -> Option<T>) -> Option<T> {
        let most = question.labels().min(self.most_labels);
        let mut chosen = (1..=most).map(|at| if question.qtype == Type::DS { at } else { most + 1 - at });
        let chosen = chosen.find_map(|labels| self.exact(question, labels).and_then(&mut choose));
        chosen.or_else(|| self.root.and_then(choose))
    }

    /// Returns the block with the longest zone that contains a name, for every type.
    pub fn longest(&self, question: &Question) -> Option<usize> {
        self.within(question, usize::MAX).map(|(_, block)| block).or(self.root)
    }

    /// Returns the longest zone that contains a name, of those with at most `labels` labels and without the root: its
    /// number of labels and its block.
    fn within(&self, question: &Question, labels: usize) -> Option<(usize, usize)> {
        for labels in (1..=question.labels().min(self.most_labels).min(labels)).rev() {
            // Most suffixes have a length that no zone has.
            if self.has_length(question, labels)
                && let Some(block) = self.exact(question, labels)
            {
                return Some((labels, block));
            }
        }
        None
    }

    /// Returns whether a zone has the length of the last `labels` labels of a name.
    #[inline(always)]
    fn has_length(&self, question: &Question, labels: usize) -> bool {
        let (word, bit) = length_bit(question.suffix_len(labels));
        self.lengths[word] & bit != 0
    }

    /// Returns the block of the zone that is the last `labels` labels of a name.
    #[inline(never)]
    fn exact(&self, question: &Question, labels: usize) -> Option<usize> {
        self.zones.get(question.suffix(labels).as_wire()).copied()
    }
}

/// Returns the bit of a name's length, which is 1 to 255 bytes.
fn length_bit(len: usize) -> (usize, u64) {
    (len >> 6 & 3, 1 << (len & 63))
}

/// Which names that do not exist are passed to the next plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fallthrough {
    /// None.
    #[default]
    Never,
    /// All.
    Always,
    /// Names in these zones.
    Within(Vec<NameBuf>),
}

impl Fallthrough {
    /// Simplifies this for the names of a zone, so that unrelated zones are not compared for each name.
    pub fn for_zone(&self, zone: &NameBuf) -> Fallthrough {
        let Fallthrough::Within(zones) = self else { return self.clone() };
        let name = zone.as_name();
        if zones.iter().any(|outer| name.is_within(outer.as_name())) {
            return Fallthrough::Always;
        }
        let inner: Vec<NameBuf> = zones.iter().filter(|inner| inner.as_name().is_within(name)).cloned().collect();
        if inner.is_empty() { Fallthrough::Never } else { Fallthrough::Within(inner) }
    }

    /// Returns whether a name is passed on.
    #[inline]
    pub fn covers(&self, question: &Question) -> bool {
        match self {
            Fallthrough::Never => false,
            Fallthrough::Always => true,
            Fallthrough::Within(zones) => is_within_any(question, zones),
        }
    }
}

/// Returns whether a name is in one of these zones.
#[inline(never)]
fn is_within_any(question: &Question, zones: &[NameBuf]) -> bool {
    zones.iter().any(|zone| question.name().is_within(zone.as_name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Class;

    #[test]
    fn the_longest_zone_wins_except_for_ds() {
        let mut zones = Zones::default();
        for (index, zone) in [".", "local.", "Cluster.local.", "a.b.cluster.local."].iter().enumerate() {
            assert!(zones.add(&NameBuf::from_text(zone).expect("a zone"), index));
        }
        assert!(!zones.add(&NameBuf::from_text("cluster.LOCAL").expect("a zone"), 9));
        let find = |name: &str, qtype| {
            let name = NameBuf::from_text(name).expect("a name");
            zones.find(&Question::new(name.as_name(), qtype, Class::IN))
        };
        assert_eq!(find("web.default.svc.CLUSTER.local.", Type::A), Some(2));
        assert_eq!(find("xcluster.local.", Type::A), Some(1));
        assert_eq!(find("x.a.b.cluster.local.", Type::A), Some(3));
        assert_eq!(find("example.org.", Type::A), Some(0));
        assert_eq!(find(".", Type::A), Some(0));
        assert_eq!(find("x.a.b.cluster.local.", Type::DS), Some(1));
        assert_eq!(find("example.org.", Type::DS), Some(0));
        let all = |name: &str, qtype| {
            let (name, mut all) = (NameBuf::from_text(name).expect("a name"), Vec::new());
            let question = Question::new(name.as_name(), qtype, Class::IN);
            assert_eq!(
                zones.find_map(&question, |block| {
                    all.push(block);
                    None::<usize>
                }),
                None
            );
            assert_eq!(zones.find_map(&question, Some), zones.find(&question));
            all
        };
        assert_eq!(all("x.a.b.cluster.local.", Type::A), [3, 2, 1, 0]);
        assert_eq!(all("x.a.b.cluster.local.", Type::DS), [1, 2, 3, 0]);
        assert_eq!(all("example.org.", Type::A), [0]);
        let name = NameBuf::from_text("x.a.b.cluster.local.").expect("a name");
        assert_eq!(zones.longest(&Question::new(name.as_name(), Type::DS, Class::IN)), Some(3));
        assert_eq!(Zones::default().find(&Question::new(crate::wire::Name::ROOT, Type::A, Class::IN)), None);
    }
}
