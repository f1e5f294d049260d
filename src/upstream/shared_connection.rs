//! One connection to a server, which many exchanges share.
//!
//! Exchanges that need a connection wait for the same handshake, which has a time of its own. An exchange that times
//! out gives the connection up for those that follow only if nothing at all came over it meanwhile; those that wait on
//! it go on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{timeout, timeout_at};

use super::tcp_pool::ConnectionReuse;
use super::{CONNECT_TIMEOUT, Error};

/// How often it is checked whether the connection is idle.
const SWEEP: Duration = Duration::from_secs(1);

/// Makes connections to one server.
pub(super) trait Connector: Send + Sync + 'static {
    /// A connection. It is closed when the last copy is dropped.
    type Connection: Clone + Send + Sync + 'static;

    /// Returns the name of the server in errors.
    fn label(&self) -> &Arc<str>;

    /// Makes a connection. It has [`CONNECT_TIMEOUT`] for it.
    fn open(&self) -> impl Future<Output = Result<Self::Connection, Error>> + Send;

    /// Returns whether a connection is known to be closed.
    fn is_closed(&self, _connection: &Self::Connection) -> bool {
        false
    }

    /// Called when an exchange uses a connection that was open already (`true`), or waits for a new one.
    fn record_use(&self, _was_open: bool) {}
}

/// How long an exchange waits.
#[derive(Clone, Copy, Debug)]
pub(super) enum ExchangeTime {
    /// For the response, from when the request is sent. The connection has a time of its own.
    Response(Duration),
    /// For the connection and the response, until this time.
    All(Instant),
}

/// Why an exchange over a connection has failed.
#[derive(Debug)]
pub(super) struct ExchangeFailure {
    /// The error.
    pub(super) error: Error,
    /// The error may concern the whole connection, not only this exchange.
    pub(super) is_broken: bool,
}

/// The connection to one server.
pub(super) struct SharedConnection<C: Connector> {
    connector: C,
    reuse: ConnectionReuse,
    /// After a failure to connect, exchanges fail at once for this time.
    pause: Duration,
    runtime: Handle,
    /// Locked for a look or a change by each exchange.
    state: Mutex<ConnectionState<C::Connection>>,
}

/// The state of the connection.
enum ConnectionState<T> {
    None,
    /// It could not be made, and is not made before this time.
    Failed(Error, Instant),
    /// It is being made; the result comes here.
    Connecting(watch::Receiver<Option<Result<OpenConnection<T>, Error>>>),
    Open(OpenConnection<T>),
}

/// A connection with its times.
#[derive(Clone)]
struct OpenConnection<T> {
    connection: T,
    opened: Instant,
    /// Shared by all copies.
    activity: Arc<Mutex<ExchangeTimes>>,
}

/// The times of the last events on a connection.
struct ExchangeTimes {
    /// A request was sent.
    used: Instant,
    /// A response came, or the connection was made.
    answered: Instant,
}

impl<C: Connector> SharedConnection<C> {
    /// Creates a shared connection that is not open. It is made on this runtime.
    pub(super) fn new(connector: C, reuse: ConnectionReuse, pause: Duration, runtime: Handle) -> SharedConnection<C> {
        SharedConnection { connector, reuse, pause, runtime, state: Mutex::new(ConnectionState::None) }
    }

    /// Returns what makes the connections.
    pub(super) fn connector(&self) -> &C {
        &self.connector
    }

    /// Exchanges a request that `send` sends, once more if a connection that was open turns out to be broken.
    pub(super) async fn exchange<T, F>(
        self: &Arc<Self>, time: ExchangeTime, send: impl Fn(C::Connection) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, ExchangeFailure>>,
    {
        let (connection, was_open) = self.connect(time).await?;
        let result = match self.exchange_over(&connection, time, &send).await {
            // A connection that was open may have died unnoticed.
            Err(failure) if failure.is_broken && was_open => {
                let (connection, _) = self.connect(time).await?;
                self.exchange_over(&connection, time, &send).await
            }
            result => result,
        };
        result.map_err(|failure| failure.error)
    }

    /// Exchanges a request over a connection.
    async fn exchange_over<T, F>(
        &self, connection: &OpenConnection<C::Connection>, time: ExchangeTime, send: &impl Fn(C::Connection) -> F,
    ) -> Result<T, ExchangeFailure>
    where
        F: Future<Output = Result<T, ExchangeFailure>>,
    {
        let sent = Instant::now();
        connection.activity.lock().used = sent;
        let until = match time {
            ExchangeTime::Response(time) => sent.checked_add(time),
            ExchangeTime::All(until) => Some(until),
        };
        match within(until, send(connection.connection.clone())).await {
            Some(result) => {
                match &result {
                    Err(failure) if failure.is_broken => self.give_up(connection),
                    _ => connection.activity.lock().answered = Instant::now(),
                }
                result
            }
            None => {
                if connection.activity.lock().answered <= sent {
                    self.give_up(connection);
                }
                Err(ExchangeFailure { error: self.timed_out(), is_broken: false })
            }
        }
    }

    fn timed_out(&self) -> Error {
        Error::Timeout(self.connector.label().clone())
    }

    /// Returns the connection, and whether it was open already. Without one, the first exchange that needs it makes it.
    async fn connect(self: &Arc<Self>, time: ExchangeTime) -> Result<(OpenConnection<C::Connection>, bool), Error> {
        let mut connecting = {
            let mut state = self.state.lock();
            match &*state {
                ConnectionState::Open(connection) if self.is_usable(connection, Instant::now()) => {
                    self.connector.record_use(true);
                    return Ok((connection.clone(), true));
                }
                ConnectionState::Connecting(connecting) => connecting.clone(),
                ConnectionState::Failed(error, until) if Instant::now() < *until => return Err(error.clone()),
                ConnectionState::Open(_) | ConnectionState::Failed(..) | ConnectionState::None => {
                    self.connector.record_use(false);
                    let (sender, connecting) = watch::channel(None);
                    *state = ConnectionState::Connecting(connecting.clone());
                    let shared = self.clone();
                    self.runtime.spawn(async move {
                        let result = shared.open().await;
                        let new = match &result {
                            Ok(connection) => ConnectionState::Open(connection.clone()),
                            Err(error) => ConnectionState::Failed(error.clone(), Instant::now() + shared.pause),
                        };
                        *shared.state.lock() = new;
                        if let Ok(connection) = &result {
                            shared.close_when_idle(connection.clone());
                        }
                        let _ = sender.send(Some(result));
                    });
                    connecting
                }
            }
        };
        let until = match time {
            ExchangeTime::Response(_) => None,
            ExchangeTime::All(until) => Some(until),
        };
        let connected = within(until, connecting.wait_for(Option::is_some)).await.ok_or_else(|| self.timed_out())?;
        match connected.map(|result| result.clone()) {
            Ok(Some(result)) => result.map(|connection| (connection, false)),
            // The task that makes it was cancelled, since the server stops.
            Ok(None) | Err(_) => Err(Error::Ending),
        }
    }

    /// Makes a connection.
    async fn open(&self) -> Result<OpenConnection<C::Connection>, Error> {
        let connection = timeout(CONNECT_TIMEOUT, self.connector.open()).await.map_err(|_| self.timed_out())??;
        let now = Instant::now();
        let activity = Arc::new(Mutex::new(ExchangeTimes { used: now, answered: now }));
        Ok(OpenConnection { connection, opened: now, activity })
    }

    fn is_usable(&self, open: &OpenConnection<C::Connection>, now: Instant) -> bool {
        let ConnectionReuse { expire, max_age, .. } = self.reuse;
        now.saturating_duration_since(open.activity.lock().used) < expire
            && (max_age.is_zero() || now.saturating_duration_since(open.opened) < max_age)
            && !self.connector.is_closed(&open.connection)
    }

    /// Makes the next exchange open a new connection, unless that has happened since. Exchanges that wait on this one
    /// go on.
    fn give_up(&self, connection: &OpenConnection<C::Connection>) {
        let mut state = self.state.lock();
        if is_current(&state, connection) {
            *state = ConnectionState::None;
        }
    }

    /// Closes a connection that has become idle or too old.
    fn close_when_idle(self: &Arc<Self>, connection: OpenConnection<C::Connection>) {
        let shared = Arc::downgrade(self);
        self.runtime.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(shared) = shared.upgrade() else { return };
                if !shared.is_usable(&connection, Instant::now()) {
                    return shared.give_up(&connection);
                }
                if !is_current(&shared.state.lock(), &connection) {
                    return;
                }
            }
        });
    }
}

/// Returns whether the next exchange would use this connection.
fn is_current<T>(state: &ConnectionState<T>, connection: &OpenConnection<T>) -> bool {
    matches!(state, ConnectionState::Open(open) if Arc::ptr_eq(&open.activity, &connection.activity))
}

/// Waits for a future, and returns `None` if it has not ended at a time, if there is one.
async fn within<T>(until: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match until {
        Some(until) => timeout_at(until.into(), future).await.ok(),
        None => Some(future.await),
    }
}
