//! A parsed template, and the error of a run.

use super::tree::NodeList;

/// A parsed template.
#[derive(Clone, Debug)]
pub struct GoTemplate {
    pub(super) name: Box<str>,
    pub(super) text: Box<str>,
    pub(super) list: NodeList,
    /// Templates that the text defines, by name.
    pub(super) defined: Vec<(Box<str>, NodeList)>,
}

/// An error of a run, with Go's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(pub(super) String);

impl GoTemplate {
    /// Returns the template of a name: a defined one, or the whole.
    pub(super) fn defined(&self, name: &str) -> Option<(&str, &NodeList)> {
        if *self.name == *name {
            return Some((&self.name, &self.list));
        }
        self.defined.iter().find(|(defined, _)| **defined == *name).map(|(name, list)| (&**name, list))
    }
}
