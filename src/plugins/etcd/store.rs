//! A client of etcd's version 3 API: the three methods that are needed, with messages as in etcd's `rpc.proto`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::HeaderValue;
use http::header::HeaderName;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use quick_cache::sync::Cache;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::net::grpc::{self, GrpcCode, GrpcStatus};
use crate::net::{MemoryLimit, MemoryPermit};
use crate::upstream::{GrpcCall, GrpcClient};

/// The maximum length of a response, in bytes.
const MAX_RESPONSE: usize = 4 << 20;
/// The maximum number of records of a range. No answer has more.
pub(super) const MAX_RECORDS: usize = 10_000;
/// The memory for all responses that are being used, in bytes.
const MEMORY: usize = 64 << 20;
/// How much more memory the records of a response need than the response.
const EXPANSION: usize = 4;
/// After a failed authentication, queries fail at once for this time: a server spends much time on each.
const PAUSE: Duration = Duration::from_secs(1);
/// For how long the time of a lease is used before it is requested again. A lease that is renewed meanwhile seems to
/// end earlier.
const LEASE_AGE: Duration = Duration::from_secs(1);
/// The maximum number of leases whose times are requested at once for one query.
pub(super) const LEASES_AT_ONCE: usize = 32;
/// The maximum number of leases whose times are remembered.
const REMEMBERED_LEASES: usize = 10_000;
/// The header with the token of an authenticated user.
const TOKEN: HeaderName = HeaderName::from_static("token");

/// The client of this server for which a call is made, the time of its query, and when the call ends.
#[derive(Clone, Copy)]
pub(super) struct Caller {
    pub(super) client: IpAddr,
    pub(super) now: Instant,
    pub(super) until: Instant,
}

/// The records of a range, and the permit for their memory.
pub(super) struct EtcdRange {
    pub(super) records: Vec<KeyValue>,
    pub(super) held: MemoryPermit,
}

/// The servers of one etcd.
pub(super) struct EtcdClient {
    endpoints: Vec<GrpcClient>,
    /// The endpoint that answered last. Written and read by each call.
    current: AtomicUsize,
    credentials: Option<(String, String)>,
    /// Held while the user is authenticated, so that queries that come together do it once.
    session: Mutex<Session>,
    /// Times of leases. Written and read by queries whose records have leases.
    leases: Cache<i64, LeaseTime>,
    memory: Arc<MemoryLimit>,
}

/// The time of a lease.
#[derive(Clone, Copy)]
struct LeaseTime {
    /// The remaining seconds when they were requested; `None` if the lease has ended.
    seconds: Option<i64>,
    /// The time of the query for which they were requested.
    requested: Instant,
}

/// The state of the authentication.
enum Session {
    None,
    Token(HeaderValue),
    /// The server does not authenticate users.
    NotNeeded,
    Failed(GrpcStatus, Instant),
}

#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    /// The first key after the range; empty for one key.
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    limit: i64,
}

/// A record of etcd.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) value: Vec<u8>,
    /// 0 for none.
    #[prost(int64, tag = "6")]
    pub(super) lease: i64,
}

#[derive(Clone, PartialEq, Message)]
struct AuthenticateRequest {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    password: String,
}

#[derive(Clone, PartialEq, Message)]
struct AuthenticateResponse {
    #[prost(string, tag = "2")]
    token: String,
}

#[derive(Clone, PartialEq, Message)]
struct LeaseTimeToLiveRequest {
    #[prost(int64, tag = "1")]
    id: i64,
}

#[derive(Clone, PartialEq, Message)]
struct LeaseTimeToLiveResponse {
    /// In seconds.
    #[prost(int64, tag = "3")]
    ttl: i64,
}

impl EtcdClient {
    /// Creates a client of these endpoints.
    pub(super) fn new(endpoints: Vec<GrpcClient>, credentials: Option<(String, String)>) -> EtcdClient {
        EtcdClient {
            endpoints,
            current: AtomicUsize::new(0),
            credentials,
            session: Mutex::new(Session::None),
            leases: Cache::new(REMEMBERED_LEASES),
            memory: MemoryLimit::of_all(MEMORY),
        }
    }

    /// Returns the record of a key, or with `is_prefix` those whose keys begin with it, in the order of keys.
    pub(super) async fn range(&self, key: String, is_prefix: bool, caller: Caller) -> Result<EtcdRange, GrpcStatus> {
        let key = key.into_bytes();
        let mut range_end = Vec::new();
        if is_prefix {
            range_end.clone_from(&key);
            // Keys begin with a slash, so the last byte is not the largest one.
            if let Some(last) = range_end.last_mut() {
                *last = last.saturating_add(1);
            }
        }
        let request = RangeRequest { key, range_end, limit: MAX_RECORDS as i64 + 1 };
        let (message, mut held) = self.call("/etcdserverpb.KV/Range", &request, caller).await?;
        if !held.resize(message.len() * EXPANSION) {
            return Err(GrpcStatus::new(GrpcCode::ResourceExhausted, "too many responses of etcd are being read"));
        }
        Ok(EtcdRange { records: records(&message)?, held })
    }

    /// Returns the remaining seconds of leases that have not ended. Without a response from etcd, some are missing.
    pub(super) async fn lease_times(
        self: &Arc<EtcdClient>, leases: impl IntoIterator<Item = i64>, caller: Caller,
    ) -> HashMap<i64, i64> {
        let mut times = HashMap::new();
        let mut wanted = Vec::new();
        for lease in leases {
            match self.leases.get(&lease).filter(|time| caller.now < time.requested + LEASE_AGE) {
                Some(LeaseTime { seconds, .. }) => times.extend(seconds.map(|seconds| (lease, seconds))),
                None => wanted.push(lease),
            }
        }
        let mut calls = JoinSet::new();
        loop {
            while calls.len() < LEASES_AT_ONCE
                && let Some(lease) = wanted.pop()
            {
                let client = self.clone();
                calls.spawn(async move { (lease, client.lease_time(lease, caller).await) });
            }
            match calls.join_next().await {
                Some(Ok((lease, Ok(seconds)))) => {
                    let seconds = Some(seconds).filter(|&seconds| seconds > 0);
                    self.leases.insert(lease, LeaseTime { seconds, requested: caller.now });
                    times.extend(seconds.map(|seconds| (lease, seconds)));
                }
                // The other requests would fail, too.
                Some(Ok((_, Err(_)))) => wanted.clear(),
                Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Some(Err(_)) => {}
                None => return times,
            }
        }
    }

    /// Returns the remaining seconds of a lease; they are negative if it has ended.
    async fn lease_time(&self, id: i64, caller: Caller) -> Result<i64, GrpcStatus> {
        let request = LeaseTimeToLiveRequest { id };
        let (message, _held) = self.call("/etcdserverpb.Lease/LeaseTimeToLive", &request, caller).await?;
        Ok(decode::<LeaseTimeToLiveResponse>(&message)?.ttl)
    }

    /// Calls a method, authenticated if there are credentials.
    async fn call(
        &self, path: &'static str, request: &impl Message, caller: Caller,
    ) -> Result<(Vec<u8>, MemoryPermit), GrpcStatus> {
        let body = grpc::encode(request);
        let token = self.token(caller).await?;
        match self.call_with(path, body.clone(), token.clone(), caller).await {
            Err(status) if self.credentials.is_some() && is_unauthenticated(&status) => {
                self.forget(token.as_ref()).await;
                let token = self.token(caller).await?;
                self.call_with(path, body, token, caller).await
            }
            result => result,
        }
    }

    /// Calls a method at the endpoint that answered last, then at the others.
    async fn call_with(
        &self, path: &'static str, body: Vec<u8>, token: Option<HeaderValue>, caller: Caller,
    ) -> Result<(Vec<u8>, MemoryPermit), GrpcStatus> {
        let count = self.endpoints.len();
        let first = self.current.load(Ordering::Relaxed);
        let mut failed = GrpcStatus::new(GrpcCode::Unavailable, "no endpoint");
        for attempt in 0..count {
            let number = (first + attempt) % count;
            // An endpoint that says nothing leaves time for the others.
            let now = Instant::now();
            let share = caller.until.saturating_duration_since(now) / (count - attempt) as u32;
            let call = GrpcCall {
                client: caller.client,
                path,
                body: body.clone(),
                headers: token.iter().map(|token| (TOKEN, token.clone())).collect(),
                limit: MAX_RESPONSE,
                memory: Some(self.memory.clone()),
                until: now + share,
            };
            match self.endpoints[number].call(call).await {
                Ok((message, held)) => {
                    self.current.store(number, Ordering::Relaxed);
                    return Ok((message, held.unwrap_or_else(|| self.memory.permit())));
                }
                Err(status) if matches!(status.code, GrpcCode::Unavailable | GrpcCode::DeadlineExceeded) => {
                    failed = status;
                }
                Err(status) => return Err(status),
            }
        }
        Err(failed)
    }

    /// Returns the token of the user, if there is one. Authenticates the user if necessary.
    async fn token(&self, caller: Caller) -> Result<Option<HeaderValue>, GrpcStatus> {
        let Some((name, password)) = &self.credentials else { return Ok(None) };
        let session = &mut *self.session.lock().await;
        match session {
            Session::Token(token) => return Ok(Some(token.clone())),
            Session::NotNeeded => return Ok(None),
            Session::Failed(status, until) if Instant::now() < *until => return Err(status.clone()),
            Session::Failed(..) | Session::None => {}
        }
        let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
        let result = self.call_with("/etcdserverpb.Auth/Authenticate", grpc::encode(&request), None, caller).await;
        let token = match result.and_then(|(message, _)| decode::<AuthenticateResponse>(&message)) {
            Ok(response) => HeaderValue::from_str(&response.token)
                .map_err(|_| GrpcStatus::new(GrpcCode::Internal, "etcd has sent an invalid token")),
            Err(status) if status.code == GrpcCode::FailedPrecondition => {
                *session = Session::NotNeeded;
                return Ok(None);
            }
            Err(status) => Err(status),
        };
        *session = match &token {
            Ok(token) => Session::Token(token.clone()),
            Err(status) => Session::Failed(status.clone(), Instant::now() + PAUSE),
        };
        token.map(Some)
    }

    /// Forgets the session that had this token, unless there is another one already.
    async fn forget(&self, token: Option<&HeaderValue>) {
        let session = &mut *self.session.lock().await;
        let is_same = match session {
            Session::Token(current) => token == Some(&*current),
            Session::NotNeeded => token.is_none(),
            Session::None | Session::Failed(..) => false,
        };
        if is_same {
            *session = Session::None;
        }
    }
}

/// Returns whether the server wants another token, or one at all.
fn is_unauthenticated(status: &GrpcStatus) -> bool {
    status.code == GrpcCode::Unauthenticated
        || status.code == GrpcCode::InvalidArgument && status.text.contains("user name is empty")
}

fn decode<T: Message + Default>(message: &[u8]) -> Result<T, GrpcStatus> {
    T::decode(message).map_err(|error| malformed(&error.to_string()))
}

fn malformed(reason: &str) -> GrpcStatus {
    GrpcStatus::new(GrpcCode::Internal, format!("malformed response of etcd: {reason}"))
}

/// Returns the records of a `RangeResponse`, whose field 2 they are. They are decoded one by one, so that a message of
/// many empty ones needs no more memory than their number allows.
fn records(mut message: &[u8]) -> Result<Vec<KeyValue>, GrpcStatus> {
    let mut records = Vec::new();
    while !message.is_empty() {
        let (tag, wire_type) = decode_key(&mut message).map_err(|error| malformed(&error.to_string()))?;
        if tag != 2 || wire_type != WireType::LengthDelimited {
            let skipped = skip_field(wire_type, tag, &mut message, DecodeContext::default());
            skipped.map_err(|error| malformed(&error.to_string()))?;
            continue;
        }
        let length = decode_varint(&mut message).map_err(|error| malformed(&error.to_string()))?;
        let record = usize::try_from(length).ok().and_then(|length| message.split_at_checked(length));
        let Some((record, rest)) = record else { return Err(malformed("a record is cut off")) };
        message = rest;
        if records.len() == MAX_RECORDS {
            let text = format!("more than {MAX_RECORDS} records in etcd below one name");
            return Err(GrpcStatus::new(GrpcCode::ResourceExhausted, text));
        }
        records.push(decode(record)?);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_within_limits() {
        let record = KeyValue { key: b"/k".to_vec(), value: b"{}".to_vec(), lease: 7 };
        let field = |bytes: &[u8]| [&[0x12, bytes.len() as u8][..], bytes].concat();
        // A header, a record, `more` and `count`.
        let message = [&[0x0a, 2, 8, 1][..], &field(&record.encode_to_vec()), &[0x18, 0, 0x20, 1]].concat();
        assert_eq!(records(&message), Ok(vec![record]));
        assert_eq!(records(&[]), Ok(Vec::new()));
        for (bytes, reason) in [
            (&[0x12, 5, 1][..], "cut off"),
            (&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], "cut off"),
            (&[0x12, 0x80], "malformed"),
            (&[0xff], "malformed"),
            (&[0x12, 2, 0x0a, 9], "malformed"),
        ] {
            let error = records(bytes).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert_eq!(records(&[0x12, 0].repeat(MAX_RECORDS)).expect("records").len(), MAX_RECORDS);
        let error = records(&[0x12, 0].repeat(2_000_000)).expect_err("too many").to_string();
        assert!(error.contains("more than 10000 records"), "{error}");
    }
}
