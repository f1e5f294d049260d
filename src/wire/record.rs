//! A record of a reply: its owner and data, as references into the reply's arena.

use super::types::{Class, Type};

/// `NameRef::tail` of a name that ends at the root instead of in the question.
pub(super) const NO_TAIL: u8 = u8::MAX;

/// A section of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// The answers to the question.
    Answer,
    /// Name servers, or the SOA of a denial.
    Authority,
    /// Records that the client is likely to need next.
    Additional,
}

/// A name in a reply: labels from the arena, followed by the end of the question's name or by the root.
///
/// Nearly every name in an answer ends like the question, which makes it short to store and cheap to compress, and
/// preserves the letter case that the client sent (CoreDNS reuses the zone as typed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameRef {
    /// The offset of the labels in the arena. The two bytes before them belong to the encoder.
    pub(super) at: u32,
    /// The length of the labels in bytes, 0–254.
    pub(super) len: u8,
    /// The offset in the question's name at which the rest starts, or [`NO_TAIL`].
    pub(super) tail: u8,
}

impl NameRef {
    /// The name of the question.
    pub const QUESTION: NameRef = NameRef::question(0);

    /// Returns the end of the question's name from this offset on ([`Question::suffix_at`]).
    pub const fn question(offset: u8) -> NameRef {
        NameRef { at: 0, len: 0, tail: offset }
    }

    /// Returns whether this is the name of the question.
    pub const fn is_question(self) -> bool {
        self.len == 0 && self.tail == 0
    }

    /// Returns this name with another offset of its tail in the question's name.
    pub const fn with_tail(self, tail: u8) -> NameRef {
        NameRef { tail, ..self }
    }

    /// Returns the offset of the tail in the question's name, if there is one.
    pub fn tail(self) -> Option<u8> {
        (self.tail != NO_TAIL).then_some(self.tail)
    }

    /// Returns the length of the labels that are stored in front of the tail, in bytes.
    pub const fn labels_len(self) -> usize {
        self.len as usize
    }

    /// Returns whether the name has labels in the arena.
    pub(super) const fn is_stored(self) -> bool {
        self.len > 0
    }

    /// Returns the range of the labels in the arena; empty if there are none.
    pub(super) const fn labels(self) -> std::ops::Range<usize> {
        self.at as usize..self.at as usize + self.len as usize
    }

    /// Returns the labels in the arena, and the encoder's two bytes before them. The name is stored.
    pub(super) fn in_arena(self, arena: &mut [u8]) -> Option<(&mut [u8; 2], &[u8])> {
        let at = self.at as usize;
        let (position, labels) =
            arena.get_mut(at.checked_sub(2)?..at + usize::from(self.len))?.split_first_chunk_mut()?;
        Some((position, labels))
    }
}

/// The data of a record. Types without a variant of their own are `Bytes`, in wire form and without names to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rdata {
    /// A.
    A([u8; 4]),
    /// AAAA.
    Aaaa([u8; 16]),
    /// A name that may be compressed (RFC 3597 4): CNAME, NS, PTR.
    Name(NameRef),
    /// SRV (RFC 2782); its target is never compressed.
    Srv {
        /// Targets of lower priority are tried first.
        priority: u16,
        /// The share among targets of the same priority.
        weight: u16,
        /// The port of the service.
        port: u16,
        /// The host of the service.
        target: NameRef,
    },
    /// SOA.
    Soa {
        /// The primary server.
        mname: NameRef,
        /// The mailbox of the person responsible.
        rname: NameRef,
        /// Serial, refresh, retry, expire, minimum: 20 bytes of the arena.
        numbers: StoredBytes,
    },
    /// The data of any other type.
    Bytes(StoredBytes),
}

/// A range of bytes of the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredBytes {
    pub(super) at: u32,
    pub(super) len: u16,
}

impl StoredBytes {
    /// Returns the range in the arena.
    pub(super) fn range(self) -> std::ops::Range<usize> {
        self.at as usize..self.at as usize + usize::from(self.len)
    }
}

/// A resource record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The section of the record.
    pub section: Section,
    /// The name that the record belongs to.
    pub owner: NameRef,
    /// The type.
    pub rtype: Type,
    /// The class.
    pub class: Class,
    /// The time to live in seconds.
    pub ttl: u32,
    /// The data.
    pub rdata: Rdata,
}

/// The numbers of an SOA. All but the serial are in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoaNumbers {
    /// The version of the zone, which grows with each change.
    pub serial: u32,
    /// The interval at which a secondary checks for changes.
    pub refresh: u32,
    /// The interval after a failed check.
    pub retry: u32,
    /// The time after which a secondary without contact stops answering.
    pub expire: u32,
    /// The time to live of a denial (RFC 2308 4).
    pub minimum: u32,
}

impl SoaNumbers {
    /// The length of the numbers in wire form.
    pub(super) const LEN: usize = 20;

    /// Returns the numbers in wire form.
    pub(super) fn to_wire(self) -> [u8; SoaNumbers::LEN] {
        let mut wire = [0; SoaNumbers::LEN];
        let fields = [self.serial, self.refresh, self.retry, self.expire, self.minimum];
        for (bytes, field) in wire.chunks_exact_mut(4).zip(fields) {
            bytes.copy_from_slice(&field.to_be_bytes());
        }
        wire
    }
}
