//! The watch against an API server that does what a real one cannot be made to do.
