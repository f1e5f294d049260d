//! Handles signals (CoreDNS's sigtrap_posix.go and sigtrap.go).
//!
//! Handlers are installed first of all: without a handler, the kernel does not deliver a signal to process 1, and kills
//! any other process. The thread that waits for signals does nothing else, so that neither a slow start nor a slow
//! reload delays a stop.

use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;

/// The log line of SIGQUIT.
const QUIT_LINE: &str = "SIGQUIT: Quitting process immediately";

/// How the program stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopMode {
    /// SIGTERM: after *lameduck*, and after every received query is answered.
    Graceful,
    /// SIGINT: after *lameduck*.
    Interrupted,
    /// SIGQUIT: at once.
    Immediate,
}

/// A signal that stops the program at once while it waits.
pub(super) enum ForcedStop {
    /// A second SIGINT.
    Interrupted,
    /// SIGQUIT.
    Quit,
}

/// What the main thread reacts to.
pub(super) enum MainEvent<T> {
    /// SIGUSR1: the Corefile is to be loaded again.
    Reload,
    /// The program is to stop.
    Stop(StopMode),
    /// The other thread has sent a value; `None` if that thread has exited.
    Received(Option<T>),
}

/// Waits for signals.
pub(super) struct Signals {
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
    /// A SIGINT has been received before.
    was_interrupted: bool,
}

impl Signals {
    /// Installs the handlers of all signals.
    pub(super) fn new() -> anyhow::Result<Signals> {
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
            was_interrupted: false,
        };
        drop(inside);
        Ok(Signals { runtime, streams })
    }

    /// Waits for a signal that has an effect, or for a value from another thread.
    pub(super) fn wait<T>(&mut self, receiver: &mut UnboundedReceiver<T>) -> MainEvent<T> {
        let Signals { runtime, streams } = self;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    received = receiver.recv() => return MainEvent::Received(received),
                    _ = streams.terminate.recv() => {
                        tracing::info!("SIGTERM: Shutting down servers then terminating");
                        return MainEvent::Stop(StopMode::Graceful);
                    }
                    _ = streams.interrupt.recv() => {
                        tracing::info!("SIGINT: Shutting down");
                        streams.was_interrupted = true;
                        return MainEvent::Stop(StopMode::Interrupted);
                    }
                    _ = streams.quit.recv() => {
                        tracing::info!("{QUIT_LINE}");
                        return MainEvent::Stop(StopMode::Immediate);
                    }
                    _ = streams.hangup.recv() => {}
                    _ = streams.upgrade.recv() => {
                        tracing::warn!("SIGUSR2: replacing the running binary is not supported; nothing has changed");
                    }
                    _ = streams.reload.recv() => {
                        tracing::info!("SIGUSR1: Reloading");
                        return MainEvent::Reload;
                    }
                }
            }
        })
    }

    /// Waits for this time, or for a signal that stops the program at once: a second SIGINT, or SIGQUIT.
    pub(super) fn sleep(&mut self, time: Duration) -> Option<ForcedStop> {
        let Signals { runtime, streams } = self;
        runtime.block_on(async {
            tokio::select! {
                () = tokio::time::sleep(time) => None,
                signal = streams.wait_forced() => Some(signal),
            }
        })
    }

    /// Runs `work` on a thread of its own and waits for it, or for a signal that stops the program at once.
    pub(super) fn run(&mut self, work: impl FnOnce() + Send + 'static) -> Option<ForcedStop> {
        let Signals { runtime, streams } = self;
        let (sender, finished) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || {
            work();
            drop(sender);
        });
        runtime.block_on(async {
            tokio::select! {
                _ = finished => None,
                signal = streams.wait_forced() => Some(signal),
            }
        })
    }
}

impl SignalStreams {
    /// Waits for a signal that stops the program at once.
    async fn wait_forced(&mut self) -> ForcedStop {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => {
                    if std::mem::replace(&mut self.was_interrupted, true) {
                        tracing::info!("SIGINT: Force quit");
                        return ForcedStop::Interrupted;
                    }
                    tracing::info!("SIGINT: Shutting down");
                }
                _ = self.quit.recv() => {
                    tracing::info!("{QUIT_LINE}");
                    return ForcedStop::Quit;
                }
            }
        }
    }
}
