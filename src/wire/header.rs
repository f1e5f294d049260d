//! The twelve octets in front of every message, and the one check that every transport makes on them first.

use super::types::{Opcode, Rcode};

/// The length of a header.
pub const LEN: usize = 12;

/// Bits of the third and fourth octet, as one 16-bit number.
pub mod flag {
    /// It is a response.
    pub const QR: u16 = 0x8000;
    /// The answer is authoritative.
    pub const AA: u16 = 0x0400;
    /// The message was truncated.
    pub const TC: u16 = 0x0200;
    /// Recursion is desired.
    pub const RD: u16 = 0x0100;
    /// Recursion is available.
    pub const RA: u16 = 0x0080;
    /// The data is authentic (RFC 4035 3.2.3).
    pub const AD: u16 = 0x0020;
    /// Checking is disabled (RFC 4035 3.2.2).
    pub const CD: u16 = 0x0010;
}

/// Bits of a header that are set and cleared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Change {
    /// Are set.
    pub set: u16,
    /// Are cleared.
    pub clear: u16,
}

impl Change {
    /// The bits as they become.
    pub const fn of(self, bits: u16) -> u16 {
        bits & !self.clear | self.set
    }

    /// Sets or clears these, too.
    pub fn add(&mut self, bits: u16, state: bool) {
        let Change { set, clear } = self;
        let (to, from) = if state { (set, clear) } else { (clear, set) };
        *to |= bits;
        *from &= !bits;
    }
}

/// What the header alone says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// It may be a query; parse it.
    Parse,
    /// Say nothing: an answer to this could be used to attack, or to loop.
    Drop,
    /// Answer with this code and no more.
    Refuse(Rcode),
}

/// The 16-bit number at `at`, or 0 past the end.
pub(super) fn u16_at(packet: &[u8], at: usize) -> u16 {
    match packet.get(at..at + 2) {
        Some(&[high, low]) => u16::from_be_bytes([high, low]),
        _ => 0,
    }
}

/// The operation code of a header of at least [`LEN`] octets.
pub fn opcode(packet: &[u8]) -> Opcode {
    Opcode(packet.get(2).map_or(0, |octet| octet >> 3 & 0x0f))
}

/// Checks the header. Nothing is read beyond it and nothing is reserved for a count that it claims.
///
/// The same limits as miekg/dns `defaultMsgAcceptFunc`, so that what CoreDNS accepts is accepted, but for NOTIFY, which
/// no zone of this server wants (RFC 1996 is for secondaries).
pub fn accept(packet: &[u8]) -> Accept {
    // Too short for a header: there is no ID to answer to.
    if packet.len() < LEN {
        return Accept::Drop;
    }
    // An answer to an answer is how loops between servers start.
    if u16_at(packet, 2) & flag::QR != 0 {
        return Accept::Drop;
    }
    if opcode(packet) != Opcode::QUERY {
        return Accept::Refuse(Rcode::NOTIMP);
    }
    let [questions, answers, authorities, additionals] = [4, 6, 8, 10].map(|at| u16_at(packet, at));
    // RFC 9619: a query has exactly one question. An IXFR holds one SOA in the authority section (RFC 1995 3), and OPT
    // and TSIG are the only additional records that a query may want.
    if questions != 1 || answers > 1 || authorities > 1 || additionals > 2 {
        return Accept::Refuse(Rcode::FORMERR);
    }
    Accept::Parse
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(bits: u16, counts: [u16; 4]) -> Vec<u8> {
        let mut packet = vec![0xab, 0xcd];
        packet.extend(bits.to_be_bytes());
        packet.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
        packet
    }

    #[test]
    fn a_header_is_judged_before_anything_else_is_read() {
        assert_eq!(accept(&[0; 11]), Accept::Drop);
        assert_eq!(accept(&header(flag::QR, [1, 0, 0, 0])), Accept::Drop);
        assert_eq!(accept(&header(flag::QR | 5 << 11, [9, 9, 9, 9])), Accept::Drop);
        for opcode in 1..16 {
            assert_eq!(accept(&header(opcode << 11, [1, 0, 0, 0])), Accept::Refuse(Rcode::NOTIMP));
        }
        for questions in [0, 2, 65_535] {
            assert_eq!(accept(&header(0, [questions, 0, 0, 0])), Accept::Refuse(Rcode::FORMERR));
        }
        for counts in [[1, 2, 0, 0], [1, 0, 2, 0], [1, 0, 0, 3]] {
            assert_eq!(accept(&header(flag::RD, counts)), Accept::Refuse(Rcode::FORMERR));
        }
        assert_eq!(accept(&header(flag::RD | flag::AD | flag::CD, [1, 1, 1, 2])), Accept::Parse);
    }
}
