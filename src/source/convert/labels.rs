//! The labels of an object.

use serde::de::MapAccess;

use super::field::{Field, FieldValue};
use super::invalid::{Ignored, Invalid, JsonType};
use crate::cluster::selector::is_label_value;

/// ObjectLabels, sorted by key, without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectLabels {
    pairs: Vec<(Box<str>, Box<str>)>,
    /// Keys whose values are not valid label values, with the JSON types of these.
    invalid: Vec<(Box<str>, JsonType)>,
}

impl ObjectLabels {
    /// Returns the value of a label.
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

    /// Returns whether there are no labels.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Returns whether `others` contains all of these labels: `spec.selector` of a Service compared with a Pod.
    pub fn is_subset_of(&self, others: &ObjectLabels) -> bool {
        self.pairs.iter().all(|(key, value)| others.get(key) == Some(value))
    }

    /// Reports the invalid values; `path` is that of the labels.
    pub fn report_ignored(&self, path: &str, ignored: &mut Ignored) {
        for (key, found) in &self.invalid {
            ignored.push(|| Invalid::Type {
                field: format!("{path}[{key}]"),
                expected: "a label value",
                found: *found,
            });
        }
    }

    /// Returns the pairs, sorted by key.
    pub fn into_inner(self) -> Vec<(Box<str>, Box<str>)> {
        self.pairs
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for ObjectLabels {
    /// The last of several equal keys is used.
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> ObjectLabels {
        let mut pairs: Vec<(Box<str>, Box<str>)> = pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        pairs.reverse();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.dedup_by(|later, earlier| later.0 == earlier.0);
        ObjectLabels { pairs, invalid: Vec::new() }
    }
}

impl<'de> FieldValue<'de> for ObjectLabels {
    const EXPECTED: &'static str = "a map of label values";
    fn from_map<A: MapAccess<'de>>(mut map: A) -> Result<Option<ObjectLabels>, A::Error> {
        let (mut pairs, mut invalid) = (Vec::<(Box<str>, Box<str>)>::new(), Vec::new());
        while let Some((key, value)) = map.next_entry::<Box<str>, Field<String>>()? {
            match value {
                Field::Valid(value) if is_label_value(&value) => pairs.push((key, value.into())),
                Field::Valid(_) => invalid.push((key, JsonType::String)),
                Field::Absent => {}
                Field::Unexpected(found) => invalid.push((key, found)),
            }
        }
        Ok(Some(ObjectLabels { invalid, ..pairs.into_iter().collect() }))
    }
}
