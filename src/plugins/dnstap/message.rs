//! The messages of dnstap, as in `dnstap.proto` (<https://dnstap.info>), with the fields that this server sets.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use prost::Message;
use prost::bytes::Bytes;

/// A message with its envelope.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Dnstap {
    /// The name of the server.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(super) identity: Option<Bytes>,
    /// The version of the server.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(super) version: Option<Bytes>,
    /// Data of the operator.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(super) extra: Option<Bytes>,
    /// The message.
    #[prost(message, optional, tag = "14")]
    pub(super) message: Option<TapMessage>,
    /// What the envelope has: 1 is a message.
    #[prost(int32, required, tag = "15")]
    pub(super) kind: i32,
}

/// The value of [`Dnstap::kind`] for an envelope with a message.
pub(super) const MESSAGE: i32 = 1;

/// A message about a query or a response.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TapMessage {
    /// A [`TapKind`].
    #[prost(int32, required, tag = "1")]
    pub(super) kind: i32,
    /// 1 for IPv4, 2 for IPv6.
    #[prost(int32, optional, tag = "2")]
    pub(super) socket_family: Option<i32>,
    /// 1 for UDP, 2 for TCP.
    #[prost(int32, optional, tag = "3")]
    pub(super) socket_protocol: Option<i32>,
    /// The address of who queries.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(super) query_address: Option<Bytes>,
    /// The address of who responds.
    #[prost(bytes = "bytes", optional, tag = "5")]
    pub(super) response_address: Option<Bytes>,
    /// The port of who queries.
    #[prost(uint32, optional, tag = "6")]
    pub(super) query_port: Option<u32>,
    /// The port of who responds.
    #[prost(uint32, optional, tag = "7")]
    pub(super) response_port: Option<u32>,
    /// When the query came or was sent, in seconds since 1970.
    #[prost(uint64, optional, tag = "8")]
    pub(super) query_time_sec: Option<u64>,
    /// The nanoseconds of that time.
    #[prost(fixed32, optional, tag = "9")]
    pub(super) query_time_nsec: Option<u32>,
    /// The query in wire form.
    #[prost(bytes = "bytes", optional, tag = "10")]
    pub(super) query_message: Option<Bytes>,
    /// When the response came or was sent, in seconds since 1970.
    #[prost(uint64, optional, tag = "12")]
    pub(super) response_time_sec: Option<u64>,
    /// The nanoseconds of that time.
    #[prost(fixed32, optional, tag = "13")]
    pub(super) response_time_nsec: Option<u32>,
    /// The response in wire form.
    #[prost(bytes = "bytes", optional, tag = "14")]
    pub(super) response_message: Option<Bytes>,
}

/// The kinds of messages that this server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum TapKind {
    /// A query of a client.
    ClientQuery = 5,
    /// The response to it.
    ClientResponse = 6,
    /// A query to an upstream.
    ForwarderQuery = 7,
    /// The response of an upstream.
    ForwarderResponse = 8,
}

impl TapMessage {
    /// Creates a message of this kind over UDP or TCP.
    pub(super) fn new(kind: TapKind, is_udp: bool) -> TapMessage {
        let socket_protocol = Some(if is_udp { 1 } else { 2 });
        TapMessage { kind: kind as i32, socket_protocol, ..TapMessage::default() }
    }

    /// Sets the address of who queries. The family of the socket is that of the last address that was set.
    pub(super) fn set_query_address(&mut self, address: SocketAddr) {
        let (family, bytes) = address_bytes(address.ip());
        (self.socket_family, self.query_address) = (Some(family), Some(bytes));
        self.query_port = Some(address.port().into());
    }

    /// Sets the address of who responds.
    pub(super) fn set_response_address(&mut self, address: SocketAddr) {
        let (family, bytes) = address_bytes(address.ip());
        (self.socket_family, self.response_address) = (Some(family), Some(bytes));
        self.response_port = Some(address.port().into());
    }

    /// Sets the time of the query, since 1970.
    pub(super) fn set_query_time(&mut self, time: Duration) {
        (self.query_time_sec, self.query_time_nsec) = (Some(time.as_secs()), Some(time.subsec_nanos()));
    }

    /// Sets the time of the response, since 1970.
    pub(super) fn set_response_time(&mut self, time: Duration) {
        (self.response_time_sec, self.response_time_nsec) = (Some(time.as_secs()), Some(time.subsec_nanos()));
    }
}

/// Returns the family of an address, and its bytes. IPv4 addresses of IPv6 sockets are IPv4 addresses.
fn address_bytes(address: IpAddr) -> (i32, Bytes) {
    match address.to_canonical() {
        IpAddr::V4(address) => (1, Bytes::from(address.to_bits().to_be_bytes().to_vec())),
        IpAddr::V6(address) => (2, Bytes::from(address.to_bits().to_be_bytes().to_vec())),
    }
}
