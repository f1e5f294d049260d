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
pub mod reply;
pub mod types;

pub use encode::encode;
pub use name::{Name, NameBuf};
pub use query::{Edns, Query, QueryChange, Question};
pub use read::{Message, MessageError};
pub use reply::{NameRef, Rdata, Record, Reply, Section};
pub use types::{Class, Opcode, Rcode, Type};

/// The maximum length of a DNS message in bytes (RFC 1035 4.2.2: a 16-bit length).
pub const MAX_MESSAGE: usize = 65_535;
