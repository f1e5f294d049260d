//! The signals that mean something (CoreDNS's sigtrap_posix.go).

use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// What is said of SIGQUIT.
const QUIT: &str = "SIGQUIT: Quitting process immediately";

/// How the program ends.
pub enum End {
    /// SIGTERM: after *lameduck* it answers what has come.
    Graceful,
    /// SIGINT: after *lameduck*.
    Interrupted,
    /// SIGQUIT: at once.
    Now,
}

/// What cuts *lameduck* short.
pub enum Cut {
    /// A second SIGINT.
    Interrupted,
    /// SIGQUIT.
    Quit,
}

/// What is to be done.
pub enum Event {
    /// Load the Corefile.
    Reload,
    /// Look whether it has changed.
    Look,
    /// End.
    End(End),
}

/// Waits for them.
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    reload: tokio::signal::unix::Signal,
    upgrade: tokio::signal::unix::Signal,
    /// SIGINT has come.
    interrupted: bool,
}

impl Signals {
    /// From now on they are noticed.
    pub fn new(runtime: &Runtime) -> anyhow::Result<Signals> {
        let _inside = runtime.enter();
        let on = |kind| signal(kind).context("cannot handle signals");
        Ok(Signals {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            quit: on(SignalKind::quit())?,
            hangup: on(SignalKind::hangup())?,
            reload: on(SignalKind::user_defined1())?,
            upgrade: on(SignalKind::user_defined2())?,
            interrupted: false,
        })
    }

    /// Waits for one that means something, or for so long.
    pub async fn wait(&mut self, look: Option<Duration>) -> Event {
        let look = async {
            match look {
                Some(look) => tokio::time::sleep(look).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(look);
        loop {
            tokio::select! {
                () = &mut look => return Event::Look,
                _ = self.terminate.recv() => {
                    tracing::info!("SIGTERM: Shutting down servers then terminating");
                    return Event::End(End::Graceful);
                }
                _ = self.interrupt.recv() => {
                    tracing::info!("SIGINT: Shutting down");
                    self.interrupted = true;
                    return Event::End(End::Interrupted);
                }
                _ = self.quit.recv() => {
                    tracing::info!("{QUIT}");
                    return Event::End(End::Now);
                }
                _ = self.hangup.recv() => {}
                _ = self.upgrade.recv() => {
                    tracing::warn!("SIGUSR2: replacing the running binary is not supported; nothing has changed");
                }
                _ = self.reload.recv() => {
                    tracing::info!("SIGUSR1: Reloading");
                    return Event::Reload;
                }
            }
        }
    }

    /// Waits for one that ends the program at once: the second SIGINT, or SIGQUIT.
    pub async fn wait_for_cut(&mut self) -> Cut {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => {
                    if std::mem::replace(&mut self.interrupted, true) {
                        tracing::info!("SIGINT: Force quit");
                        return Cut::Interrupted;
                    }
                    tracing::info!("SIGINT: Shutting down");
                }
                _ = self.quit.recv() => {
                    tracing::info!("{QUIT}");
                    return Cut::Quit;
                }
            }
        }
    }
}
