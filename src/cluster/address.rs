//! Addresses as labels: the dashed form of endpoints and Pods, and the reverse names of RFC 1035 3.5 and RFC 3596 2.5.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::Question;

/// The maximum length of the dashed form: 39 characters of an IPv6 address, and the zero that may follow a dash.
pub const MAX_DASHED: usize = 40;

/// An address with dashes instead of dots and colons, which is the label of an endpoint without a name.
#[derive(Clone, Copy, Debug)]
pub struct Dashed {
    text: [u8; MAX_DASHED],
    len: u8,
}

impl Dashed {
    /// Returns the form for endpoints: a trailing dash is followed by `0`, since no label may end in a dash (CoreDNS
    /// `endpointHostname`).
    pub fn endpoint(address: IpAddr) -> Dashed {
        let mut dashed = Dashed { text: [0; MAX_DASHED], len: 0 };
        if let IpAddr::V4(address) = address {
            dashed.write_ipv4(address);
            return dashed;
        }
        let mut rest = &mut dashed.text[..];
        // The buffer fits the longest address, so writing cannot fail.
        let _ = match address {
            // The text form has dots, and dashes in their place would be parsed as colons.
            IpAddr::V6(mapped) if mapped.to_ipv4_mapped().is_some() => {
                let [.., high, low] = mapped.segments();
                write!(rest, "::ffff:{high:x}:{low:x}")
            }
            _ => write!(rest, "{address}"),
        };
        let mut len = MAX_DASHED - rest.len();
        for byte in &mut dashed.text[..len] {
            if matches!(byte, b'.' | b':') {
                *byte = b'-';
            }
        }
        if dashed.text[len - 1] == b'-' {
            dashed.text[len] = b'0';
            len += 1;
        }
        dashed.len = len as u8;
        dashed
    }

    /// Writes four numbers digit by digit: this is on the path of queries for SRV and PTR, where formatting is slow.
    fn write_ipv4(&mut self, address: Ipv4Addr) {
        let mut len = 0;
        let mut push = |byte| {
            self.text[len] = byte;
            len += 1;
        };
        for (at, byte) in address.octets().into_iter().enumerate() {
            if at > 0 {
                push(b'-');
            }
            if byte >= 100 {
                push(b'0' + byte / 100);
            }
            if byte >= 10 {
                push(b'0' + byte / 10 % 10);
            }
            push(b'0' + byte % 10);
        }
        self.len = len as u8;
    }

    /// Returns the label.
    pub fn as_label(&self) -> &[u8] {
        &self.text[..usize::from(self.len)]
    }
}

/// Parses a dashed label: IPv4 if it has exactly three dashes and no two in a row, otherwise IPv6 (CoreDNS `findPods`).
pub fn parse_dashed(label: &[u8]) -> Option<IpAddr> {
    let dashes = label.iter().filter(|&&byte| byte == b'-').count();
    if dashes == 3 && !label.windows(2).any(|pair| pair == b"--") {
        let mut bytes = [0; 4];
        for (byte, digits) in bytes.iter_mut().zip(label.split(|&byte| byte == b'-')) {
            *byte = parse_decimal(digits)?;
        }
        return Some(IpAddr::V4(bytes.into()));
    }
    // Most labels return here: the shortest IPv6 address is two colons.
    if dashes < 2 {
        return None;
    }
    let mut address = [0; MAX_DASHED];
    let address = address.get_mut(..label.len())?;
    for (byte, &given) in address.iter_mut().zip(label) {
        *byte = match given {
            b'-' => b':',
            b'0'..=b'9' | b'a'..=b'f' => given,
            _ => return None,
        };
    }
    std::str::from_utf8(address).ok()?.parse().ok().map(IpAddr::V6)
}

/// Parses a byte of an address, which has no leading zeros.
fn parse_decimal(digits: &[u8]) -> Option<u8> {
    if digits.is_empty() || digits.len() > 3 || digits.len() > 1 && digits[0] == b'0' {
        return None;
    }
    let number = digits
        .iter()
        .try_fold(0u16, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u16::from(digit - b'0')))?;
    u8::try_from(number).ok()
}

/// A name below `in-addr.arpa` or `ip6.arpa`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReverseName {
    /// An address.
    Address(IpAddr),
    /// A range of addresses with a common prefix: an inner node of the tree.
    Prefix {
        /// The first address of the range.
        first: IpAddr,
        /// The last address of the range.
        last: IpAddr,
    },
    /// A name that is neither an address nor a prefix.
    Other,
}

impl ReverseName {
    /// Parses the complete name of a question. Returns `None` if it is not below a reverse tree.
    pub fn parse(question: &Question) -> Option<ReverseName> {
        let count = question.labels().checked_sub(2)?;
        if question.label(count + 1) != b"arpa" {
            return None;
        }
        match question.label(count) {
            b"in-addr" => Some(parse_ipv4(question, count).unwrap_or(ReverseName::Other)),
            b"ip6" => Some(parse_ipv6(question, count).unwrap_or(ReverseName::Other)),
            _ => None,
        }
    }
}

/// Parses the first `count` labels as decimal bytes, the last one first.
fn parse_ipv4(question: &Question, count: usize) -> Option<ReverseName> {
    if count > 4 {
        return None;
    }
    let mut first = [0; 4];
    let mut last = [u8::MAX; 4];
    for at in 0..count {
        let byte = parse_decimal(question.label(count - 1 - at))?;
        (first[at], last[at]) = (byte, byte);
    }
    Some(address_or_prefix(count == 4, Ipv4Addr::from(first), Ipv4Addr::from(last)))
}

/// Parses the first `count` labels as hexadecimal digits, the last one first.
fn parse_ipv6(question: &Question, count: usize) -> Option<ReverseName> {
    if count > 32 {
        return None;
    }
    let mut first = 0u128;
    let mut last = u128::MAX;
    for at in 0..count {
        let &[digit] = question.label(count - 1 - at) else { return None };
        let digit = u128::from(char::from(digit).to_digit(16)?);
        let shift = 124 - 4 * at;
        first |= digit << shift;
        last = last & !(0xf << shift) | digit << shift;
    }
    Some(address_or_prefix(count == 32, Ipv6Addr::from(first), Ipv6Addr::from(last)))
}

/// Returns the address, if all its labels are present, or the range.
fn address_or_prefix<A: Into<IpAddr>>(is_complete: bool, first: A, last: A) -> ReverseName {
    if is_complete {
        ReverseName::Address(first.into())
    } else {
        ReverseName::Prefix { first: first.into(), last: last.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Class, NameBuf, Type};

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn dashed_forms_round_trip() {
        for (address, label) in [
            ("10.1.2.3", "10-1-2-3"),
            ("2001:db8::7", "2001-db8--7"),
            ("5678:abcd::", "5678-abcd--0"),
            ("::2", "--2"),
            ("::ffff:1.2.3.4", "--ffff-102-304"),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff-ffff-ffff-ffff-ffff-ffff-ffff-ffff"),
        ] {
            assert_eq!(Dashed::endpoint(ip(address)).as_label(), label.as_bytes());
            assert_eq!(parse_dashed(label.as_bytes()), Some(ip(address)));
        }
        for label in ["", "x", "1-2-3", "1-2-3-4-5", "01-2-3-4", "1--2-3", "256-1-1-1", "1:2-3-4", "1.2.3.4", "g--"] {
            let parsed = parse_dashed(label.as_bytes());
            assert!(parsed.is_none() || label == "1--2-3", "{label} {parsed:?}");
        }
    }

    #[test]
    fn reverse_names_are_addresses_or_prefixes() {
        let parse = |name: &str| {
            let name = NameBuf::from_text(name).expect("a name");
            ReverseName::parse(&Question::new(name.as_name(), Type::PTR, Class::IN))
        };
        let prefix = |first, last| Some(ReverseName::Prefix { first: ip(first), last: ip(last) });
        assert_eq!(parse("5.0.96.10.in-addr.arpa"), Some(ReverseName::Address(ip("10.96.0.5"))));
        assert_eq!(parse("96.10.in-addr.arpa"), prefix("10.96.0.0", "10.96.255.255"));
        assert_eq!(parse("in-addr.arpa"), prefix("0.0.0.0", "255.255.255.255"));
        let v6 = format!("7.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(23));
        assert_eq!(parse(&v6), Some(ReverseName::Address(ip("2001:db8::7"))));
        assert_eq!(parse("1.0.0.2.ip6.arpa"), prefix("2001::", "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
        for other in [
            "05.0.96.10.in-addr.arpa",
            "1.5.0.96.10.in-addr.arpa",
            "256.in-addr.arpa",
            "+1.in-addr.arpa",
            "10.ip6.arpa",
            "g.ip6.arpa",
        ] {
            assert_eq!(parse(other), Some(ReverseName::Other), "{other}");
        }
        assert_eq!(parse(&format!("0.{v6}")), Some(ReverseName::Other));
        for none in ["arpa", "x.arpa", ".", "in-addr.arpa.example"] {
            assert_eq!(parse(none), None, "{none}");
        }
    }
}
