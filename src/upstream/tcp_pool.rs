//! Plain TCP to an upstream: one query a connection at a time; idle connections are used again.
//!
//! An idle connection may be dead unnoticed: closed, reset, or without a peer because the upstream's machine is gone.
//! Its query is then sent once more over a new connection. A connection whose other end takes the query and does not
//! answer is alive, and its query is given up after the configured time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::metrics::UpstreamMetrics;
use super::{CONNECT_TIMEOUT, Error};

/// The most idle connections, without a configured number.
const MAX_IDLE: usize = 100;
/// How often idle connections are checked for their age.
const SWEEP: Duration = Duration::from_secs(1);
/// An idle connection is dead when what is sent over it stays unacknowledged so long.
const ACK_TIMEOUT: Duration = Duration::from_secs(1);
/// Messages with another ID that are skipped; a connection that brings more is given up.
const MAX_SKIPPED: usize = 8;

/// How long connections are reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionReuse {
    /// The time after which an idle connection is closed.
    pub expire: Duration,
    /// The age after which a connection is closed; zero is no limit.
    pub max_age: Duration,
    /// The most idle connections; 0 is [`MAX_IDLE`], since nothing is without a limit.
    pub max_idle: usize,
}

impl Default for ConnectionReuse {
    fn default() -> ConnectionReuse {
        ConnectionReuse { expire: Duration::from_secs(10), max_age: Duration::ZERO, max_idle: 0 }
    }
}

/// Connects to an address, from a source address if there is one.
pub(super) async fn connect_tcp(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    // A peer that has vanished is noticed while the connection is idle.
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

/// The connections to one upstream.
pub(super) struct TcpPool {
    address: SocketAddr,
    source: Option<IpAddr>,
    label: Arc<str>,
    reuse: ConnectionReuse,
    runtime: Handle,
    metrics: Arc<UpstreamMetrics>,
    /// Idle connections, the most recently used one last. Locked for a push or a pop.
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    connections: Vec<PooledConnection>,
    /// A task checks their age.
    is_swept: bool,
}

/// A connection and its times.
struct PooledConnection {
    stream: TcpStream,
    opened: Instant,
    used: Instant,
}

impl TcpPool {
    pub(super) fn new(
        address: SocketAddr, source: Option<IpAddr>, reuse: ConnectionReuse, runtime: Handle,
        metrics: Arc<UpstreamMetrics>,
    ) -> TcpPool {
        let label = address.to_string().into();
        let idle = Mutex::default();
        TcpPool { address, source, label, reuse, runtime, metrics, idle }
    }

    /// Exchanges a query, with an ID of our own. `read_timeout` starts when it is sent.
    pub(super) async fn exchange(
        self: &Arc<Self>, mut packet: Vec<u8>, read_timeout: Duration,
    ) -> Result<Vec<u8>, Error> {
        getrandom::fill(&mut packet[..2]).map_err(|_| self.connection(&io::ErrorKind::Other.into()))?;
        let mut framed = Vec::with_capacity(packet.len() + 2);
        framed.extend((packet.len() as u16).to_be_bytes());
        framed.extend_from_slice(&packet);
        if let Some(idle) = self.take() {
            self.metrics.record_stream(true);
            let started = Instant::now();
            match timeout(read_timeout, self.exchange_over(idle, &framed)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => self.close_unused_since(started),
                Ok(Err(_)) => {}
                Err(_) => return Err(Error::Timeout(self.label.clone())),
            }
        }
        self.metrics.record_stream(false);
        let connected = timeout(CONNECT_TIMEOUT, connect_tcp(self.address, self.source)).await;
        let stream = match connected {
            Ok(connected) => connected.map_err(|error| self.connection(&error))?,
            Err(_) => return Err(Error::Timeout(self.label.clone())),
        };
        let now = Instant::now();
        let connection = PooledConnection { stream, opened: now, used: now };
        match timeout(read_timeout, self.exchange_over(connection, &framed)).await {
            Err(_) => Err(Error::Timeout(self.label.clone())),
            Ok(result) => result.map_err(|error| self.connection(&error)),
        }
    }

    fn connection(&self, error: &io::Error) -> Error {
        Error::Connection(self.label.clone(), error.kind())
    }

    /// Sends a message and waits for the one with its ID. Returns the connection to the pool.
    async fn exchange_over(self: &Arc<Self>, mut connection: PooledConnection, framed: &[u8]) -> io::Result<Vec<u8>> {
        connection.stream.write_all(framed).await?;
        let answer = read_answer(&mut connection.stream, [framed[2], framed[3]]).await?;
        connection.used = Instant::now();
        self.put(connection);
        Ok(answer)
    }

    /// Takes the most recently used idle connection that is not too old.
    fn take(&self) -> Option<PooledConnection> {
        let now = Instant::now();
        let mut idle = self.idle.lock();
        while let Some(connection) = idle.connections.pop() {
            if self.is_usable(&connection, now) {
                return Some(connection);
            }
        }
        None
    }

    fn is_usable(&self, connection: &PooledConnection, now: Instant) -> bool {
        let ConnectionReuse { expire, max_age, .. } = self.reuse;
        now.saturating_duration_since(connection.used) < expire
            && (max_age.is_zero() || now.saturating_duration_since(connection.opened) < max_age)
    }

    /// Adds an idle connection, unless there are enough.
    fn put(self: &Arc<Self>, connection: PooledConnection) {
        let most = if self.reuse.max_idle == 0 { MAX_IDLE } else { self.reuse.max_idle };
        // From now on its peer may vanish unnoticed. Without the option a query without a peer takes the whole time.
        let _ = SockRef::from(&connection.stream).set_tcp_user_timeout(Some(ACK_TIMEOUT));
        let mut idle = self.idle.lock();
        if idle.connections.len() >= most || !self.is_usable(&connection, connection.used) {
            return;
        }
        idle.connections.push(connection);
        if !std::mem::replace(&mut idle.is_swept, true) {
            // The task does not keep the pool alive.
            let pool = Arc::downgrade(self);
            self.runtime.spawn(async move {
                loop {
                    tokio::time::sleep(SWEEP).await;
                    let Some(pool) = pool.upgrade() else { return };
                    if !pool.sweep() {
                        return;
                    }
                }
            });
        }
    }

    /// Closes the connections that brought nothing since then: the upstream's machine is gone.
    fn close_unused_since(&self, since: Instant) {
        self.idle.lock().connections.retain(|connection| connection.used >= since);
    }

    /// Closes connections that are too old. Returns whether any is left.
    fn sweep(&self) -> bool {
        let now = Instant::now();
        let mut idle = self.idle.lock();
        idle.connections.retain(|connection| self.is_usable(connection, now));
        idle.is_swept = !idle.connections.is_empty();
        idle.is_swept
    }
}

/// Reads messages until one has this ID, at most [`MAX_SKIPPED`].
pub async fn read_answer(stream: &mut (impl AsyncRead + Unpin), id: [u8; 2]) -> io::Result<Vec<u8>> {
    for _ in 0..MAX_SKIPPED {
        let len = usize::from(stream.read_u16().await?);
        // It grows as bytes come, not by what the length claims.
        let mut answer = Vec::new();
        if (&mut *stream).take(len as u64).read_to_end(&mut answer).await? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if answer.starts_with(&id) {
            return Ok(answer);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream as Blocking};

    use super::*;
    use crate::upstream::metrics::Metrics;

    /// Reads a query and returns the answer.
    fn read(stream: &mut Blocking) -> Option<Vec<u8>> {
        let mut prefix = [0; 2];
        stream.read_exact(&mut prefix).ok()?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(prefix))];
        stream.read_exact(&mut message).ok()?;
        message[2] |= 0x80;
        Some([&prefix[..], &message].concat())
    }

    /// A pool for an upstream that handles each connection so; connections are numbered.
    fn pool(
        reuse: ConnectionReuse, serve: impl Fn(usize, Blocking) + Send + 'static,
    ) -> (tokio::runtime::Runtime, Arc<TcpPool>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                serve(number, stream.expect("a connection"));
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let metrics = Metrics::default().upstream("x");
        let pool = Arc::new(TcpPool::new(address, None, reuse, runtime.handle().clone(), metrics));
        (runtime, pool)
    }

    fn ask(runtime: &tokio::runtime::Runtime, pool: &Arc<TcpPool>, time: Duration) -> Result<Vec<u8>, Error> {
        let packet = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        runtime.block_on(pool.exchange(packet, time))
    }

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_connection_is_reused() {
        let (runtime, pool) = pool(ConnectionReuse::default(), |number, mut stream| {
            assert_eq!(number, 0);
            std::thread::spawn(move || {
                while let Some(answer) = read(&mut stream) {
                    // A message with another ID is skipped.
                    let stray = [0, 3, answer[2] ^ 1, answer[3], 9];
                    if stream.write_all(&[&stray[..], &answer].concat()).is_err() {
                        break;
                    }
                }
            });
        });
        for _ in 0..5 {
            assert_eq!(ask(&runtime, &pool, SOON).expect("an answer")[2..], [0x81, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn a_closed_idle_connection_costs_no_answer_and_an_unresponsive_one_only_its_own() {
        // The first is closed after its first answer, the second answers only once, the third always.
        let (runtime, pool) = pool(ConnectionReuse::default(), |number, mut stream| {
            std::thread::spawn(move || {
                while let Some(answer) = read(&mut stream) {
                    if stream.write_all(&answer).is_err() || number == 0 {
                        break;
                    }
                    if number == 1 {
                        std::thread::sleep(Duration::from_secs(60));
                    }
                }
            });
        });
        ask(&runtime, &pool, SOON).expect("an answer");
        ask(&runtime, &pool, SOON).expect("an answer over a new connection");
        assert!(matches!(ask(&runtime, &pool, Duration::from_millis(50)), Err(Error::Timeout(_))));
        for _ in 0..2 {
            ask(&runtime, &pool, SOON).expect("an answer");
        }
    }

    #[test]
    fn an_idle_connection_has_the_whole_time_for_an_answer() {
        let queries = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = queries.clone();
        let (runtime, pool) = pool(ConnectionReuse::default(), move |_, mut stream| {
            let queries = counted.clone();
            std::thread::spawn(move || {
                while let Some(answer) = read(&mut stream) {
                    // The second one comes over an idle connection.
                    if queries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 0 {
                        std::thread::sleep(Duration::from_millis(1_300));
                    }
                    if stream.write_all(&answer).is_err() {
                        break;
                    }
                }
            });
        });
        for _ in 0..2 {
            ask(&runtime, &pool, Duration::from_secs(2)).expect("an answer");
        }
        assert_eq!(queries.load(std::sync::atomic::Ordering::Relaxed), 2, "each query is sent once");
    }

    #[test]
    fn an_idle_connection_without_a_peer_is_noticed_before_the_time_is_over() {
        let (runtime, pool) = pool(ConnectionReuse::default(), |_, mut stream| {
            let answer = read(&mut stream).expect("a query");
            stream.write_all(&answer).expect("sent");
            std::mem::forget(stream);
        });
        ask(&runtime, &pool, SOON).expect("an answer");
        let idle = pool.idle.lock();
        let timeout = SockRef::from(&idle.connections[0].stream).tcp_user_timeout().expect("an option");
        assert_eq!(timeout, Some(ACK_TIMEOUT));
    }

    #[test]
    fn errors_name_their_cause() {
        let (runtime, pool) = pool(ConnectionReuse::default(), |_, mut stream| {
            // A length without the bytes.
            let _ = read(&mut stream);
            let _ = stream.write_all(&[0xff, 0xff, 1]);
        });
        assert!(matches!(ask(&runtime, &pool, SOON), Err(Error::Connection(_, io::ErrorKind::UnexpectedEof))));
        let (runtime, unresponsive) = self::pool(ConnectionReuse::default(), |_, stream| std::mem::forget(stream));
        assert!(matches!(ask(&runtime, &unresponsive, Duration::from_millis(50)), Err(Error::Timeout(_))));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let metrics = Metrics::default().upstream("x");
        let closed =
            Arc::new(TcpPool::new(address, None, ConnectionReuse::default(), runtime.handle().clone(), metrics));
        let refused = ask(&runtime, &closed, SOON).expect_err("a closed port");
        assert_eq!(refused.to_string(), format!("{address}: connection refused"));
    }

    #[test]
    fn old_connections_are_closed() {
        let reuse = ConnectionReuse { expire: Duration::from_millis(20), ..ConnectionReuse::default() };
        let (runtime, pool) = pool(reuse, |_, mut stream| {
            std::thread::spawn(move || {
                while let Some(answer) = read(&mut stream) {
                    if stream.write_all(&answer).is_err() {
                        break;
                    }
                }
            });
        });
        ask(&runtime, &pool, SOON).expect("an answer");
        assert_eq!(pool.idle.lock().connections.len(), 1);
        runtime.block_on(async { tokio::time::sleep(SWEEP + Duration::from_millis(200)).await });
        assert_eq!(pool.idle.lock().connections.len(), 0);
    }
}
