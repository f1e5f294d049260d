//! Headers of the PROXY protocol, versions 1 and 2 (<https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>),
//! read as the library of CoreDNS does (pires/go-proxyproto).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The signature of version 1.
const SIGNATURE_1: &[u8] = b"PROXY";
/// The signature of version 2.
const SIGNATURE_2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The length of a header of version 2 before the addresses.
const FIXED_LEN: usize = 16;
/// The maximum length of a header of version 1, with its line end.
const MAX_LINE: usize = 107;
/// The maximum length of addresses and TLVs of version 2.
const MAX_REST: usize = 4_096;
/// The maximum length of a header in bytes.
pub const MAX_HEADER: usize = FIXED_LEN + MAX_REST;
/// The type of a TLV that has no meaning (`PP2_TYPE_NOOP`).
const NOOP: u8 = 0x04;

/// A header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The version of the protocol.
    pub version: u8,
    /// The addresses of the client and of the server that it connected to; `None` for a connection of the proxy itself.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// The header is about datagrams, and has IP addresses.
    pub is_datagram: bool,
    /// Further values, each with its type and its length.
    pub tlvs: Vec<u8>,
}

/// The result of reading the first bytes of a stream or a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundHeader {
    /// The bytes begin with a header of this length.
    Whole(ProxyHeader, usize),
    /// The bytes do not begin with a header.
    None,
    /// The bytes may begin with a header; at least this number of bytes decides.
    Undecided(usize),
    /// The bytes begin with a header that needs at least this number of bytes.
    Partial(usize),
}

/// Why a header is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// The line of version 1 has no end.
    #[error("the line is too long")]
    LineTooLong,
    /// The line of version 1 is not one of the protocol.
    #[error("the line is invalid")]
    Line,
    /// An address of version 1 is not one of the family.
    #[error("an address is invalid")]
    Address,
    /// The version or the command is unknown.
    #[error("unknown version or command")]
    Command,
    /// The family or the transport is unknown, or unspecified for a client.
    #[error("unknown address family or transport")]
    Family,
    /// The length does not fit the addresses, or is more than the limit.
    #[error("the length is invalid")]
    Length,
}

/// Reads the header at the start of these bytes, which may be the first ones of more.
pub fn read(bytes: &[u8]) -> Result<FoundHeader, ProxyHeaderError> {
    if starts_alike(bytes, SIGNATURE_1) {
        if bytes.len() < SIGNATURE_1.len() {
            return Ok(FoundHeader::Undecided(SIGNATURE_1.len()));
        }
        return read_line(bytes);
    }
    if starts_alike(bytes, SIGNATURE_2) {
        if bytes.len() < SIGNATURE_2.len() {
            return Ok(FoundHeader::Undecided(SIGNATURE_2.len()));
        }
        return read_binary(bytes);
    }
    Ok(if bytes.is_empty() { FoundHeader::Undecided(1) } else { FoundHeader::None })
}

/// Returns whether one of the two, of which neither is empty, begins with the other.
fn starts_alike(bytes: &[u8], signature: &[u8]) -> bool {
    let len = bytes.len().min(signature.len());
    len > 0 && bytes[..len] == signature[..len]
}

/// Reads a header of version 1.
fn read_line(bytes: &[u8]) -> Result<FoundHeader, ProxyHeaderError> {
    let Some(end) = bytes.iter().take(MAX_LINE).position(|&byte| byte == b'\n') else {
        return if bytes.len() >= MAX_LINE {
            Err(ProxyHeaderError::LineTooLong)
        } else {
            Ok(FoundHeader::Partial(bytes.len() + 1))
        };
    };
    let line = bytes[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    let words: Vec<&str> = line.ok_or(ProxyHeaderError::Line)?.split(' ').collect();
    let addresses = match words[..] {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
            let address = |ip: &str, port: &str| {
                let ip = IpAddr::from_str(ip).map_err(|_| ProxyHeaderError::Address)?;
                if ip.is_ipv4() != (family == "TCP4") {
                    return Err(ProxyHeaderError::Address);
                }
                let is_number = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
                let port = port.parse().ok().filter(|_| is_number).ok_or(ProxyHeaderError::Address)?;
                Ok(SocketAddr::new(ip.to_canonical(), port))
            };
            Some((address(source, source_port)?, address(destination, destination_port)?))
        }
        _ => return Err(ProxyHeaderError::Line),
    };
    Ok(FoundHeader::Whole(ProxyHeader { version: 1, addresses, is_datagram: false, tlvs: Vec::new() }, end + 1))
}

/// Reads a header of version 2.
fn read_binary(bytes: &[u8]) -> Result<FoundHeader, ProxyHeaderError> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_LEN>() else {
        return Ok(FoundHeader::Partial(FIXED_LEN));
    };
    let [.., command, family, high, low] = *fixed;
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyHeaderError::Command),
    };
    // The length of both addresses, with their ports.
    let needed = match family {
        0x00 if is_local => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(ProxyHeaderError::Family),
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > MAX_REST || len < needed && !is_local {
        return Err(ProxyHeaderError::Length);
    }
    let Some(rest) = rest.get(..len) else { return Ok(FoundHeader::Partial(FIXED_LEN + len)) };
    // The proxy's own connection may have less than its family needs, which is discarded.
    let (block, tlvs) = rest.split_at_checked(needed).unwrap_or((&[], &[]));
    let header = ProxyHeader {
        version: 2,
        addresses: addresses(block).filter(|_| !is_local),
        is_datagram: matches!(family, 0x12 | 0x22) && block.len() == needed,
        tlvs: tlvs.to_vec(),
    };
    Ok(FoundHeader::Whole(header, FIXED_LEN + len))
}

/// Returns the addresses of a block of version 2; `None` for those of Unix sockets, and for none.
fn addresses(block: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (ip_len, is_ipv4) = match block.len() {
        12 => (4, true),
        36 => (16, false),
        _ => return None,
    };
    let ip = |bytes: &[u8]| -> Option<IpAddr> {
        Some(match is_ipv4 {
            true => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
            false => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        })
    };
    let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    let source = SocketAddr::new(ip(&block[..ip_len])?, port(2 * ip_len));
    let destination = SocketAddr::new(ip(&block[ip_len..2 * ip_len])?, port(2 * ip_len + 2));
    Some((source, destination))
}

impl ProxyHeader {
    /// Returns the TLVs; `None` if there are none, or if they are malformed. Those without a meaning have no value.
    pub fn valid_tlvs(&self) -> Option<Vec<u8>> {
        let mut rest = &self.tlvs[..];
        let mut valid = Vec::with_capacity(rest.len());
        while let Some((&[kind, high, low], values)) = rest.split_first_chunk() {
            let (value, after) = values.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
            let value = if kind == NOOP { &[] } else { value };
            valid.push(kind);
            // It is not longer than the one that was read.
            valid.extend((value.len() as u16).to_be_bytes());
            valid.extend(value);
            rest = after;
        }
        (rest.is_empty() && !valid.is_empty()).then_some(valid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<FoundHeader, ProxyHeaderError> {
        read(text.as_bytes())
    }

    fn addresses(found: Result<FoundHeader, ProxyHeaderError>) -> String {
        match found {
            Ok(FoundHeader::Whole(header, len)) => format!("{:?} {len}", header.addresses),
            other => format!("{other:?}"),
        }
    }

    /// Returns a header of version 2 with this command, family and rest.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE_2.to_vec();
        bytes.extend([command, family]);
        bytes.extend((rest.len() as u16).to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn lines_are_read() {
        for (text, expected) in [
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 53\r\nrest", "Some((192.0.2.1:56324, 192.0.2.2:53)) 41"),
            ("PROXY TCP6 2001:db8::1 ::ffff:192.0.2.2 0 65535\r\n", "Some(([2001:db8::1]:0, 192.0.2.2:65535)) 49"),
            ("PROXY UNKNOWN\r\n", "None 15"),
            ("PROXY UNKNOWN what ever\r\n", "None 25"),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 53", "Ok(Partial(40))"),
            ("PRO", "Ok(Undecided(5))"),
            ("", "Ok(Undecided(1))"),
            ("PROB", "Ok(None)"),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 53\n", "Err(Line)"),
            ("PROXYx TCP4 192.0.2.1 192.0.2.2 56324 53\r\n", "Err(Line)"),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n", "Err(Line)"),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 53 x\r\n", "Err(Line)"),
            ("PROXY UDP4 192.0.2.1 192.0.2.2 56324 53\r\n", "Err(Line)"),
            ("PROXY TCP6 192.0.2.1 192.0.2.2 56324 53\r\n", "Err(Address)"),
            ("PROXY TCP4 ::1 192.0.2.2 56324 53\r\n", "Err(Address)"),
            ("PROXY TCP6 fe80::1%eth0 ::1 56324 53\r\n", "Err(Address)"),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 65536 53\r\n", "Err(Address)"),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 +5 53\r\n", "Err(Address)"),
        ] {
            assert_eq!(addresses(line(text)), expected, "{text:?}");
        }
        assert_eq!(line(&format!("PROXY {}", "x".repeat(101))), Err(ProxyHeaderError::LineTooLong));
    }

    #[test]
    fn binary_headers_are_read() {
        let ipv4 = [192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 4, 0, 53];
        let ipv6: Vec<u8> = [[0x20, 1, 0xd, 0xb8], [0; 4], [0; 4], [0, 0, 0, 1]].concat();
        let ipv6 = [ipv6.clone(), ipv6, vec![0, 7, 0, 53]].concat();
        for (command, family, rest, expected) in [
            (0x21, 0x11, &ipv4[..], "Some((192.0.2.1:56324, 192.0.2.2:53)) 28"),
            (0x21, 0x12, &ipv4, "Some((192.0.2.1:56324, 192.0.2.2:53)) 28"),
            (0x21, 0x22, &ipv6, "Some(([2001:db8::1]:7, [2001:db8::1]:53)) 52"),
            (0x21, 0x31, &[0; 216], "None 232"),
            (0x20, 0x11, &ipv4, "None 28"),
            (0x20, 0x11, &[], "None 16"),
            (0x20, 0x00, &[], "None 16"),
            (0x20, 0x00, &[1, 0, 0], "None 19"),
            (0x21, 0x00, &[], "Err(Family)"),
            (0x21, 0x13, &ipv4, "Err(Family)"),
            (0x20, 0x13, &ipv4, "Err(Family)"),
            (0x21, 0x11, &ipv4[1..], "Err(Length)"),
            (0x21, 0x11, &[0; 4_097], "Err(Length)"),
            (0x22, 0x11, &ipv4, "Err(Command)"),
            (0x11, 0x11, &ipv4, "Err(Command)"),
        ] {
            let bytes = binary(command, family, rest);
            assert_eq!(addresses(read(&bytes)), expected, "{command:x} {family:x}");
            // Every prefix needs more bytes, and never more than there are.
            if !expected.starts_with("Err") {
                for len in 0..bytes.len() {
                    let Ok(FoundHeader::Undecided(needed) | FoundHeader::Partial(needed)) = read(&bytes[..len]) else {
                        panic!("{len}")
                    };
                    assert!(needed > len && needed <= bytes.len(), "{len} {needed}");
                }
            }
        }
    }

    #[test]
    fn tlvs_are_whole_or_none() {
        let ipv4 = [0; 12];
        let tlvs = |tlvs: &[u8]| match read(&binary(0x21, 0x12, &[&ipv4, tlvs].concat())) {
            Ok(FoundHeader::Whole(header, _)) => header.valid_tlvs(),
            other => panic!("{other:?}"),
        };
        assert_eq!(tlvs(&[]), None);
        assert_eq!(tlvs(&[0xea, 0, 2, 1, 2, 5, 0, 0]), Some(vec![0xea, 0, 2, 1, 2, 5, 0, 0]));
        assert_eq!(tlvs(&[4, 0, 2, 1, 2, 5, 0, 1, 9]), Some(vec![4, 0, 0, 5, 0, 1, 9]));
        assert_eq!(tlvs(&[0xea, 0, 2, 1]), None);
        assert_eq!(tlvs(&[0xea, 0, 0, 1, 0]), None);
    }

    #[test]
    fn no_bytes_panic() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..100_000 {
            let mut bytes: Vec<u8> = (0..random.usize(..300)).map(|_| random.u8(..)).collect();
            if random.bool() {
                bytes = binary(
                    random.u8(0x1f..0x23),
                    random.choice([0, 0x11, 0x12, 0x21, 0x22, 0x31]).unwrap_or(0),
                    &bytes,
                );
            } else if random.bool() {
                bytes = [b"PROXY TCP4 ", &bytes[..]].concat();
            }
            bytes.truncate(random.usize(..=bytes.len()));
            if let Ok(FoundHeader::Whole(header, len)) = read(&bytes) {
                assert!(len <= bytes.len());
                header.valid_tlvs();
            }
        }
    }
}
