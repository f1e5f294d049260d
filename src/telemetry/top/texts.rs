//! The texts of keys. A sketch has only hashes, so that its size does not depend on the length of names.

use std::collections::{HashMap, HashSet};

/// The maximum number of texts.
const TEXTS: usize = 2_048;
/// The maximum length of a text in bytes.
const MAX_TEXT: usize = 128;

/// A key for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct KeyText {
    /// The key: an address, a name and its type, or a code.
    pub(super) key: Box<str>,
    /// For a client, its Pod as `NAMESPACE/NAME`, if it is known.
    pub(super) pod: Option<Box<str>>,
}

/// The texts of the heaviest keys.
#[derive(Debug, Default)]
pub(super) struct KeyTexts {
    texts: HashMap<u64, KeyText, foldhash::fast::FixedState>,
    /// The text of a key that was stored, or was to be stored, may be missing.
    is_partial: bool,
}

impl KeyTexts {
    /// Returns whether texts may be missing of keys that were stored since [`KeyTexts::begin`].
    pub(super) fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// Called when every key is going to be stored again.
    pub(super) fn begin(&mut self) {
        self.is_partial = false;
    }

    /// Stores the text of a key, unless it is known. If there are too many texts, those of keys that `wanted` does not
    /// add to the set are removed first.
    pub(super) fn store(&mut self, key: u64, text: impl FnOnce() -> KeyText, wanted: impl FnOnce(&mut HashSet<u64>)) {
        let texts = &mut self.texts;
        if texts.contains_key(&key) {
            return;
        }
        if texts.len() >= TEXTS {
            self.is_partial = true;
            let mut keys = HashSet::new();
            wanted(&mut keys);
            let rest: Vec<_> = texts.drain().filter(|(key, _)| keys.contains(key)).collect();
            texts.extend(rest);
        }
        if texts.len() < TEXTS {
            let KeyText { key: text, pod } = text();
            texts.insert(key, KeyText { key: shorten(text), pod: pod.map(shorten) });
        }
    }

    /// Returns the text of a key.
    pub(super) fn get(&self, key: u64) -> Option<&KeyText> {
        self.texts.get(&key)
    }

    /// Returns the memory of the texts in bytes, without that of the table.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.texts.values().map(|text| text.key.len() + text.pod.as_ref().map_or(0, |pod| pod.len())).sum()
    }
}

/// Shortens a text at its front, where names differ least.
fn shorten(text: Box<str>) -> Box<str> {
    const MARK: &str = "…";
    if text.len() <= MAX_TEXT {
        return text;
    }
    let mut from = text.len() - MAX_TEXT + MARK.len();
    while !text.is_char_boundary(from) {
        from += 1;
    }
    format!("{MARK}{}", &text[from..]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_their_number_are_limited() {
        let mut texts = KeyTexts::default();
        let text = |number: u64| KeyText { key: format!("{number}{}", "é".repeat(300)).into(), pod: None };
        for number in 0..20 * TEXTS as u64 {
            texts.store(number, || text(number), |wanted| wanted.extend(0..10));
        }
        assert!(texts.texts.len() <= TEXTS && texts.bytes() <= TEXTS * MAX_TEXT);
        let first = texts.get(3).expect("it is wanted");
        assert!(first.key.starts_with("…é") && first.key.len() <= MAX_TEXT, "{first:?}");
        assert_eq!((texts.get(20), texts.is_partial()), (None, true));
        texts.begin();
        assert!(!texts.is_partial());
        // Nothing can be removed: the new text is not stored.
        let mut texts = KeyTexts::default();
        for number in 0..=TEXTS as u64 {
            texts.store(number, || text(number), |wanted| wanted.extend(0..TEXTS as u64));
        }
        assert_eq!((texts.texts.len(), texts.get(TEXTS as u64)), (TEXTS, None));
    }
}
