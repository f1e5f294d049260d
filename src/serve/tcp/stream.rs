//! What a connection reads from and writes to: TCP, or TLS on it.
//!
//! TLS is rustls's state machine between the socket and the connection, without a task, and with buffers for a record
//! or two only, so that DNS over TLS has every limit of DNS over TCP, and ends connections as it does.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection};
use socket2::SockRef;
use tokio::net::TcpStream;

/// The bytes that TLS may hold of answers that the socket does not take; it takes no more than fit.
const UNWRITTEN: usize = 64 * 1024;

/// A stream of bytes with a client.
pub(crate) enum Stream {
    /// Plain.
    Tcp(TcpStream),
    /// Within TLS.
    Tls(Box<Tls>),
}

/// TLS on a socket.
pub(crate) struct Tls {
    socket: TcpStream,
    session: ServerConnection,
    /// The session holds bytes that were read and not taken out.
    has_more: bool,
}

impl Stream {
    /// Makes a stream that begins with a handshake.
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

    /// The socket, for its options.
    pub(crate) fn options(&self) -> SockRef<'_> {
        SockRef::from(self.socket())
    }

    /// Waits until there may be something to read.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Stream::Tls(tls) if tls.has_more => Ok(()),
            _ => self.socket().readable().await,
        }
    }

    /// Waits until the socket may take something.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.socket().writable().await
    }

    /// Whether bytes that were taken wait for the socket.
    pub(crate) fn has_unwritten(&self) -> bool {
        matches!(self, Stream::Tls(tls) if tls.session.wants_write())
    }

    /// Reads what the runtime knows to be there.
    pub(crate) fn try_read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(socket) => socket.try_read(out),
            Stream::Tls(tls) => tls.read(out, TcpStream::try_read),
        }
    }

    /// Reads what the kernel has, whether or not the runtime knows of it.
    pub(crate) fn read_now(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = |socket: &TcpStream, out: &mut [u8]| (&*SockRef::from(socket)).read(out);
        match self {
            Stream::Tcp(socket) => read(socket, out),
            Stream::Tls(tls) => tls.read(out, read),
        }
    }

    /// Writes what fits.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(socket) => socket.try_write(bytes),
            Stream::Tls(tls) => {
                let taken = tls.session.writer().write(bytes)?;
                tls.flush()?;
                Ok(taken)
            }
        }
    }

    /// Writes what waits for the socket. Says whether it took any of it.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        match self {
            Stream::Tcp(_) => Ok(false),
            Stream::Tls(tls) => tls.flush(),
        }
    }

    /// Ends this side. The kernel may go on to send what was written for so long.
    pub(crate) fn shut_down(&mut self, time: Duration) -> io::Result<()> {
        let _ = self.options().set_tcp_user_timeout(Some(time));
        if let Stream::Tls(tls) = self {
            tls.session.send_close_notify();
            // A socket that takes nothing has no client that listens.
            tls.flush()?;
        }
        self.options().shutdown(Shutdown::Write)
    }
}

impl Tls {
    /// Reads from the socket until there is something for the connection, the client has ended its side, or the socket
    /// is empty.
    fn read(&mut self, out: &mut [u8], from: fn(&TcpStream, &mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            let taken = self.session.reader().read(out);
            match taken {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The client has ended its side without close_notify.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => {
                    // A record may hold more than fits.
                    self.has_more = other.as_ref().is_ok_and(|taken| *taken == out.len());
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

    /// Writes what waits for the socket. Says whether it took any of it.
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

/// A socket as rustls reads it.
struct SocketReader<'a> {
    socket: &'a TcpStream,
    from: fn(&TcpStream, &mut [u8]) -> io::Result<usize>,
}

impl Read for SocketReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        (self.from)(self.socket, out)
    }
}

/// A socket as rustls writes it.
struct SocketWriter<'a>(&'a TcpStream);

impl Write for SocketWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
