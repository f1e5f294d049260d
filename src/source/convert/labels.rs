//! The labels of an object.

use serde::de::MapAccess;

use super::field::{Field, Found, Value};
use super::invalid::{Ignored, Invalid};
use crate::cluster::selector::is_label_value;

/// Labels, sorted by key; each key once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    pairs: Vec<(Box<str>, Box<str>)>,
    /// Keys whose values are no label values, and what they are instead.
    odd: Vec<(Box<str>, Found)>,
}

impl Labels {
    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.pairs.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.pairs[at].1)
    }

    /// Sets a label.
    pub fn set(&mut self, key: &str, value: &str) {
        match self.pairs.binary_search_by(|(k, _)| (**k).cmp(key)) {
            Ok(at) => self.pairs[at].1 = value.into(),
            Err(at) => self.pairs.insert(at, (key.into(), value.into())),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Whether all of these labels are among `others`: `spec.selector` of a Service against a Pod.
    pub fn all_in(&self, others: &Labels) -> bool {
        self.pairs.iter().all(|(key, value)| others.get(key) == Some(value))
    }

    /// Reports the values that were passed over; `path` is that of the labels.
    pub fn check(&self, path: &str, ignored: &mut Ignored) {
        for (key, found) in &self.odd {
            ignored.push(|| Invalid::Type {
                field: format!("{path}[{key}]"),
                expected: "a label value",
                found: *found,
            });
        }
    }

    /// The pairs, sorted by key.
    pub fn into_inner(self) -> Vec<(Box<str>, Box<str>)> {
        self.pairs
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for Labels {
    /// Of equal keys the last one stays.
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Labels {
        let mut pairs: Vec<(Box<str>, Box<str>)> = pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        pairs.reverse();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.dedup_by(|later, kept| later.0 == kept.0);
        Labels { pairs, odd: Vec::new() }
    }
}

impl<'de> Value<'de> for Labels {
    const EXPECTED: &'static str = "a map of label values";
    fn from_map<A: MapAccess<'de>>(mut map: A) -> Result<Option<Labels>, A::Error> {
        let (mut pairs, mut odd) = (Vec::<(Box<str>, Box<str>)>::new(), Vec::new());
        while let Some((key, value)) = map.next_entry::<Box<str>, Field<String>>()? {
            match value {
                Field::Is(value) if is_label_value(&value) => pairs.push((key, value.into())),
                Field::Is(_) => odd.push((key, Found::Text)),
                Field::Absent => {}
                Field::Odd(found) => odd.push((key, found)),
            }
        }
        Ok(Some(Labels { odd, ..pairs.into_iter().collect() }))
    }
}
