//! The header of a message, and the check of it that every transport makes before anything else.

use super::types::{Opcode, Rcode};

/// The length of a header in bytes.
pub const LEN: usize = 12;

/// Flags of the header: bits of its third and fourth byte as one 16-bit number.
pub mod flag {
    /// The message is a response.
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

/// Flags to set and to clear in a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Change {
    /// The bits to set.
    pub set: u16,
    /// The bits to clear.
    pub clear: u16,
}

impl Change {
    /// Returns `bits` with this change applied.
    pub const fn of(self, bits: u16) -> u16 {
        bits & !self.clear | self.set
    }

    /// Adds `bits` to those that are set, if `state` is true, or to those that are cleared.
    pub fn add(&mut self, bits: u16, state: bool) {
        let Change { set, clear } = self;
        let (to, from) = if state { (set, clear) } else { (clear, set) };
        *to |= bits;
        *from &= !bits;
    }
}

/// The decision on a packet from its header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Parse the packet: it may be a query.
    Parse,
    /// Send no response: one could be used for an attack, or start a loop.
    Drop,
    /// Respond with this code only.
    Refuse(Rcode),
}

/// Returns the 16-bit number at `at`, or 0 past the end.
pub(super) fn u16_at(packet: &[u8], at: usize) -> u16 {
    match packet.get(at..at + 2) {
        Some(&[high, low]) => u16::from_be_bytes([high, low]),
        _ => 0,
    }
}

/// Returns the operation code of a header of at least [`LEN`] bytes.
pub fn opcode(packet: &[u8]) -> Opcode {
    Opcode(packet.get(2).map_or(0, |byte| byte >> 3 & 0x0f))
}

/// Checks the header. Reads nothing beyond it, and reserves nothing for the counts that it claims.
///
/// The limits are those of miekg/dns `defaultMsgAcceptFunc`, so that what CoreDNS accepts is accepted, except NOTIFY,
/// which no zone of this server expects (RFC 1996 is for secondaries).
pub fn accept(packet: &[u8]) -> Accept {
    // Too short for a header: there is no ID to respond to.
    if packet.len() < LEN {
        return Accept::Drop;
    }
    // A response to a response starts a loop between servers.
    if u16_at(packet, 2) & flag::QR != 0 {
        return Accept::Drop;
    }
    if opcode(packet) != Opcode::QUERY {
        return Accept::Refuse(Rcode::NOTIMP);
    }
    let [questions, answers, authorities, additionals] = [4, 6, 8, 10].map(|at| u16_at(packet, at));
    // RFC 9619: a query has exactly one question. IXFR has one SOA in the authority section (RFC 1995 3), and OPT and
    // TSIG are the only additional records of a query.
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
    fn the_header_alone_decides_whether_a_packet_is_parsed() {
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
