//! Sends messages to readers that connect to this server (CoreDNS `plugin/dnstap/listener.go`). Each reader has a short
//! queue of its own. One that does not keep up loses its connection, so that it costs neither memory nor other readers
//! their messages.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prost::bytes::Bytes;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::config::TapEndpoint;
use super::queue::{Chunk, Queue};
use super::stream::{Duplex, FrameStream, TIMEOUT, stopped};
use crate::net::{Credentials, TlsFiles};

/// The most readers, with those that have not begun their stream.
const MAX_READERS: usize = 32;
/// The chunks that wait for a reader, of up to 64 KiB each.
const READER_QUEUE: usize = 64;
/// The delay between attempts to open the socket, and after a connection that cannot be accepted.
const DELAY: Duration = Duration::from_secs(1);
/// The time for which messages are collected, unless there are many.
const FLUSH: Duration = Duration::from_millis(20);

/// Sends the messages of a queue to every reader that connects.
pub(super) struct Broadcaster<'a> {
    /// Where readers connect to.
    pub(super) endpoint: &'a TapEndpoint,
    /// The certificate of a TLS endpoint.
    pub(super) tls: Option<&'a TlsFiles>,
    /// The messages.
    pub(super) queue: &'a Queue,
}

/// A listening socket.
enum TapSocket {
    Unix(UnixListener),
    Tcp(TcpListener, Option<Arc<Credentials>>),
}

/// A connected reader.
struct Reader {
    chunks: mpsc::Sender<Bytes>,
}

impl Broadcaster<'_> {
    /// Accepts readers and sends messages until the order to stop. Without a reader, messages are dropped.
    pub(super) async fn run(&self, mut stop: watch::Receiver<bool>) {
        self.queue.close();
        let Some(mut socket) = self.open(&mut stop).await else { return };
        let mut readers: Vec<Reader> = Vec::new();
        let (begun, mut new_readers) = mpsc::channel::<Reader>(MAX_READERS);
        let place = || begun.clone().try_reserve_owned().ok();
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                accepted = socket.accept() => match accepted {
                    Ok(stream) => match place() {
                        Some(place) if readers.len() < MAX_READERS => {
                            tokio::spawn(begin(stream, place));
                        }
                        _ => tracing::warn!(plugin = "dnstap", "{}: too many readers", self.endpoint),
                    },
                    Err(error) => {
                        tracing::warn!(plugin = "dnstap", "Error accepting dnstap connection: {error}");
                        sleep(DELAY).await;
                    }
                },
                Some(reader) = new_readers.recv() => {
                    readers.retain(|reader| !reader.chunks.is_closed());
                    if readers.len() < MAX_READERS {
                        readers.push(reader);
                        self.queue.open();
                    }
                }
                () = self.queue.ready.notified() => {
                    let _ = timeout(FLUSH, self.queue.full.notified()).await;
                    self.send(&mut readers);
                }
            }
        }
        self.send(&mut readers);
        self.queue.close();
        // The readers' tasks write what is left, since their senders are gone.
        socket.close(self.endpoint);
    }

    /// Sends the messages of the queue to every reader.
    fn send(&self, readers: &mut Vec<Reader>) {
        while let Some(Chunk { frames, messages }) = self.queue.take() {
            let len = frames.len();
            let frames = Bytes::from(frames);
            readers.retain(|reader| {
                let is_sent = reader.chunks.try_send(frames.clone()).is_ok();
                if !is_sent {
                    self.queue.count_dropped(messages as u64);
                }
                is_sent
            });
            self.queue.release(messages, len);
        }
        if readers.is_empty() {
            self.queue.close();
        }
    }

    /// Opens the socket, as soon as it can be. Returns `None` after the order to stop.
    async fn open(&self, stop: &mut watch::Receiver<bool>) -> Option<TapSocket> {
        let mut has_failed = false;
        loop {
            match TapSocket::open(self.endpoint, self.tls).await {
                Ok(socket) => return socket,
                Err(error) if !has_failed => {
                    has_failed = true;
                    tracing::error!(plugin = "dnstap", "Failed to start dnstap listener: {}: {error}", self.endpoint);
                }
                Err(_) => {}
            }
            tokio::select! {
                () = stopped(stop) => return None,
                () = sleep(DELAY) => {}
            }
        }
    }
}

impl TapSocket {
    /// Opens a socket. Returns `None` if it needs a certificate and has none.
    async fn open(endpoint: &TapEndpoint, tls: Option<&TlsFiles>) -> io::Result<Option<TapSocket>> {
        let (host, credentials) = match endpoint {
            TapEndpoint::Unix(path) => {
                remove_unused(path).await;
                return Ok(Some(TapSocket::Unix(UnixListener::bind(path)?)));
            }
            TapEndpoint::Tcp(host) => (host, None),
            TapEndpoint::Tls(host) => {
                let Some(files) = tls.cloned() else { return Ok(None) };
                let credentials = Credentials::load(move || Ok(files.clone()), &[], "dnstap");
                (host, Some(Arc::new(credentials.map_err(io::Error::other)?)))
            }
        };
        let listener = match host.strip_prefix(':') {
            Some(port) => match TcpListener::bind(format!("[::]:{port}")).await {
                Err(error) if crate::net::has_no_ipv6(&error) => TcpListener::bind(format!("0.0.0.0:{port}")).await?,
                bound => bound?,
            },
            None => TcpListener::bind(host).await?,
        };
        Ok(Some(TapSocket::Tcp(listener, credentials)))
    }

    /// Accepts a connection.
    async fn accept(&mut self) -> io::Result<Incoming> {
        match self {
            TapSocket::Unix(listener) => Ok(Incoming::Plain(Box::new(listener.accept().await?.0))),
            TapSocket::Tcp(listener, credentials) => {
                let stream = listener.accept().await?.0;
                Ok(match credentials {
                    Some(credentials) => Incoming::Tls(stream, TlsAcceptor::from(credentials.now())),
                    None => Incoming::Plain(Box::new(stream)),
                })
            }
        }
    }

    /// Closes the socket and removes its file.
    fn close(self, endpoint: &TapEndpoint) {
        if let (TapSocket::Unix(_), TapEndpoint::Unix(path)) = (&self, endpoint) {
            let _ = fs::remove_file(path);
        }
    }
}

/// An accepted connection.
enum Incoming {
    Plain(Box<dyn Duplex>),
    Tls(tokio::net::TcpStream, TlsAcceptor),
}

/// Removes the file of a Unix socket on which no process listens: one that a process left that was killed.
async fn remove_unused(path: &Path) {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket
        && let Err(error) = UnixStream::connect(path).await
        && error.kind() == io::ErrorKind::ConnectionRefused
    {
        let _ = fs::remove_file(path);
    }
}

/// Begins the stream of a reader, and sends it the chunks that come.
async fn begin(incoming: Incoming, place: mpsc::OwnedPermit<Reader>) {
    let started = async {
        let stream: Box<dyn Duplex> = match incoming {
            Incoming::Plain(stream) => stream,
            Incoming::Tls(stream, acceptor) => {
                let accepted = timeout(TIMEOUT, acceptor.accept(stream)).await;
                Box::new(accepted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?)
            }
        };
        FrameStream::begin(stream).await
    };
    let mut link = match started.await {
        Ok(link) => link,
        Err(error) => return tracing::warn!(plugin = "dnstap", "Error creating encoder for dnstap client: {error}"),
    };
    let (chunks, mut waiting) = mpsc::channel::<Bytes>(READER_QUEUE);
    place.send(Reader { chunks });
    loop {
        let chunk = tokio::select! {
            chunk = waiting.recv() => chunk,
            _ = link.closed() => return,
        };
        let Some(chunk) = chunk else { break };
        if link.write(&chunk).await.is_err() {
            return;
        }
    }
    let _ = link.end().await;
}
