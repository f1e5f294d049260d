//! The checks of `tests/properties.rs`, for the fuzz targets.

#[path = "../../tests/support/mod.rs"]
pub mod support;
