//! What holds for the bytes of a connection: messages in a stream, requests over HTTP.

use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use clusterdns::admin::{PageContent, PageOrigin, PageVisit, Site, connection};
use clusterdns::chain::{State, Transport};
use clusterdns::cluster::View;
use clusterdns::net::grpc::{self, DnsPacket, GrpcBody};
use clusterdns::net::{ClientSpan, FoundHeader, Sampling, read_proxy_header};
use clusterdns::serve::framing::{PREFIX, first_message, is_quic_query, quic_query_len};
use clusterdns::serve::http::{doh, message};
use clusterdns::upstream::read_answer;
use clusterdns::wire::{self, MAX_MESSAGE};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answers::Subject;
use super::cluster::sample;

/// The longest query, in bytes.
const MAX_QUESTION: usize = 4_096;
/// Messages that answer something else, before a connection to an upstream is given up.
const STRANGERS: usize = 8;

//--- Messages in a stream

/// Checks how a stream is cut into messages: one of a client over TCP, over QUIC and over gRPC, and one of an upstream,
/// whose answer has the ID of the first two bytes.
pub fn check_stream(data: &[u8]) {
    check_client_stream(data);
    check_quic_stream(data);
    check_grpc(data);
    if let Some((id, stream)) = data.split_first_chunk() {
        check_upstream_stream(*id, stream);
    }
}

fn check_client_stream(stream: &[u8]) {
    let mut rest = stream;
    while let Some((message, end)) = first_message(rest) {
        let len = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
        match end {
            Some(end) => {
                assert_eq!((end, message), (PREFIX + len, &rest[PREFIX..end]));
                assert!(len <= MAX_QUESTION);
                // Later bytes do not change it.
                assert_eq!(first_message(&rest[..end]), Some((message, Some(end))));
                assert_eq!(first_message(&rest[..end - 1]), None);
                rest = &rest[end..];
            }
            None => {
                assert!(len > MAX_QUESTION && message == &rest[PREFIX..PREFIX + wire::header::LEN]);
                return;
            }
        }
    }
    // A connection buffers the rest, so that it must be less than a message.
    assert!(rest.len() < PREFIX + MAX_QUESTION);
}

fn check_quic_stream(stream: &[u8]) {
    static SUBJECT: LazyLock<Subject> = LazyLock::new(|| Subject::new(&sample(), View::default()));
    let Some((prefix, rest)) = stream.split_first_chunk() else { return };
    let Some(len) = quic_query_len(*prefix) else { return };
    assert!((wire::header::LEN..=MAX_QUESTION).contains(&len));
    let Some(packet) = rest.get(..len) else { return };
    if !is_quic_query(packet) {
        return;
    }
    let mut state = State::default();
    let mut out = vec![0; MAX_MESSAGE];
    let len = SUBJECT.answer(packet, Transport::Quic, &mut state, &mut out);
    assert!(len > 0, "an accepted query gets a response");
    assert_eq!(out[..2], [0, 0]);
}

fn check_upstream_stream(id: [u8; 2], mut stream: &[u8]) {
    let mut expected = Err(io::ErrorKind::InvalidData);
    let mut rest = stream;
    for _ in 0..STRANGERS {
        let message = rest
            .split_first_chunk()
            .and_then(|(prefix, rest): (&[u8; 2], _)| rest.split_at_checked(usize::from(u16::from_be_bytes(*prefix))));
        let Some((message, behind)) = message else {
            expected = Err(io::ErrorKind::UnexpectedEof);
            break;
        };
        rest = behind;
        if message.starts_with(&id) {
            expected = Ok(message.to_vec());
            break;
        }
    }
    let found = now(read_answer(&mut stream, id)).map_err(|error| error.kind());
    assert_eq!(found, expected);
    if found.is_ok() {
        assert_eq!(stream, rest, "bytes after a response stay in the stream");
    }
}

/// Checks the body of a gRPC call: it has one message, whose length its prefix has, however it is cut into pieces.
fn check_grpc(data: &[u8]) {
    const LIMIT: usize = 64;
    let (cut, body) = data.split_first().map_or((0, data), |(cut, body)| (usize::from(*cut).min(body.len()), body));
    let mut reader = GrpcBody::new(LIMIT);
    let pushed = reader.push(&body[..cut]).and_then(|()| reader.push(&body[cut..]));
    assert!(reader.held() <= LIMIT);
    let found = pushed.and_then(|()| reader.finish()).ok();
    let expected = match body {
        [0, a, b, c, d, message @ ..] if u32::from_be_bytes([*a, *b, *c, *d]) as usize == message.len() => {
            Some(message.to_vec()).filter(|message| message.len() <= LIMIT)
        }
        _ => None,
    };
    assert_eq!(found, expected);
    if let Some(packet) = found.and_then(|message| DnsPacket::parse(&message).ok()) {
        let mut reader = GrpcBody::new(LIMIT + DnsPacket::OVERHEAD);
        reader.push(&grpc::encode(&packet)).expect("a message");
        assert_eq!(DnsPacket::parse(&reader.finish().expect("a message")), Ok(packet));
    }
}

/// The result of a future that never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("memory can be read at once"),
    }
}

//--- DNS over HTTPS

/// Checks a request: `METHOD URI`, then header lines. A query is found exactly where RFC 8484 puts it.
pub fn check_doh(data: &[u8]) {
    check_doh_response(data);
    let mut lines = data.split(|&byte| byte == b'\n');
    let mut words = lines.next().unwrap_or_default().splitn(2, |&byte| byte == b' ');
    let (Some(Ok(method)), Some(Ok(uri))) = (words.next().map(Method::from_bytes), words.next().map(Uri::try_from))
    else {
        return;
    };
    let mut headers = HeaderMap::new();
    for line in lines.take(16) {
        let mut parts = line.splitn(2, |&byte| byte == b':');
        let name = parts.next().unwrap_or_default();
        let value = parts.next().unwrap_or_default();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    check_client_span(&headers);
    let found = doh::query(&method, &uri, &headers);
    if uri.path() != "/dns-query" {
        return assert_eq!(found, Err(StatusCode::NOT_FOUND));
    }
    let expected = match method {
        Method::POST => {
            let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
            if length > Some(MAX_QUESTION as u64) {
                Err(StatusCode::PAYLOAD_TOO_LARGE)
            } else {
                Ok(doh::QueryPlace::Body)
            }
        }
        Method::GET => {
            let values: Vec<&str> = uri.query().map_or(Vec::new(), |query| {
                query
                    .split('&')
                    .filter_map(|pair| pair.split_once('='))
                    .filter(|pair| pair.0 == "dns")
                    .map(|pair| pair.1)
                    .collect()
            });
            match values[..] {
                [value] => match base64(value) {
                    None => Err(StatusCode::BAD_REQUEST),
                    Some(query) if query.len() > MAX_QUESTION => Err(StatusCode::PAYLOAD_TOO_LARGE),
                    Some(query) => Ok(doh::QueryPlace::Here(query)),
                },
                _ => Err(StatusCode::BAD_REQUEST),
            }
        }
        _ => Err(StatusCode::BAD_REQUEST),
    };
    assert_eq!(found, expected);
}

/// Checks the span of a client that header fields of B3 name: written as fields, it is read as the same.
fn check_client_span(headers: &HeaderMap) {
    let Some(span) = ClientSpan::read(headers) else { return };
    assert_ne!(span, ClientSpan::default());
    let ClientSpan { trace, span: id, parent, sampling } = span;
    let mut fields = vec![("x-b3-traceid", format!("{trace:x}")), ("x-b3-spanid", format!("{id:x}"))];
    fields.extend(parent.map(|parent| ("x-b3-parentspanid", format!("{parent:016x}"))));
    match sampling {
        Sampling::Undecided => {}
        Sampling::Yes => fields.push(("x-b3-sampled", "1".to_owned())),
        Sampling::No => fields.push(("x-b3-sampled", "0".to_owned())),
        Sampling::Debug => fields.push(("x-b3-flags", "1".to_owned())),
    }
    let fields = fields.into_iter().map(|(name, value)| {
        (HeaderName::from_static(name), HeaderValue::try_from(value).expect("hexadecimal digits"))
    });
    assert_eq!(ClientSpan::read(&fields.collect()), Some(span));
}

/// Decodes base64url (RFC 4648 5), with or without padding. Bits that are left over are zero.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bits = 0_u32;
    let mut held = 0;
    let mut bytes = Vec::new();
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        (bits, held) = (bits << 6 | u32::from(value), held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    (text.len() % 4 != 1 && bits == 0).then_some(bytes)
}

/// Checks that the response to a query may be cached as long as its shortest TTL, and no longer than an hour.
fn check_doh_response(packet: &[u8]) {
    static SUBJECT: LazyLock<Subject> = LazyLock::new(|| Subject::new(&sample(), View::default()));
    if !message::is_query(packet) {
        return;
    }
    let mut state = State::default();
    let mut out = vec![0; MAX_MESSAGE];
    let len = SUBJECT.answer(packet, Transport::Https, &mut state, &mut out);
    let message = super::decoded::decode(&out[..len]);
    let records = message.answers.iter().chain(&message.authorities).chain(&message.additionals);
    let least = records.map(|record| record.ttl).min();
    let is_error = !matches!(u16::from(message.metadata.response_code), 0 | 3);
    let age = least.filter(|_| !is_error).map_or(5, |least| least.min(3_600));
    let response = doh::answer(&out[..len]);
    assert_eq!(response.headers()[CACHE_CONTROL], format!("max-age={age}").as_str());
    assert_eq!(response.headers()[CONTENT_LENGTH], len.to_string());
}

//--- Pages over HTTP

/// Checks arbitrary input for a listener with pages: there is at most one response, with the content of a page or an
/// error, and the connection ends with the client's.
pub fn check_admin(data: &[u8]) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    let mut site = Site::default();
    site.add("/health", PageOrigin::CoreDns, Arc::new(|_: &PageVisit<'_>| PageContent::ok()));
    let unready = Arc::new(|_: &PageVisit<'_>| PageContent::unavailable("kubernetes".to_owned()));
    site.add("/ready", PageOrigin::CoreDns, unready);
    let len = data.len();
    let top = move |visit: &PageVisit<'_>| {
        assert!(visit.parameters().count() <= len);
        PageContent::forbidden("not for you\n")
    };
    site.add("/top", PageOrigin::Added, Arc::new(top));
    let mut stream = Memory { input: data, output: Vec::new() };
    let _ = RUNTIME.with(|runtime| runtime.block_on(connection(&mut stream, &site, true)));
    let output = String::from_utf8(stream.output).expect("pages are text");
    if output.is_empty() {
        return;
    }
    assert!(output.len() < 512, "{output}");
    let (head, body) = output.split_once("\r\n\r\n").unwrap_or_else(|| panic!("half a head: {output}"));
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).unwrap_or_else(|| panic!("{output}"));
    let bodies: &[&str] = match status {
        "200" => &["OK", ""],
        "503" => &["kubernetes", ""],
        "403" => &["not for you\n", ""],
        "405" => &["405 method not allowed: use GET, HEAD\n"],
        "404" => &["404 page not found\n", ""],
        "400" | "414" | "431" => &[""],
        // Before a body that the client waits to send.
        "100" => return,
        other => panic!("{other}: {output}"),
    };
    assert!(bodies.contains(&body), "{output}");
}

/// A connection whose client has sent all that it sends.
struct Memory<'a> {
    input: &'a [u8],
    output: Vec<u8>,
}

impl AsyncRead for Memory<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (piece, rest) = self.input.split_at(self.input.len().min(buffer.remaining()));
        buffer.put_slice(piece);
        self.input = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.output.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A header of the PROXY protocol is within its bytes, needs all of them, and does not depend on those after it.
pub fn check_proxy_header(data: &[u8]) {
    let Ok(FoundHeader::Whole(header, len)) = read_proxy_header(data) else { return };
    assert!(len <= data.len());
    assert_eq!(read_proxy_header(&data[..len]), Ok(FoundHeader::Whole(header.clone(), len)));
    for at in 0..len {
        match read_proxy_header(&data[..at]) {
            Ok(FoundHeader::Undecided(needed) | FoundHeader::Partial(needed)) => {
                assert!(needed > at && needed <= len, "{at}: {needed} of {len}");
            }
            other => panic!("{at} of {len}: {other:?}"),
        }
    }
    if let Some(tlvs) = header.valid_tlvs() {
        assert!(!tlvs.is_empty() && tlvs.len() <= header.tlvs.len());
    }
}
