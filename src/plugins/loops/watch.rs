//! The state of the detection of *loop*: the current probe, and what it has shown. No I/O and no clock.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::chain::Client;
use crate::wire::{NameBuf, Question, Type};

/// The number of probes in a row that must come back before a loop is reported.
const PROOF: u32 = 3;

/// The state of the detection, shared by the plugin and the sender of the probes.
pub(super) struct Watch {
    /// The zone in which probes have their names.
    pub(super) zone: NameBuf,
    /// Whether queries are compared with the probe. Written by the sender; read for each HINFO query, which are rare.
    is_armed: AtomicBool,
    /// Written by the sender, and by the plugin when it sees the probe.
    probe: Mutex<Probe>,
}

/// The current probe.
#[derive(Default)]
struct Probe {
    /// The name; `None` once it has come back.
    name: Option<NameBuf>,
    /// The number of queries for the name.
    seen: u32,
    /// The client of the last one.
    from: Option<Client>,
    /// The number of probes in a row that came back.
    suspicions: u32,
}

/// The result of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProbeResult {
    /// It has not come back.
    Nothing,
    /// It has come back, which a replay can explain; another probe is needed.
    Suspicion,
    /// It has come back, and so did the probes before it. The client that sent it last, and its name.
    Loop(Client, NameBuf),
}

impl Watch {
    /// Creates the state of a server block. No probe is being sent.
    pub(super) fn new(zone: NameBuf) -> Watch {
        Watch { zone, is_armed: AtomicBool::new(false), probe: Mutex::default() }
    }

    /// Counts a query if it is the current probe.
    pub(super) fn count_query(&self, question: &Question, client: Client) {
        if question.qtype == Type::HINFO && self.is_armed.load(Ordering::Relaxed) {
            let mut probe = self.probe.lock();
            if probe.name.as_ref().is_some_and(|name| question.name().eq_ignore_case(name.as_name())) {
                probe.seen += 1;
                probe.from = Some(client);
            }
        }
    }

    /// Starts a probe with a new name, and returns the name. `random` must be unpredictable.
    pub(super) fn arm(&self, random: [u64; 2]) -> NameBuf {
        let zone = self.zone.to_string();
        let zone = if zone == "." { "" } else { &zone };
        let text = format!("{}.{}.{zone}", random[0] >> 2, random[1] >> 2);
        // In a zone of more than 215 bytes there is no space for two labels: the probe has the name of the zone.
        let name = NameBuf::from_text(&text).unwrap_or_else(|_| self.zone.clone());
        let mut probe = self.probe.lock();
        probe.name = Some(name.clone());
        probe.seen = 0;
        probe.from = None;
        self.is_armed.store(true, Ordering::Relaxed);
        name
    }

    /// Returns what the current probe has shown so far. A probe that has come back is reported once.
    pub(super) fn look(&self) -> ProbeResult {
        let mut probe = self.probe.lock();
        // The server itself has sent the first query.
        let (Some(name), Some(from), 2..) = (probe.name.clone(), probe.from, probe.seen) else {
            return ProbeResult::Nothing;
        };
        probe.name = None;
        probe.suspicions += 1;
        if probe.suspicions < PROOF { ProbeResult::Suspicion } else { ProbeResult::Loop(from, name) }
    }

    /// Clears the suspicions: called when a probe has not come back in time.
    pub(super) fn clear(&self) {
        self.probe.lock().suspicions = 0;
    }

    /// Stops comparing queries with the probe.
    pub(super) fn disarm(&self) {
        self.is_armed.store(false, Ordering::Relaxed);
    }
}
