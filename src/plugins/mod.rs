//! The directives.

pub mod any;
pub mod bufsize;
pub mod chaos;
pub mod kubernetes;
pub mod local;
pub mod minimal;
pub mod nsid;
pub mod whoami;
