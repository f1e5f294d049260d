//! The span of a client, as header fields of B3 name it (<https://github.com/openzipkin/b3-propagation>): several
//! fields, or the single field `b3`. Read as CoreDNS does, by zipkin-go's `b3.ExtractHTTP`.

use http::HeaderMap;
use http::header::HeaderValue;

/// The span of a client, in which its request is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientSpan {
    /// The ID of the trace; 0 if the client names none.
    pub trace: u128,
    /// The ID of the span.
    pub span: u64,
    /// The ID of the span around it.
    pub parent: Option<u64>,
    /// Whether the client wants the trace to be recorded.
    pub sampling: Sampling,
}

/// Whether a client wants its trace to be recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sampling {
    /// The server decides.
    #[default]
    Undecided,
    /// The trace is recorded.
    Yes,
    /// The trace is not recorded.
    No,
    /// The trace is recorded, also by collectors that drop some traces.
    Debug,
}

impl ClientSpan {
    /// Returns the span that the header fields of a request name. Invalid fields count as absent.
    pub fn read(headers: &HeaderMap) -> Option<ClientSpan> {
        let field = |name| headers.get(name).map(HeaderValue::as_bytes).filter(|value| !value.is_empty());
        if let Some(span) = field("b3").and_then(read_single) {
            return Some(span);
        }
        let sampled = match field("x-b3-sampled").map(<[u8]>::to_ascii_lowercase).as_deref() {
            None => Sampling::Undecided,
            Some(b"1" | b"true") => Sampling::Yes,
            Some(b"0" | b"false") => Sampling::No,
            Some(_) => return None,
        };
        let is_debug = field("x-b3-flags") == Some(b"1");
        let ids = match (field("x-b3-traceid"), field("x-b3-spanid"), field("x-b3-parentspanid")) {
            (None, None, None) => ClientSpan::default(),
            (Some(trace), Some(span), parent) => ClientSpan {
                trace: read_trace(trace)?,
                span: read_hex(span)?,
                parent: match parent {
                    Some(parent) => Some(read_hex(parent)?),
                    None => None,
                },
                sampling: Sampling::Undecided,
            },
            _ => return None,
        };
        let span = ClientSpan { sampling: if is_debug { Sampling::Debug } else { sampled }, ..ids };
        (span != ClientSpan::default()).then_some(span)
    }
}

/// Reads the value of the single field: `TRACE-SPAN[-SAMPLING[-PARENT]]` or `SAMPLING`.
fn read_single(value: &[u8]) -> Option<ClientSpan> {
    if let [sampling] = value {
        return Some(ClientSpan { sampling: read_sampling(*sampling)?, ..ClientSpan::default() });
    }
    // A trace has 64 or 128 bits.
    let trace_len = if value.get(16) == Some(&b'-') { 16 } else { 32 };
    let trace = read_trace(value.get(..trace_len)?)?;
    let span = read_hex(value.get(trace_len + 1..trace_len + 17)?)?;
    let (sampling, parent) = match &value[trace_len + 17..] {
        [] => (Sampling::Undecided, None),
        [_, sampling] => (read_sampling(*sampling)?, None),
        [_, sampling, _, parent @ ..] if parent.len() == 16 => (read_sampling(*sampling)?, Some(read_hex(parent)?)),
        _ => return None,
    };
    Some(ClientSpan { trace, span, parent, sampling })
}

fn read_sampling(byte: u8) -> Option<Sampling> {
    match byte {
        b'd' => Some(Sampling::Debug),
        b'1' => Some(Sampling::Yes),
        b'0' => Some(Sampling::No),
        _ => None,
    }
}

/// Reads the ID of a trace, of which each half fits 64 bits.
fn read_trace(text: &[u8]) -> Option<u128> {
    let (high, low) = text.split_at(text.len().saturating_sub(16));
    let high = if high.is_empty() { 0 } else { read_hex(high)? };
    Some(u128::from(high) << 64 | u128::from(read_hex(low)?))
}

/// Reads a number of hexadecimal digits, which is not empty.
fn read_hex(text: &[u8]) -> Option<u64> {
    // `from_str_radix` would accept a sign.
    let is_hex = text.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(text).ok().filter(|_| is_hex)?;
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads header fields, one a line.
    fn read(lines: &str) -> Option<ClientSpan> {
        let mut headers = HeaderMap::new();
        for line in lines.lines() {
            let (name, value) = line.split_once(": ").expect("a field");
            let name: http::HeaderName = name.parse().expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        ClientSpan::read(&headers)
    }

    const TRACE: u128 = 0x463a_c35c_9f64_13ad_4848_5a39_53bb_6124;

    #[test]
    fn every_form_is_read() {
        use Sampling::{Debug, No, Undecided, Yes};
        let span = |trace, span, parent, sampling| Some(ClientSpan { trace, span, parent, sampling });
        let long = "463ac35c9f6413ad48485a3953bb6124";
        for (lines, expected) in [
            (format!("X-B3-TraceId: {long}\nX-B3-SpanId: a2"), span(TRACE, 0xa2, None, Undecided)),
            (
                "x-b3-traceid: A\nx-b3-spanid: 2\nx-b3-parentspanid: 3\nx-b3-sampled: True".into(),
                span(10, 2, Some(3), Yes),
            ),
            ("x-b3-traceid: 1\nx-b3-spanid: 2\nx-b3-sampled: 0\nx-b3-flags: 1".into(), span(1, 2, None, Debug)),
            ("x-b3-sampled: false".into(), span(0, 0, None, No)),
            ("x-b3-flags: 1".into(), span(0, 0, None, Debug)),
            ("x-b3-traceid: 0\nx-b3-spanid: 2".into(), span(0, 2, None, Undecided)),
            (format!("b3: {long}-00000000000000a2"), span(TRACE, 0xa2, None, Undecided)),
            (format!("b3: {long}-00000000000000a2-d-0000000000000003"), span(TRACE, 0xa2, Some(3), Debug)),
            ("b3: 000000000000000a-000000000000000b-1".into(), span(10, 11, None, Yes)),
            ("b3: 0".into(), span(0, 0, None, No)),
            // The single field is looked at first; the others count if it is invalid.
            ("b3: 1\nx-b3-traceid: 1\nx-b3-spanid: 2".into(), span(0, 0, None, Yes)),
            ("b3: zz\nx-b3-traceid: 1\nx-b3-spanid: 2".into(), span(1, 2, None, Undecided)),
            ("x-b3-traceid: 1\nx-b3-traceid: zz\nx-b3-spanid: 2".into(), span(1, 2, None, Undecided)),
        ] {
            assert_eq!(read(&lines), expected, "{lines}");
        }
    }

    #[test]
    fn invalid_fields_count_as_absent() {
        let zeros = "0".repeat(16);
        for lines in [
            "accept: */*".to_owned(),
            "x-b3-traceid: 1".into(),
            "x-b3-spanid: 1".into(),
            "x-b3-parentspanid: 1".into(),
            "x-b3-traceid: zz\nx-b3-spanid: 1".into(),
            "x-b3-traceid: +1\nx-b3-spanid: 1".into(),
            "x-b3-traceid: 1\nx-b3-spanid: 10000000000000000".into(),
            format!("x-b3-traceid: 1{zeros}{zeros}\nx-b3-spanid: 1"),
            "x-b3-traceid: 1\nx-b3-spanid: 1\nx-b3-parentspanid: x".into(),
            "x-b3-traceid: 1\nx-b3-spanid: 1\nx-b3-sampled: 2".into(),
            "x-b3-sampled: maybe".into(),
            "b3: x".into(),
            format!("b3: {zeros}"),
            format!("b3: {zeros}{zeros}-{zeros}x"),
            format!("b3: {zeros}{zeros}{}", "-0".repeat(4)),
            format!("b3: {zeros}-{zeros}-"),
            format!("b3: {zeros}-{zeros}-x"),
            format!("b3: {zeros}-{zeros}-1-"),
            format!("b3: {zeros}-{zeros}-{zeros}"),
            format!("b3: {zeros}-{zeros}-1-{zeros}0"),
            "b3: ".into(),
            "b3: \u{e9}".into(),
        ] {
            assert_eq!(read(&lines), None, "{lines}");
        }
        // No length of a value is out of range.
        let whole = format!("{zeros}{zeros}-{zeros}-1-{zeros}00");
        for len in 0..whole.len() {
            read(&format!("b3: {}", &whole[..len]));
            read(&format!("b3: {}", &whole[16..].chars().cycle().take(len).collect::<String>()));
        }
    }
}
