//! Texts with placeholders for values of a query and its response, such as `{name}` (CoreDNS `plugin/pkg/replacer`):
//! the lines of *log*, and the extra field of *dnstap*.

mod format;
mod values;

pub use format::Format;
pub(in crate::plugins) use format::Placeholder;
pub(in crate::plugins) use values::{Responded, Values};
