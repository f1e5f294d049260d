//! `edns0`: sets, appends, replaces and removes EDNS options of a query, and with `revert` hides that from the client.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::draft::Draft;
use super::replacement::is_label;
use super::words::{RuleError, Words};
use crate::chain::Exchange;

/// The code of the name server identifier (RFC 5001).
const NSID: u16 = 3;
/// The code of the client subnet (RFC 7871).
const SUBNET: u16 = 8;
/// The codes that miekg/dns has types of their own for. CoreDNS finds an option of these by its code only to remove it:
/// `local` does not see them.
const TYPED: [u16; 15] = [1, 2, NSID, 4, 5, 6, 7, SUBNET, 9, 10, 11, 12, 15, 18, 19];
/// The maximum length of the data of a rule in bytes.
const MAX_DATA: usize = 4_096;
const EXPECTED: &str = "local, nsid or subnet, and set, append, replace or unset";

/// A rule about an option.
#[derive(Debug, PartialEq)]
pub(super) struct EdnsRule {
    action: OptionAction,
    option: OptionRule,
    /// The client does not see the change in the response.
    revert: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OptionAction {
    Set,
    Append,
    Replace,
    Unset,
}

#[derive(Debug, PartialEq)]
enum OptionRule {
    Local {
        code: u16,
        data: OptionData,
    },
    Nsid,
    /// The lengths of the prefixes that are sent for IPv4 and IPv6 clients, in bits.
    Subnet(u8, u8),
}

/// The data of a local option.
#[derive(Debug, PartialEq)]
enum OptionData {
    Bytes(Vec<u8>),
    QueryName,
    QueryType,
    ClientIp,
    ClientPort,
    ServerIp,
    ServerPort,
    Protocol,
    /// A metadata label.
    Label(String),
}

impl EdnsRule {
    /// Returns the code of a `local` rule: a response of this server repeats options of this code.
    pub(super) fn echoed(&self) -> Option<u16> {
        match &self.option {
            OptionRule::Local { code, .. } => Some(*code),
            OptionRule::Nsid | OptionRule::Subnet(..) => None,
        }
    }

    /// Changes the options of a query. Returns whether the rule applies.
    pub(super) fn apply(&self, draft: &mut Draft<'_>, exchange: &Exchange<'_>) -> bool {
        let (code, data, is_variable) = match &self.option {
            OptionRule::Local { code, data } => {
                let Some(bytes) = data.bytes(draft, exchange) else { return false };
                (*code, bytes, !matches!(data, OptionData::Bytes(_)))
            }
            OptionRule::Nsid => (NSID, SmallVec::new(), false),
            OptionRule::Subnet(ipv4, ipv6) => (SUBNET, subnet(exchange.client.remote.ip(), *ipv4, *ipv6), true),
        };
        let is_local = matches!(self.option, OptionRule::Local { .. });
        let opt = draft.opt();
        let found = opt.find(code).filter(|_| !is_local || !TYPED.contains(&code));
        let changed = match (self.action, found) {
            (OptionAction::Unset, _) => {
                opt.remove_all(code);
                return true;
            }
            (OptionAction::Set | OptionAction::Replace, Some(at)) => opt.replace(at, code, &data, self.revert),
            (OptionAction::Replace, None) => false,
            // CoreDNS appends constant data and NSID to an option of the same code, but nothing else.
            (OptionAction::Append, Some(_)) if is_variable => false,
            (OptionAction::Append, Some(_)) | (OptionAction::Append | OptionAction::Set, None) => {
                opt.append(code, &data, self.revert)
            }
        };
        draft.has_response_rules |= changed && self.revert;
        changed
    }
}

impl OptionData {
    /// Returns the bytes for a query; `None` if there are none, as for metadata without a value.
    fn bytes(&self, draft: &mut Draft<'_>, exchange: &Exchange<'_>) -> Option<SmallVec<[u8; 64]>> {
        let client = &exchange.client;
        let text = |text: &str| SmallVec::from_slice(text.as_bytes());
        let number = |number: u16| SmallVec::from_slice(&number.to_be_bytes());
        Some(match self {
            OptionData::Bytes(bytes) => SmallVec::from_slice(bytes),
            OptionData::QueryName => text(&draft.sent_text()),
            OptionData::QueryType => number(draft.qtype.0),
            OptionData::ClientIp => address(client.remote.ip()),
            OptionData::ClientPort => number(client.remote.port()),
            OptionData::ServerIp => address(client.local.ip()),
            OptionData::ServerPort => number(client.local.port()),
            OptionData::Protocol => text(client.transport.name()),
            OptionData::Label(label) => text(&exchange.metadata(label).filter(|value| !value.is_empty())?),
        })
        .filter(|bytes: &SmallVec<[u8; 64]>| bytes.len() <= MAX_DATA)
    }
}

/// Returns the bytes of an address. A socket for both families shows IPv4 as IPv6.
fn address(ip: IpAddr) -> SmallVec<[u8; 64]> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => SmallVec::from_slice(&ip.octets()),
        IpAddr::V6(ip) => SmallVec::from_slice(&ip.octets()),
    }
}

/// Returns the data of a client subnet option (RFC 7871 6): family, lengths, and the prefix of the address.
fn subnet(ip: IpAddr, ipv4: u8, ipv6: u8) -> SmallVec<[u8; 64]> {
    let address = address(ip);
    let (family, bits) = if address.len() == 4 { (1, ipv4) } else { (2, ipv6) };
    let mut data = SmallVec::from_slice(&[0, family, bits, 0]);
    data.extend_from_slice(&address[..usize::from(bits).div_ceil(8)]);
    let rest = bits % 8;
    if let Some(last) = data.last_mut().filter(|_| rest > 0) {
        *last &= 0xff << (8 - rest);
    }
    data
}

/// Reads the words after `edns0` (CoreDNS `newEdns0Rule`).
pub(super) fn parse(words: &mut Words<'_>) -> Result<EdnsRule, RuleError> {
    let mut count = words.rest().len();
    if count < 2 {
        return Err(words.missing("too few arguments for an EDNS0 rule", EXPECTED));
    }
    let action = match words.text(1).to_lowercase().as_str() {
        "set" => OptionAction::Set,
        "append" => OptionAction::Append,
        "replace" => OptionAction::Replace,
        "unset" => OptionAction::Unset,
        action => return Err(words.wrong(1, format!("invalid action: \"{action}\""), "set, append, replace or unset")),
    };
    let revert = action != OptionAction::Unset && words.text(count - 1) == "revert";
    count -= usize::from(revert);
    let exactly = |expected: usize, message: &str, what: &str| match count == expected {
        true => Ok(()),
        false => Err(words.wrong_count(expected, message.to_owned(), what)),
    };
    let option = match (words.text(0).to_lowercase().as_str(), action) {
        ("local", OptionAction::Unset) => {
            exactly(3, "local unset action requires exactly two arguments", "the code of an option")?;
            OptionRule::Local { code: code(words)?, data: OptionData::Bytes(Vec::new()) }
        }
        ("nsid", OptionAction::Unset) => {
            exactly(2, "nsid unset action requires exactly one argument", "end of the rule")?;
            OptionRule::Nsid
        }
        ("subnet", OptionAction::Unset) => {
            exactly(2, "subnet unset action requires exactly one argument", "end of the rule")?;
            OptionRule::Subnet(0, 0)
        }
        ("local", _) => {
            exactly(4, "EDNS0 local rules require three or four args", "the code of an option and its data")?;
            OptionRule::Local { code: code(words)?, data: data(words)? }
        }
        ("nsid", _) => {
            exactly(2, "EDNS0 NSID rules can accept no more than one arg", "'revert', or nothing")?;
            OptionRule::Nsid
        }
        ("subnet", _) => {
            exactly(4, "EDNS0 subnet rules require three or four args", "two lengths of prefixes in bits")?;
            OptionRule::Subnet(length(words, 2, "IPv4", 32)?, length(words, 3, "IPv6", 128)?)
        }
        (kind, _) => return Err(words.wrong(0, format!("invalid rule type \"{kind}\""), "local, nsid or subnet")),
    };
    Ok(EdnsRule { action, option, revert })
}

/// Reads the code of an option.
fn code(words: &Words<'_>) -> Result<u16, RuleError> {
    let text = words.text(2);
    go_number(text)
        .ok_or_else(|| words.wrong(2, format!("invalid code \"{text}\""), "a number up to 65535, or 0x and hex digits"))
}

/// Reads the length of a prefix in bits.
fn length(words: &Words<'_>, at: usize, family: &str, max: u8) -> Result<u8, RuleError> {
    let text = words.text(at);
    let length = go_number(text).and_then(|length| u8::try_from(length).ok()).filter(|length| *length <= max);
    length.ok_or_else(|| {
        words.wrong(at, format!("invalid {family} bit mask length {text}"), &format!("a number from 0 to {max}"))
    })
}

/// Reads the data of a local option.
fn data(words: &Words<'_>) -> Result<OptionData, RuleError> {
    const EXPECTED: &str = "text, 0x and hex digits, or a variable in braces: qname, qtype, client_ip, client_port, \
                            protocol, server_ip, server_port, or a metadata label";
    let text = words.text(3);
    let bytes = match (text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')), text.strip_prefix("0x")) {
        (Some(variable), _) => {
            return match variable {
                "qname" => Ok(OptionData::QueryName),
                "qtype" => Ok(OptionData::QueryType),
                "client_ip" => Ok(OptionData::ClientIp),
                "client_port" => Ok(OptionData::ClientPort),
                "protocol" => Ok(OptionData::Protocol),
                "server_ip" => Ok(OptionData::ServerIp),
                "server_port" => Ok(OptionData::ServerPort),
                label if is_label(label) => Ok(OptionData::Label(label.to_owned())),
                _ => Err(words.wrong(3, format!("unsupported variable name \"{text}\""), EXPECTED)),
            };
        }
        (None, Some(hex)) => hex_bytes(hex)
            .ok_or_else(|| words.wrong(3, format!("invalid hex data \"{text}\""), "an even number of hex digits"))?,
        (None, None) => text.as_bytes().to_vec(),
    };
    if bytes.len() > MAX_DATA {
        let message = format!("the option has {} bytes", bytes.len());
        return Err(words.wrong(3, message, &format!("at most {MAX_DATA} bytes")));
    }
    Ok(OptionData::Bytes(bytes))
}

fn hex_bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = hex.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Parses a number as Go's `strconv.ParseUint` does with base 0: a prefix may give the base.
fn go_number(text: &str) -> Option<u16> {
    let lower = text.to_ascii_lowercase();
    let (digits, base) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', b'b', ..] => (&lower[2..], 2),
        [b'0', b'o', ..] => (&lower[2..], 8),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (&lower[..], 10),
    };
    let has_digits = digits.starts_with(|c: char| c.is_digit(base)) && digits.chars().all(|c| c.is_digit(base));
    u16::from_str_radix(digits, base).ok().filter(|_| has_digits)
}

#[cfg(test)]
mod tests {
    use super::super::opt::{MAX_OPTIONS, Opt};
    use super::*;

    #[test]
    fn numbers_are_those_of_go() {
        let expected = [
            ("65535", Some(65_535)),
            ("65536", None),
            ("0xFFee", Some(0xffee)),
            ("010", Some(8)),
            ("0b11", Some(3)),
            ("0o17", Some(15)),
            ("0", Some(0)),
            ("08", None),
            ("0x", None),
            ("", None),
            ("+1", None),
            ("0x+1", None),
        ];
        for (text, number) in expected {
            assert_eq!(go_number(text), number, "{text}");
        }
    }

    #[test]
    fn a_subnet_has_no_bits_beyond_its_prefix() {
        let ipv4 = "10.1.255.7".parse().expect("an address");
        assert_eq!(subnet(ipv4, 24, 56)[..], [0, 1, 24, 0, 10, 1, 255]);
        assert_eq!(subnet(ipv4, 17, 56)[..], [0, 1, 17, 0, 10, 1, 0x80]);
        assert_eq!(subnet(ipv4, 0, 56)[..], [0, 1, 0, 0]);
        assert_eq!(subnet("fd00:1:2:ff::1".parse().expect("an address"), 24, 50)[..8], [0, 2, 50, 0, 0xfd, 0, 0, 1]);
        assert_eq!(subnet("::ffff:10.1.2.3".parse().expect("an address"), 32, 0)[..], [0, 1, 32, 0, 10, 1, 2, 3]);
    }

    #[test]
    fn options_are_changed_in_place() {
        let mut opt = Opt::of(None);
        assert!(opt.append(0xffee, b"ab", false) && opt.append(3, b"", false) && opt.append(0xffee, b"c", false));
        let at = opt.find(0xffee).expect("an option");
        assert!(opt.replace(at, 0xffee, b"long data", true));
        let options = |opt: &Opt| -> Vec<(u16, Vec<u8>)> {
            opt.as_edns().options().map(|(code, data)| (code, data.to_vec())).collect()
        };
        assert_eq!(options(&opt), [(0xffee, b"long data".to_vec()), (3, vec![]), (0xffee, b"c".to_vec())]);
        let mut shown = Vec::new();
        opt.write_shown(&[0xffee], &mut shown);
        assert_eq!(shown, [0xff, 0xee, 0, 2, b'a', b'b', 0xff, 0xee, 0, 1, b'c']);
        opt.remove_all(0xffee);
        assert_eq!(options(&opt), [(3, vec![])]);
        assert!(!opt.append(1, &[0; MAX_OPTIONS], false));
    }
}
