//! Reads names in presentation form, as miekg/dns does.

use crate::wire::name::{MAX_LABEL, MAX_LEN};

/// Returns the value of `DDD`, if these are three digits. A value above 255 loses its upper bits, as in miekg/dns.
pub(super) fn three_digits(text: &[u8]) -> Option<u8> {
    let digits = text.first_chunk::<3>().filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let [hundreds, tens, ones] = digits.map(|digit| digit - b'0');
    Some(hundreds.wrapping_mul(100).wrapping_add(tens * 10).wrapping_add(ones))
}

/// Returns the wire form of a name; `origin` follows if the name does not end in a dot.
pub(super) fn wire<'w>(text: &[u8], origin: &[u8], wire: &'w mut [u8; MAX_LEN]) -> Option<&'w [u8]> {
    match text {
        [] | b"\n" => return None,
        b"." => {
            wire[0] = 0;
            return Some(&wire[..1]);
        }
        b"@" => {
            wire.get_mut(..origin.len())?.copy_from_slice(origin);
            return Some(&wire[..origin.len()]);
        }
        _ => {}
    }
    // The index of the label's length, and that of its next byte.
    let (mut label, mut end) = (0, 1);
    let mut rest = text;
    let mut is_absolute = false;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        is_absolute = false;
        let byte = match first {
            b'.' => {
                let length = end - label - 1;
                if length == 0 || length > MAX_LABEL {
                    return None;
                }
                wire[label] = length as u8;
                (label, end, is_absolute) = (end, end + 1, true);
                continue;
            }
            b'\\' => match three_digits(rest) {
                Some(byte) => {
                    rest = &rest[3..];
                    byte
                }
                None => {
                    let (&escaped, after) = rest.split_first()?;
                    rest = after;
                    escaped
                }
            },
            byte => byte,
        };
        *wire.get_mut(end)? = byte;
        end += 1;
    }
    if is_absolute {
        *wire.get_mut(label)? = 0;
        return wire.get(..=label);
    }
    let length = end - label - 1;
    if length > MAX_LABEL {
        return None;
    }
    *wire.get_mut(label)? = length as u8;
    wire.get_mut(end..end + origin.len())?.copy_from_slice(origin);
    wire.get(..end + origin.len())
}
