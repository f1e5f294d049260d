//! Why a name resolves or does not: the decision of `clusterdns explain`.
//!
//! ```text
//! name ─ search list ─► full names ─ dry run of each (chain::Trace) ─► the one that matters ─┐
//!                                        objects of the Service (ObjectReader) ─► objects.rs ┴► cause.rs ─► Report
//! ```
//!
//! Pure: the dry run and the objects are given as functions, so that the running server, manifests and an API server
//! are explained by the same code.

mod cause;
mod objects;
mod printable;
mod report;

pub use cause::{ExplainRequest, explain};
pub use objects::{NoObjects, ObjectKind, ObjectQuery, ObjectReader, PodObject, ServiceObject, SliceObject};
pub use printable::{is_unprintable, printable};
pub use report::Report;
