//! Conversion between bytes and views: names, queries, replies and the only encoder. No I/O and no clock.
//!
//! ```text
//! packet ─ header::accept ─ Query::parse ──► Query (a view)      Reply (a list of records) ──► encode ──► bytes
//! response of an upstream ─ Message::parse ─ Reply::read ───────────▲
//! text ─ presentation::add_record ──────────────────────────────────▲
//! ```

pub mod encode;
pub mod header;
pub mod hickory;
pub mod name;
pub mod presentation;
pub mod query;
pub mod read;
pub mod record;
pub mod reply;
mod size;
pub mod types;

pub use encode::encode;
pub use name::{Name, NameBuf};
pub use query::{Edns, Query, QueryChange, Question};
pub use read::{Message, MessageError};
pub use record::{NameRef, Rdata, Record, Section};
pub use reply::Reply;
pub use size::{MAX_MESSAGE, MAX_UDP, MIN_UDP};
pub use types::{Class, Opcode, Rcode, Type};
