//! The byte stream of a connection: TCP, or TLS over TCP.
//!
//! TLS is rustls's state machine between the socket and the connection. It needs no task, and buffers for a record or
//! two only, so that DNS over TLS has the limits of DNS over TCP, and closes connections in the same way.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection};
use socket2::SockRef;
use tokio::net::TcpStream;

/// The maximum number of bytes of responses that TLS buffers while the socket is full.
const UNWRITTEN: usize = 64 * 1024;

/// The byte stream of a connection.
pub(crate) enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<Tls>),
}

/// A TLS session and its socket.
pub(crate) struct Tls {
    socket: TcpStream,
    session: ServerConnection,
    /// The session has more decrypted bytes.
    has_more: bool,
}

impl Stream {
    /// Creates a TLS stream, which starts with the handshake.
    pub(crate) fn tls(socket: TcpStream, config: Arc<ServerConfig>) -> Result<Stream, rustls::Error> {
        let mut session = ServerConnection::new(config)?;
        session.set_buffer_limit(Some(UNWRITTEN));
        Ok(Stream::Tls(Box::new(Tls { socket, session, has_more: false })))
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Stream::Tcp(socket) => socket,
            Stream::Tls(tls) => &tls.socket,
        }
    }

    /// Returns the socket, for its options.
    pub(crate) fn options(&self) -> SockRef<'_> {
        SockRef::from(self.socket())
    }

    /// Waits until the stream may be readable.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Stream::Tls(tls) if tls.has_more => Ok(()),
            _ => self.socket().readable().await,
        }
    }

    /// Waits until the socket may be writable.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.socket().writable().await
    }

    /// Returns whether TLS has buffered bytes that the socket did not accept.
    pub(crate) fn has_unwritten(&self) -> bool {
        matches!(self, Stream::Tls(tls) if tls.session.wants_write())
    }

    /// Reads, if the runtime knows that the socket is readable.
    pub(crate) fn try_read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(socket) => socket.try_read(out),
            Stream::Tls(tls) => tls.read(out, TcpStream::try_read),
        }
    }

    /// Reads from the socket even if the runtime does not know that it is readable.
    pub(crate) fn read_now(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = |socket: &TcpStream, out: &mut [u8]| (&*SockRef::from(socket)).read(out);
        match self {
            Stream::Tcp(socket) => read(socket, out),
            Stream::Tls(tls) => tls.read(out, read),
        }
    }

    /// Writes as many bytes as possible. Returns their number.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(socket) => socket.try_write(bytes),
            Stream::Tls(tls) => {
                let len = tls.session.writer().write(bytes)?;
                tls.flush()?;
                Ok(len)
            }
        }
    }

    /// Writes buffered bytes. Returns whether the socket accepted any.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        match self {
            Stream::Tcp(_) => Ok(false),
            Stream::Tls(tls) => tls.flush(),
        }
    }

    /// Closes this side. The kernel may continue to send for this time.
    pub(crate) fn shut_down(&mut self, time: Duration) -> io::Result<()> {
        let _ = self.options().set_tcp_user_timeout(Some(time));
        if let Stream::Tls(tls) = self {
            tls.session.send_close_notify();
            // If the socket accepts nothing, the client does not read.
            tls.flush()?;
        }
        self.options().shutdown(Shutdown::Write)
    }
}

impl Tls {
    /// Reads from the socket until there are decrypted bytes, the client has closed its side, or the socket has no more
    /// bytes.
    fn read(&mut self, out: &mut [u8], from: fn(&TcpStream, &mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            let len = self.session.reader().read(out);
            match len {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The client has closed its side without close_notify.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => {
                    // A record may have more bytes than fit.
                    self.has_more = other.as_ref().is_ok_and(|len| *len == out.len());
                    return other;
                }
            }
            self.has_more = false;
            let source = &mut SocketReader { socket: &self.socket, from };
            let read = self.session.read_tls(source)?;
            let state = self.session.process_new_packets();
            // Messages of the handshake, or an alert.
            self.flush()?;
            state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if read == 0 {
                return Ok(0);
            }
        }
    }

    /// Writes buffered bytes. Returns whether the socket accepted any.
    fn flush(&mut self) -> io::Result<bool> {
        let mut has_written = false;
        while self.session.wants_write() {
            match self.session.write_tls(&mut SocketWriter(&self.socket)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                written => has_written |= written? > 0,
            }
        }
        Ok(has_written)
    }
}

/// Reads from a socket for rustls.
struct SocketReader<'a> {
    socket: &'a TcpStream,
    from: fn(&TcpStream, &mut [u8]) -> io::Result<usize>,
}

impl Read for SocketReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        (self.from)(self.socket, out)
    }
}

/// Writes to a socket for rustls.
struct SocketWriter<'a>(&'a TcpStream);

impl Write for SocketWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
