//! The signals that mean something (CoreDNS's sigtrap_posix.go and sigtrap.go).
//!
//! They are taken from the first moment on: the kernel keeps from process 1 every signal that it has no handler for,
//! and ends any other process by it at once. The thread that waits for them does nothing else, so that neither a slow
//! start nor a slow reload delays the end.

use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;

/// Logged at SIGQUIT.
const QUIT: &str = "SIGQUIT: Quitting process immediately";

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
pub enum Event<T> {
    /// Load the Corefile.
    Reload,
    /// End.
    End(End),
    /// The other thread has sent something; `None` when it is gone.
    Sent(Option<T>),
}

/// Waits for signals.
pub struct Signals {
    runtime: Runtime,
    streams: SignalStreams,
}

struct SignalStreams {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    reload: Signal,
    upgrade: Signal,
    /// SIGINT has come.
    interrupted: bool,
}

impl Signals {
    /// From now on signals are noticed.
    pub fn new() -> anyhow::Result<Signals> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot handle signals")?;
        let on = |kind| signal(kind).context("cannot handle signals");
        let inside = runtime.enter();
        let streams = SignalStreams {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            quit: on(SignalKind::quit())?,
            hangup: on(SignalKind::hangup())?,
            reload: on(SignalKind::user_defined1())?,
            upgrade: on(SignalKind::user_defined2())?,
            interrupted: false,
        };
        drop(inside);
        Ok(Signals { runtime, streams })
    }

    /// Waits for a signal that means something, or for what another thread sends.
    pub fn wait<T>(&mut self, sent: &mut UnboundedReceiver<T>) -> Event<T> {
        let Signals { runtime, streams } = self;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    sent = sent.recv() => return Event::Sent(sent),
                    _ = streams.terminate.recv() => {
                        tracing::info!("SIGTERM: Shutting down servers then terminating");
                        return Event::End(End::Graceful);
                    }
                    _ = streams.interrupt.recv() => {
                        tracing::info!("SIGINT: Shutting down");
                        streams.interrupted = true;
                        return Event::End(End::Interrupted);
                    }
                    _ = streams.quit.recv() => {
                        tracing::info!("{QUIT}");
                        return Event::End(End::Now);
                    }
                    _ = streams.hangup.recv() => {}
                    _ = streams.upgrade.recv() => {
                        tracing::warn!("SIGUSR2: replacing the running binary is not supported; nothing has changed");
                    }
                    _ = streams.reload.recv() => {
                        tracing::info!("SIGUSR1: Reloading");
                        return Event::Reload;
                    }
                }
            }
        })
    }

    /// Waits for so long, or for a signal that ends the program at once: the second SIGINT, or SIGQUIT.
    pub fn sleep(&mut self, time: Duration) -> Option<Cut> {
        let Signals { runtime, streams } = self;
        runtime.block_on(async {
            tokio::select! {
                () = tokio::time::sleep(time) => None,
                cut = streams.cut() => Some(cut),
            }
        })
    }

    /// Runs this on a thread of its own and waits for its end, or for a signal that ends the program at once.
    pub fn run(&mut self, work: impl FnOnce() + Send + 'static) -> Option<Cut> {
        let Signals { runtime, streams } = self;
        let (sender, ended) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || {
            work();
            drop(sender);
        });
        runtime.block_on(async {
            tokio::select! {
                _ = ended => None,
                cut = streams.cut() => Some(cut),
            }
        })
    }
}

impl SignalStreams {
    async fn cut(&mut self) -> Cut {
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
