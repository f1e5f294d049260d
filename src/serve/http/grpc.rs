//! Converts gRPC requests to queries and responses to HTTP responses: CoreDNS's service `coredns.dns.DnsService`, whose
//! method `Query` has a DNS message as request and as response.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::message::{RequestMessage, RequestRefusal};
use crate::net::grpc::{self, DnsPacket, GrpcBody, GrpcCode, GrpcStatus};
use crate::serve::memory::MemoryLimit;
use crate::serve::pending::Unread;
use crate::serve::udp::mmsg::MAX_QUESTION;

/// Checks the head of a request. The HTTP status of a refusal is 200, unless the request is not of gRPC at all. The
/// texts are those of Go's library.
pub(crate) fn check<B>(request: &Request<B>) -> Result<(), (StatusCode, GrpcStatus)> {
    let refuse = |status, code, text: String| Err((status, GrpcStatus::new(code, text)));
    let content_type = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    // A suffix names the encoding of messages. As in Go's library, an unknown one counts as protobuf.
    let is_grpc = content_type
        .strip_prefix(grpc::CONTENT_TYPE.as_bytes())
        .is_some_and(|rest| rest.first().is_none_or(|next| matches!(next, b'+' | b';')));
    if request.method() != Method::POST {
        let text = format!("Received a HEADERS frame with :method \"{}\" which should be POST", request.method());
        return refuse(StatusCode::METHOD_NOT_ALLOWED, GrpcCode::Internal, text);
    }
    if !is_grpc {
        let text = format!("invalid gRPC request content-type \"{}\"", content_type.escape_ascii());
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, GrpcCode::InvalidArgument, text);
    }
    let path = request.uri().path();
    if path != grpc::QUERY_PATH {
        let mut words = path.strip_prefix('/').unwrap_or_default().rsplitn(2, '/');
        let text = match (words.next(), words.next()) {
            (Some(method), Some("coredns.dns.DnsService")) => {
                format!("unknown method {method} for service coredns.dns.DnsService")
            }
            (_, Some(service)) => format!("unknown service {service}"),
            _ => format!("malformed method name: \"{path}\""),
        };
        return refuse(StatusCode::OK, GrpcCode::Unimplemented, text);
    }
    match request.headers().get("grpc-encoding").map(HeaderValue::as_bytes) {
        None | Some(b"" | b"identity") => Ok(()),
        Some(other) => {
            let text = format!("grpc: Decompressor is not installed for grpc-encoding \"{}\"", other.escape_ascii());
            refuse(StatusCode::OK, GrpcCode::Unimplemented, text)
        }
    }
}

/// Reads the body of a request.
pub(crate) async fn read(mut body: Incoming, memory: &Arc<MemoryLimit>) -> Result<RequestMessage, GrpcStatus> {
    let mut reader = GrpcBody::new(MAX_QUESTION + DnsPacket::OVERHEAD);
    let mut held = memory.permit();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| GrpcStatus::new(GrpcCode::Canceled, "the request was cut off"))?;
        if let Ok(piece) = frame.into_data() {
            reader.push(&piece)?;
            if !held.resize(reader.held()) {
                return Err(RequestRefusal::Overload.into());
            }
        }
    }
    Ok(RequestMessage::whole(DnsPacket::parse(&reader.finish()?)?.msg, held))
}

/// The status of a request that has not been read.
pub(crate) fn unread(why: Unread) -> GrpcStatus {
    match why {
        Unread::TimedOut => GrpcStatus::new(GrpcCode::DeadlineExceeded, "the request was not complete in time"),
        Unread::Evicted => GrpcStatus::new(GrpcCode::Unavailable, "too many unfinished requests"),
    }
}

impl From<RequestRefusal> for GrpcStatus {
    fn from(refusal: RequestRefusal) -> GrpcStatus {
        match refusal {
            RequestRefusal::TooLarge => GrpcStatus::new(GrpcCode::ResourceExhausted, "the DNS message is too large"),
            RequestRefusal::Overload => GrpcStatus::new(GrpcCode::Unavailable, "too many queries are pending"),
            RequestRefusal::NoQuery => GrpcStatus::new(GrpcCode::InvalidArgument, "the DNS message is no query"),
            RequestRefusal::NoResponse => GrpcStatus::new(GrpcCode::Internal, "the query has no response"),
        }
    }
}

/// Returns the head of the HTTP response for a DNS message, its body, and its trailers.
pub(crate) fn answer(message: &[u8]) -> (Response<()>, Vec<u8>, HeaderMap) {
    let body = grpc::encode(&DnsPacket { msg: message.to_vec() });
    let mut trailers = HeaderMap::new();
    GrpcStatus::new(GrpcCode::Ok, "").write(&mut trailers);
    (head(StatusCode::OK), body, trailers)
}

/// Returns the head of an HTTP response without a DNS message.
pub(crate) fn refusal(http: StatusCode, status: &GrpcStatus) -> Response<()> {
    let mut response = head(http);
    status.write(response.headers_mut());
    response
}

fn head(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(grpc::CONTENT_TYPE));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(method: &str, path: &str, headers: &[(&str, &str)]) -> Result<(), (u16, GrpcCode, String)> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let checked = check(&request.body(()).expect("a request"));
        checked.map_err(|(status, error)| (status.as_u16(), error.code, error.text))
    }

    #[test]
    fn only_the_method_of_coredns_is_served() {
        let grpc = ("content-type", "application/grpc");
        for headers in [
            &[grpc][..],
            &[("content-type", "application/grpc+proto")],
            &[("content-type", "application/grpc;a=b")],
            &[grpc, ("grpc-encoding", "identity"), ("te", "trailers")],
        ] {
            assert_eq!(checked("POST", grpc::QUERY_PATH, headers), Ok(()), "{headers:?}");
        }
        for (method, path, headers, status, code, text) in [
            ("GET", grpc::QUERY_PATH, &[grpc][..], 405, GrpcCode::Internal, "should be POST"),
            ("POST", grpc::QUERY_PATH, &[], 415, GrpcCode::InvalidArgument, "content-type \"\""),
            (
                "POST",
                grpc::QUERY_PATH,
                &[("content-type", "application/grpcx")],
                415,
                GrpcCode::InvalidArgument,
                "grpcx",
            ),
            ("POST", "/coredns.dns.DnsService/Q", &[grpc], 200, GrpcCode::Unimplemented, "unknown method Q for"),
            ("POST", "/a.B/Query", &[grpc], 200, GrpcCode::Unimplemented, "unknown service a.B"),
            ("POST", "/Query", &[grpc], 200, GrpcCode::Unimplemented, "malformed method name"),
            (
                "POST",
                grpc::QUERY_PATH,
                &[grpc, ("grpc-encoding", "gzip")],
                200,
                GrpcCode::Unimplemented,
                "not installed for grpc-encoding \"gzip\"",
            ),
        ] {
            let refused = checked(method, path, headers).expect_err(path);
            assert_eq!((refused.0, refused.1), (status, code), "{method} {path}");
            assert!(refused.2.contains(text), "{}", refused.2);
        }
    }
}
