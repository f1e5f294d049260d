//! The signals that mean something (CoreDNS's sigtrap_posix.go).

use anyhow::Context as _;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// How the program ends.
pub enum End {
    /// It answers what has come.
    Graceful,
    /// At once.
    Now,
}

/// Waits for them.
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    reload: tokio::signal::unix::Signal,
    upgrade: tokio::signal::unix::Signal,
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
        })
    }

    /// Waits for one that ends the program.
    pub async fn wait(&mut self) -> End {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {
                    tracing::info!("SIGTERM: Shutting down servers then terminating");
                    return End::Graceful;
                }
                _ = self.interrupt.recv() => {
                    tracing::info!("SIGINT: Shutting down");
                    return End::Now;
                }
                _ = self.quit.recv() => return End::Now,
                _ = self.hangup.recv() => {}
                _ = self.upgrade.recv() => {
                    tracing::warn!("SIGUSR2: replacing the running binary is not supported; nothing has changed");
                }
                _ = self.reload.recv() => {
                    tracing::warn!("SIGUSR1: reloading the Corefile is not built yet; nothing has changed");
                }
            }
        }
    }

    /// Waits for one that ends the program at once.
    pub async fn wait_for_now(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => tracing::info!("SIGINT: Shutting down"),
            _ = self.quit.recv() => {}
        }
    }
}
