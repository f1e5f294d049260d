//! Connections to readers of messages.

use std::future::Future;
use std::io;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::config::TapEndpoint;
use super::frames;
use crate::net::TlsClient;

/// The time for a connection, for the handshakes, and for each write (CoreDNS `tcpTimeout`).
pub(super) const TIMEOUT: Duration = Duration::from_secs(4);
/// The time in which messages are written that were accepted before the end.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection of any kind.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// Connects to a reader, and begins the stream of frames.
pub(super) async fn connect(endpoint: &TapEndpoint, write_buffer: usize, is_verified: bool) -> io::Result<FrameStream> {
    let stream = within(TIMEOUT, open(endpoint, write_buffer, is_verified)).await?;
    FrameStream::begin(stream).await
}

async fn open(endpoint: &TapEndpoint, write_buffer: usize, is_verified: bool) -> io::Result<Box<dyn Duplex>> {
    let (host, is_tls) = match endpoint {
        TapEndpoint::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
        TapEndpoint::Tcp(host) => (host, false),
        TapEndpoint::Tls(host) => (host, true),
    };
    let stream = TcpStream::connect(host).await?;
    // The kernel limits the size, and no error is worth a connection.
    let _ = SockRef::from(&stream).set_send_buffer_size(write_buffer << 20);
    if !is_tls {
        return Ok(Box::new(stream));
    }
    let host = host.clone();
    let prepared = tokio::task::spawn_blocking(move || TlsClient::new(&host, is_verified)).await;
    let TlsClient { config, name } = prepared.map_err(io::Error::other)??;
    Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
}

/// A stream of frames that has begun.
pub(super) struct FrameStream {
    reader: ReadHalf<Box<dyn Duplex>>,
    writer: WriteHalf<Box<dyn Duplex>>,
}

impl FrameStream {
    /// Begins a stream of frames.
    pub(super) async fn begin(mut stream: Box<dyn Duplex>) -> io::Result<FrameStream> {
        within(TIMEOUT, frames::begin(&mut stream)).await?;
        let (reader, writer) = tokio::io::split(stream);
        Ok(FrameStream { reader, writer })
    }

    /// Writes frames.
    pub(super) async fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        let writing = async {
            self.writer.write_all(frames).await?;
            self.writer.flush().await
        };
        within(TIMEOUT, writing).await
    }

    /// Waits until the reader closes the connection, which it does at any time. Returns why it is over.
    pub(super) async fn closed(&mut self) -> io::Error {
        match self.reader.read(&mut [0]).await {
            Ok(0) => io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => io::Error::new(io::ErrorKind::InvalidData, "the peer sends data"),
            Err(error) => error,
        }
    }

    /// Ends the stream.
    pub(super) async fn end(self) -> io::Result<()> {
        let mut stream = self.reader.unsplit(self.writer);
        within(STOP_TIMEOUT, frames::end(&mut stream)).await
    }
}

/// Waits for the order to stop, or until it cannot be given any more.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone.
    let _ = stop.wait_for(|stops| *stops).await;
}

/// Waits for a result for a time.
async fn within<T>(time: Duration, result: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(time, result).await.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "i/o timeout")))
}
