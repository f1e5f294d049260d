//! What both sides of unary gRPC calls share: status codes, messages in the bodies of HTTP/2, and the messages of
//! CoreDNS's DNS service (`pb/dns.proto`).
//!
//! A message in a body has a prefix of five bytes: a flag for compression, which is not supported, and the length
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;

/// The path of CoreDNS's only method.
pub const QUERY_PATH: &str = "/coredns.dns.DnsService/Query";
/// The content type of requests and responses.
pub const CONTENT_TYPE: &str = "application/grpc";
/// The header or trailer with the code of a status.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The header or trailer with the text of a status.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// The length of the prefix of a message.
const PREFIX: usize = 5;
/// The maximum length of the text of a status that is read, in bytes. Longer ones are cut off.
const MAX_TEXT: usize = 1_024;

/// A query or a response of CoreDNS's DNS service.
#[derive(Clone, PartialEq, Message)]
pub struct DnsPacket {
    /// The DNS message.
    #[prost(bytes = "vec", tag = "1")]
    pub msg: Vec<u8>,
}

impl DnsPacket {
    /// The maximum number of bytes that protobuf adds to a DNS message: a tag and a length.
    pub const OVERHEAD: usize = 4;

    /// Decodes a message.
    pub fn parse(message: &[u8]) -> Result<DnsPacket, GrpcStatus> {
        let text = |error| format!("grpc: failed to unmarshal the received message: {error}");
        DnsPacket::decode(message).map_err(|error| GrpcStatus::new(GrpcCode::Internal, text(error)))
    }
}

/// The code of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcCode {
    /// The call has succeeded.
    Ok = 0,
    /// The caller has cancelled the call.
    Canceled = 1,
    /// An error without a code of its own.
    Unknown = 2,
    /// The request is invalid.
    InvalidArgument = 3,
    /// The time of the call is over.
    DeadlineExceeded = 4,
    /// Something that was requested does not exist.
    NotFound = 5,
    /// Something that was to be created exists.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A limit is reached.
    ResourceExhausted = 8,
    /// The server is not in the state that the call needs.
    FailedPrecondition = 9,
    /// The call was aborted.
    Aborted = 10,
    /// A value is out of range.
    OutOfRange = 11,
    /// The server does not have the method, or what the request needs.
    Unimplemented = 12,
    /// An invariant is broken.
    Internal = 13,
    /// The server cannot be reached, or cannot answer now.
    Unavailable = 14,
    /// Data is lost.
    DataLoss = 15,
    /// The caller is not known.
    Unauthenticated = 16,
}

impl GrpcCode {
    const ALL: [GrpcCode; 17] = [
        GrpcCode::Ok,
        GrpcCode::Canceled,
        GrpcCode::Unknown,
        GrpcCode::InvalidArgument,
        GrpcCode::DeadlineExceeded,
        GrpcCode::NotFound,
        GrpcCode::AlreadyExists,
        GrpcCode::PermissionDenied,
        GrpcCode::ResourceExhausted,
        GrpcCode::FailedPrecondition,
        GrpcCode::Aborted,
        GrpcCode::OutOfRange,
        GrpcCode::Unimplemented,
        GrpcCode::Internal,
        GrpcCode::Unavailable,
        GrpcCode::DataLoss,
        GrpcCode::Unauthenticated,
    ];

    /// Parses the value of [`STATUS`]. An unknown code is [`GrpcCode::Unknown`].
    fn parse(value: &HeaderValue) -> GrpcCode {
        let number = value.to_str().ok().and_then(|text| text.parse::<usize>().ok());
        number.and_then(|number| GrpcCode::ALL.get(number)).copied().unwrap_or(GrpcCode::Unknown)
    }
}

/// How a call has ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {code:?} desc = {text}")]
pub struct GrpcStatus {
    /// The code.
    pub code: GrpcCode,
    /// What has happened.
    pub text: String,
}

impl GrpcStatus {
    /// Creates a status.
    pub fn new(code: GrpcCode, text: impl Into<String>) -> GrpcStatus {
        GrpcStatus { code, text: text.into() }
    }

    /// Writes the status as headers or trailers. The text is percent-encoded.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(STATUS, HeaderValue::from(self.code as u16));
        let mut encoded = String::with_capacity(self.text.len());
        for byte in self.text.bytes() {
            match byte {
                b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
                // A `String` accepts every write.
                _ => write!(encoded, "%{byte:02X}").unwrap_or_default(),
            }
        }
        if let Ok(value) = HeaderValue::from_str(&encoded)
            && !encoded.is_empty()
        {
            headers.insert(MESSAGE, value);
        }
    }

    /// Reads a status from headers or trailers; `None` if there is none.
    pub fn read(headers: &HeaderMap) -> Option<GrpcStatus> {
        let code = GrpcCode::parse(headers.get(STATUS)?);
        let encoded = headers.get(MESSAGE).map(HeaderValue::as_bytes).unwrap_or_default();
        let mut bytes = Vec::new();
        let mut rest = &encoded[..encoded.len().min(MAX_TEXT)];
        while let [first, after @ ..] = rest {
            let digits = if *first == b'%' { after.get(..2) } else { None };
            let escaped = digits.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
            bytes.push(escaped.unwrap_or(*first));
            rest = if escaped.is_some() { &after[2..] } else { after };
        }
        Some(GrpcStatus { code, text: String::from_utf8_lossy(&bytes).into_owned() })
    }
}

/// Returns the maximum length of a body whose message has at most `limit` bytes.
pub fn body_limit(limit: usize) -> usize {
    PREFIX + limit
}

/// Encodes a message with its prefix. Messages of this program are shorter than 4 GiB.
pub fn encode(message: &impl Message) -> Vec<u8> {
    let len = message.encoded_len();
    let mut body = Vec::with_capacity(PREFIX + len);
    body.push(0);
    body.extend((len as u32).to_be_bytes());
    body.extend(message.encode_to_vec());
    body
}

/// The body of a call, of which the only message is read from its pieces.
#[derive(Debug)]
pub struct GrpcBody {
    prefix: [u8; PREFIX],
    /// The number of bytes of the prefix that have come.
    prefix_len: usize,
    /// The maximum length of the message.
    limit: usize,
    message: Vec<u8>,
}

impl GrpcBody {
    /// Creates a body for a message of at most `limit` bytes.
    pub fn new(limit: usize) -> GrpcBody {
        GrpcBody { prefix: [0; PREFIX], prefix_len: 0, limit, message: Vec::new() }
    }

    /// Returns the number of bytes of the message that have come.
    pub fn held(&self) -> usize {
        self.message.len()
    }

    /// Returns the length of the message, once its prefix has come.
    fn length(&self) -> Option<usize> {
        let [_, length @ ..] = self.prefix;
        (self.prefix_len == PREFIX).then_some(u32::from_be_bytes(length) as usize)
    }

    /// Adds a piece of the body. Fails as soon as the prefix shows that the message cannot be read. The texts are those
    /// of Go's library.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), GrpcStatus> {
        if self.prefix_len < PREFIX {
            let (head, rest) = piece.split_at(piece.len().min(PREFIX - self.prefix_len));
            self.prefix[self.prefix_len..self.prefix_len + head.len()].copy_from_slice(head);
            self.prefix_len += head.len();
            piece = rest;
        }
        let Some(length) = self.length() else { return Ok(()) };
        if self.prefix[0] != 0 {
            let text = "grpc: compressed flag set with identity or empty encoding";
            return Err(GrpcStatus::new(GrpcCode::Internal, text));
        }
        if length > self.limit {
            let text = format!("grpc: received message larger than max ({length} vs. {})", self.limit);
            return Err(GrpcStatus::new(GrpcCode::ResourceExhausted, text));
        }
        if self.message.len() + piece.len() > length {
            return Err(GrpcStatus::new(GrpcCode::Internal, "more than one message in a unary call"));
        }
        self.message.extend_from_slice(piece);
        Ok(())
    }

    /// Returns the message, at the end of the body.
    pub fn finish(self) -> Result<Vec<u8>, GrpcStatus> {
        match self.length() {
            Some(length) if length == self.message.len() => Ok(self.message),
            None if self.prefix_len == 0 => Err(GrpcStatus::new(GrpcCode::Internal, "EOF")),
            _ => Err(GrpcStatus::new(GrpcCode::Internal, "unexpected EOF")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]], limit: usize) -> Result<Vec<u8>, GrpcStatus> {
        let mut reader = GrpcBody::new(limit);
        pieces.iter().try_for_each(|piece| reader.push(piece))?;
        reader.finish()
    }

    #[test]
    fn a_message_is_read_from_any_pieces() {
        let body = encode(&DnsPacket { msg: vec![1, 2, 3] });
        assert_eq!(body, [0, 0, 0, 0, 5, 0x0a, 3, 1, 2, 3]);
        for cut in 0..=body.len() {
            let message = read(&[&body[..cut], &[], &body[cut..]], 5).expect("a message");
            assert_eq!(DnsPacket::parse(&message).expect("a packet").msg, [1, 2, 3], "cut at {cut}");
        }
        assert_eq!(read(&[&encode(&DnsPacket::default())], 0), Ok(Vec::new()));
    }

    #[test]
    fn other_bodies_are_refused_before_they_are_buffered() {
        for (body, code) in [
            (&[][..], GrpcCode::Internal),
            (&[0, 0, 0], GrpcCode::Internal),
            (&[0, 0, 0, 0, 2, 1], GrpcCode::Internal),
            (&[0, 0, 0, 0, 1, 1, 0], GrpcCode::Internal),
            (&[1, 0, 0, 0, 1], GrpcCode::Internal),
            (&[0, 0xff, 0xff, 0xff, 0xff], GrpcCode::ResourceExhausted),
            (&[0, 0, 0, 0, 5], GrpcCode::ResourceExhausted),
        ] {
            assert_eq!(read(&[body], 4).expect_err("no message").code, code, "{body:?}");
        }
        let mut reader = GrpcBody::new(4);
        reader.push(&[0, 0, 0, 0, 2, 7]).expect("a part");
        assert!(reader.push(&[0; 1_000_000]).is_err() && reader.held() == 1);
    }

    #[test]
    fn a_status_is_read_as_it_was_written() {
        for text in ["", "plain", "100 % of ü\nnew line", "%41"] {
            let status = GrpcStatus::new(GrpcCode::NotFound, text);
            let mut headers = HeaderMap::new();
            status.write(&mut headers);
            assert_eq!(headers[STATUS], "5");
            assert_eq!(GrpcStatus::read(&headers), Some(status));
        }
        let headers = |code| HeaderMap::from_iter([(STATUS, HeaderValue::from_static(code))]);
        for (value, code) in [
            ("0", GrpcCode::Ok),
            ("16", GrpcCode::Unauthenticated),
            ("17", GrpcCode::Unknown),
            ("x", GrpcCode::Unknown),
        ] {
            assert_eq!(GrpcStatus::read(&headers(value)).expect("a status").code, code);
        }
        assert_eq!(GrpcStatus::read(&HeaderMap::new()), None);
        let mut long = headers("2");
        long.insert(MESSAGE, HeaderValue::from_str(&"%".repeat(10_000)).expect("a value"));
        assert_eq!(GrpcStatus::read(&long).expect("a status").text.len(), MAX_TEXT);
        assert_eq!(
            GrpcStatus::new(GrpcCode::Unavailable, "no route").to_string(),
            "rpc error: code = Unavailable desc = no route"
        );
    }
}
