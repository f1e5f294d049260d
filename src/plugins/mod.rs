//! The directives.

pub mod kubernetes;
