//! Converts requests to queries and responses to HTTP responses, for every version of HTTP (RFC 8484).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode, Uri};

use super::message::RequestRefusal;
use crate::serve::pending::Unread;
use crate::serve::udp::mmsg::MAX_QUESTION;
use crate::wire::Rcode;
use crate::wire::read::lowest_ttl;

/// The path of queries.
const PATH: &str = "/dns-query";
/// The maximum length of a request's head in bytes. It has to hold the URI of a GET with the longest query, 65,535
/// bytes, so that this query gets the same status as in a POST and the connection stays open.
pub(crate) const HEAD: usize = 96 * 1024;
/// The content type of a message.
const MESSAGE: &str = "application/dns-message";
/// The maximum age in caches of a response without records, or of an error, in seconds, as in CoreDNS.
const SHORT: u32 = 5;
/// The maximum age in caches of any response, in seconds, as in CoreDNS.
const LONG: u32 = 3_600;

/// Where the query of a request is.
#[derive(Debug, PartialEq, Eq)]
pub enum QueryPlace {
    /// In its URI.
    Here(Vec<u8>),
    /// In its body.
    Body,
}

/// Finds the query of a request, or the status of the refusal.
pub fn query(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<QueryPlace, StatusCode> {
    if uri.path() != PATH {
        return Err(StatusCode::NOT_FOUND);
    }
    match *method {
        Method::POST => {
            let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
            if length.is_some_and(|length| length > MAX_QUESTION as u64) {
                Err(StatusCode::PAYLOAD_TOO_LARGE)
            } else {
                Ok(QueryPlace::Body)
            }
        }
        Method::GET => {
            let values = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("dns="));
            let mut values = values.fuse();
            let (Some(value), None) = (values.next(), values.next()) else { return Err(StatusCode::BAD_REQUEST) };
            // Padding is not allowed, but some clients write it.
            let query = URL_SAFE_NO_PAD.decode(value.trim_end_matches('='));
            let query = query.map_err(|_| StatusCode::BAD_REQUEST)?;
            if query.len() > MAX_QUESTION { Err(StatusCode::PAYLOAD_TOO_LARGE) } else { Ok(QueryPlace::Here(query)) }
        }
        _ => Err(StatusCode::BAD_REQUEST),
    }
}

/// The status of a request that has not been read.
pub(crate) fn unread(why: Unread) -> StatusCode {
    match why {
        Unread::TimedOut => StatusCode::REQUEST_TIMEOUT,
        Unread::Evicted => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl From<RequestRefusal> for StatusCode {
    fn from(refusal: RequestRefusal) -> StatusCode {
        match refusal {
            RequestRefusal::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            RequestRefusal::Overload => StatusCode::SERVICE_UNAVAILABLE,
            RequestRefusal::NoQuery => StatusCode::BAD_REQUEST,
            RequestRefusal::NoResponse => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Returns the head of the HTTP response for a DNS message.
pub fn answer(message: &[u8]) -> Response<()> {
    let mut response = Response::new(());
    let age = age(message);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MESSAGE));
    headers.insert(CONTENT_LENGTH, message.len().into());
    if let Ok(value) = HeaderValue::from_str(&format!("max-age={age}")) {
        headers.insert(CACHE_CONTROL, value);
    }
    response
}

/// Returns the head of an HTTP response without a DNS message.
pub fn refusal(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_LENGTH, 0.into());
    response
}

/// Returns the number of seconds for which a response may be cached (RFC 8484 5.1).
fn age(message: &[u8]) -> u32 {
    let rcode = message.get(3).map_or(0, |byte| u16::from(byte & 0x0f));
    if rcode != Rcode::NOERROR.0 && rcode != Rcode::NXDOMAIN.0 {
        return SHORT;
    }
    lowest_ttl(message).map_or(SHORT, |least| least.min(LONG))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: Method, uri: &str) -> Result<QueryPlace, u16> {
        let uri: Uri = uri.parse().expect("a URI");
        query(&method, &uri, &HeaderMap::new()).map_err(|status| status.as_u16())
    }

    #[test]
    fn a_query_is_found_in_either_kind_of_request() {
        assert_eq!(found(Method::POST, "https://h/dns-query"), Ok(QueryPlace::Body));
        for value in ["AAEBAA", "AAEBAA=="] {
            let here = found(Method::GET, &format!("/dns-query?x=1&dns={value}"));
            assert_eq!(here, Ok(QueryPlace::Here(vec![0, 1, 1, 0])), "{value}");
        }
        for (method, uri, status) in [
            (Method::POST, "/", 404),
            (Method::GET, "/dns-query/?dns=AAEBAA", 404),
            (Method::GET, "/dns-query", 400),
            (Method::GET, "/dns-query?dns=AAEBAA&dns=AAEBAA", 400),
            (Method::GET, "/dns-query?dns=AA+/AA", 400),
            (Method::PUT, "/dns-query", 400),
        ] {
            assert_eq!(found(method.clone(), uri), Err(status), "{method} {uri}");
        }
        let long = format!("/dns-query?dns={}", "A".repeat(MAX_QUESTION / 3 * 4 + 8));
        assert_eq!(found(Method::GET, &long), Err(413));
        let headers = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from(MAX_QUESTION + 1))]);
        let refused = query(&Method::POST, &Uri::from_static("/dns-query"), &headers);
        assert_eq!(refused, Err(StatusCode::PAYLOAD_TOO_LARGE));
    }

    #[test]
    fn an_answer_may_be_cached_as_long_as_its_records() {
        let message = |rcode: u8, ttl: u32| {
            let head = [0, 0, 0x81, rcode, 0, 1, 0, 1, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1, 0xc0, 12, 0, 1, 0, 1];
            [&head[..], &ttl.to_be_bytes(), &[0, 4, 1, 2, 3, 4]].concat()
        };
        for (rcode, ttl, age) in [(0, 30, 30), (3, 7, 7), (0, 100_000, 3_600), (2, 30, 5)] {
            let response = answer(&message(rcode, ttl));
            assert_eq!(response.headers()[CACHE_CONTROL], format!("max-age={age}").as_str());
        }
        let empty = answer(&[0, 0, 0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(empty.headers()[CACHE_CONTROL], "max-age=5");
    }
}
