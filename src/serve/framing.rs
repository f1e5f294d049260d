//! Messages in a stream of bytes, where two bytes with its length precede each message (RFC 1035 4.2.2, RFC 9250 4.2).
//! There is no I/O here.

use super::udp::mmsg::MAX_QUESTION;
use crate::wire::{Query, header};

/// The number of bytes of a length.
pub const PREFIX: usize = 2;
/// The EDNS option for TCP keepalive (RFC 7828), which is an error over QUIC.
const KEEPALIVE: u16 = 11;

/// Returns the first message, if it is complete, and the index of its end. For a message that is too long for a query,
/// returns the header only, without an end.
pub fn first_message(bytes: &[u8]) -> Option<(&[u8], Option<usize>)> {
    let len = usize::from(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]));
    if len > MAX_QUESTION {
        return Some((bytes.get(PREFIX..PREFIX + header::LEN)?, None));
    }
    Some((bytes.get(PREFIX..PREFIX + len)?, Some(PREFIX + len)))
}

/// Returns the length of the query that follows on a QUIC stream, or `None` if no query has this length.
pub fn quic_query_len(prefix: [u8; PREFIX]) -> Option<usize> {
    let len = usize::from(u16::from_be_bytes(prefix));
    (header::LEN..=MAX_QUESTION).contains(&len).then_some(len)
}

/// Returns whether a message is a valid query over QUIC: with ID 0 (RFC 9250 4.2.1) and without a keepalive option
/// (RFC 9250 5.5.2).
pub fn is_quic_query(packet: &[u8]) -> bool {
    packet.starts_with(&[0, 0]) && header::accept(packet) == header::Accept::Parse && !wants_keepalive(packet)
}

fn wants_keepalive(packet: &[u8]) -> bool {
    let query = Query::parse(packet);
    query.is_ok_and(|query| query.edns.is_some_and(|edns| edns.option(KEEPALIVE).is_some()))
}
