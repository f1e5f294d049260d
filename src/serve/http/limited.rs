//! A limit on the bytes that h3 may read from a QUIC stream. h3 stores a frame until it is complete, whatever length
//! the frame claims, so that a client could fill the memory with a single frame.

use std::task::{Context, Poll};

use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use h3_quinn::{BidiStream, OpenStreams, RecvStream, SendStream};
use hyper::body::Bytes;

use super::doh::HEAD;
use crate::serve::udp::mmsg::MAX_QUESTION;

/// The maximum number of bytes of a request: its head, its body, and the same size again for the frames around them.
const REQUEST: usize = HEAD + 2 * MAX_QUESTION;
/// The maximum number of bytes of any other stream, which has settings or priority updates.
const UNIDIRECTIONAL: usize = 64 * 1024;

/// The error of a stream over the limit.
#[derive(Debug, thiserror::Error)]
#[error("a stream is too long")]
struct StreamTooLong;

/// A connection whose streams are limited.
pub(crate) struct LimitedConnection(h3_quinn::Connection);

impl LimitedConnection {
    pub(crate) fn new(connection: quinn::Connection) -> LimitedConnection {
        LimitedConnection(h3_quinn::Connection::new(connection))
    }
}

/// Opens streams of a connection.
pub(crate) struct Opener(OpenStreams);

/// A stream with a limit on the bytes that are read.
pub(crate) struct Limited<S> {
    stream: S,
    /// The number of bytes that may still be read.
    left: usize,
}

impl<S> Limited<S> {
    fn request(stream: S) -> Limited<S> {
        Limited { stream, left: REQUEST }
    }
}

impl quic::Connection<Bytes> for LimitedConnection {
    type RecvStream = Limited<RecvStream>;
    type OpenStreams = Opener;

    fn poll_accept_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Self::RecvStream, ConnectionErrorIncoming>> {
        let accepted = quic::Connection::<Bytes>::poll_accept_recv(&mut self.0, cx);
        accepted.map_ok(|stream| Limited { stream, left: UNIDIRECTIONAL })
    }

    fn poll_accept_bidi(
        &mut self, cx: &mut Context<'_>,
    ) -> Poll<Result<Limited<BidiStream<Bytes>>, ConnectionErrorIncoming>> {
        quic::Connection::<Bytes>::poll_accept_bidi(&mut self.0, cx).map_ok(Limited::request)
    }

    fn opener(&self) -> Opener {
        Opener(quic::Connection::<Bytes>::opener(&self.0))
    }
}

impl quic::OpenStreams<Bytes> for LimitedConnection {
    type BidiStream = Limited<BidiStream<Bytes>>;
    type SendStream = SendStream<Bytes>;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Self::BidiStream, StreamErrorIncoming>> {
        quic::OpenStreams::<Bytes>::poll_open_bidi(&mut self.0, cx).map_ok(Limited::request)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Self::SendStream, StreamErrorIncoming>> {
        quic::OpenStreams::<Bytes>::poll_open_send(&mut self.0, cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        quic::OpenStreams::<Bytes>::close(&mut self.0, code, reason);
    }
}

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = Limited<BidiStream<Bytes>>;
    type SendStream = SendStream<Bytes>;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Self::BidiStream, StreamErrorIncoming>> {
        quic::OpenStreams::<Bytes>::poll_open_bidi(&mut self.0, cx).map_ok(Limited::request)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Self::SendStream, StreamErrorIncoming>> {
        quic::OpenStreams::<Bytes>::poll_open_send(&mut self.0, cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        quic::OpenStreams::<Bytes>::close(&mut self.0, code, reason);
    }
}

impl<S: quic::RecvStream<Buf = Bytes>> quic::RecvStream for Limited<S> {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.stream.poll_data(cx).map(|data| {
            let data = data?;
            let len = data.as_ref().map_or(0, Bytes::len);
            let left = self.left.checked_sub(len);
            self.left = left.ok_or_else(|| StreamErrorIncoming::Unknown(Box::new(StreamTooLong)))?;
            Ok(data)
        })
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.stream.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.stream.recv_id()
    }
}

impl<S: quic::SendStream<Bytes>> quic::SendStream<Bytes> for Limited<S> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.stream.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.stream.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.stream.poll_finish(cx)
    }

    fn reset(&mut self, reset_code: u64) {
        self.stream.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        self.stream.send_id()
    }
}
