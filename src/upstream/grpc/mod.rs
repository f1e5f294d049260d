//! A client of gRPC for one server: unary calls over one connection of HTTP/2.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::exchange_limit::ExchangeLimit;
use super::http2::{Http2Client, Http2Config, Http2Response};
use super::shared_connection::ExchangeTime;
use super::trust::TrustError;
use super::{BoxFuture, Error};
use crate::net::grpc::{self, GrpcBody, GrpcCode, GrpcStatus};

/// A client of one server.
pub struct GrpcClient {
    shared: Arc<GrpcConnection>,
    runtime: Handle,
}

/// What calls use.
struct GrpcConnection {
    http: Http2Client,
    /// The limit on calls, of which each client of this server has a share.
    exchanges: ExchangeLimit,
}

/// A call of a method.
pub struct GrpcCall {
    /// The client of this server for which the call is made.
    pub client: IpAddr,
    /// The path of the method.
    pub path: &'static str,
    /// The request, as [`grpc::encode`] has encoded it.
    pub body: Vec<u8>,
    /// More headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The maximum length of the response.
    pub limit: usize,
    /// The call ends at this time.
    pub until: Instant,
}

impl GrpcClient {
    /// Creates a client without a connection. Calls run on this runtime.
    pub fn new(config: &Http2Config, runtime: Handle) -> Result<GrpcClient, TrustError> {
        let http = Http2Client::new(config, runtime.clone(), |_| {})?;
        let shared = Arc::new(GrpcConnection { http, exchanges: ExchangeLimit::of_process() });
        Ok(GrpcClient { shared, runtime })
    }

    /// Returns the name of the server in logs and metrics.
    pub fn label(&self) -> &Arc<str> {
        self.shared.http.label()
    }

    /// Calls a method, and returns the message of the response. The call ends when the future is dropped.
    pub fn call(&self, call: GrpcCall) -> BoxFuture<Result<Vec<u8>, GrpcStatus>> {
        let shared = self.shared.clone();
        let mut calls = JoinSet::new();
        calls.spawn_on(async move { shared.call(call).await }, &self.runtime);
        Box::pin(async move {
            match calls.join_next().await {
                Some(Ok(result)) => result,
                Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The runtime ends.
                Some(Err(_)) | None => Err(status_of(&Error::Ending)),
            }
        })
    }
}

impl GrpcConnection {
    async fn call(&self, call: GrpcCall) -> Result<Vec<u8>, GrpcStatus> {
        let GrpcCall { client, path, body, headers, limit, until } = call;
        let uri = self.http.uri(None, path).map_err(|error| status_of(&error))?;
        let mut request = Request::post(uri)
            .header(CONTENT_TYPE, grpc::CONTENT_TYPE)
            .header(TE, "trailers")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| GrpcStatus::new(GrpcCode::Internal, error.to_string()))?;
        request.headers_mut().extend(headers);
        let exchange = self.http.request(request, grpc::body_limit(limit), ExchangeTime::All(until));
        let response = self.exchanges.run(client, exchange).await.map_err(|error| status_of(&error))?;
        read(response, limit)
    }
}

/// Returns the message of a response, or its status.
fn read(response: Http2Response, limit: usize) -> Result<Vec<u8>, GrpcStatus> {
    let Http2Response { head, body, trailers } = response;
    if head.status != StatusCode::OK {
        // https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
        let code = match head.status {
            StatusCode::BAD_REQUEST => GrpcCode::Internal,
            StatusCode::UNAUTHORIZED => GrpcCode::Unauthenticated,
            StatusCode::FORBIDDEN => GrpcCode::PermissionDenied,
            StatusCode::NOT_FOUND => GrpcCode::Unimplemented,
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => GrpcCode::Unavailable,
            _ => GrpcCode::Unknown,
        };
        let own = GrpcStatus::read(&head.headers);
        let text = format!("unexpected HTTP status code received from server: {}", head.status);
        return Err(own.unwrap_or_else(|| GrpcStatus::new(code, text)));
    }
    let content_type = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if !content_type.starts_with(grpc::CONTENT_TYPE.as_bytes()) {
        let text = format!("unexpected content-type \"{}\"", content_type.escape_ascii());
        return Err(GrpcStatus::new(GrpcCode::Unknown, text));
    }
    let status = GrpcStatus::read(&trailers).or_else(|| GrpcStatus::read(&head.headers));
    match status {
        Some(GrpcStatus { code: GrpcCode::Ok, .. }) => {
            let mut message = GrpcBody::new(limit);
            message.push(&body)?;
            message.finish()
        }
        Some(status) => Err(status),
        None => Err(GrpcStatus::new(GrpcCode::Internal, "server closed the stream without sending trailers")),
    }
}

/// Returns the status for an error below gRPC.
fn status_of(error: &Error) -> GrpcStatus {
    match error {
        Error::Timeout(_) => GrpcStatus::new(GrpcCode::DeadlineExceeded, error.to_string()),
        Error::Full | Error::TooLarge(..) => GrpcStatus::new(GrpcCode::ResourceExhausted, error.to_string()),
        _ => GrpcStatus::new(GrpcCode::Unavailable, error.to_string()),
    }
}

#[cfg(test)]
mod tests;
