//! The page `/` for people: what this server is, what it serves, and how it does.
//!
//! ```text
//! GET / ─► source.rs: reads the state of the server ─► ServerStatus ─► html.rs: a page without script
//! ```

mod html;
mod source;
mod status;

pub(super) use source::{StatusPage, StatusPageParts};
