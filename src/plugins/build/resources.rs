//! What plugins share with each other, with the configuration before, and with the process.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::ServerBlock;
use crate::net::Interface;
use crate::telemetry::log::Logger;
use crate::telemetry::metrics::{BlockLabels, Collected, Family, Metric, MetricFamily, SharedMetrics, table};
use crate::upstream::{Dispatcher, UpstreamRegistry};
use crate::wire::NameBuf;

/// The resources of the process that plugins may use.
pub struct Resources {
    /// The log.
    pub logger: Logger,
    /// The name of this machine; in a Pod that of the Pod.
    pub hostname: String,
    /// The search list of this machine's resolver, in lower case; in a Pod that of its `/etc/resolv.conf`.
    pub search_list: Vec<NameBuf>,
    /// The name and version of this server.
    pub version: &'static str,
    /// The interfaces of this machine.
    pub interfaces: Vec<Interface>,
    /// Lines of level debug are logged; set once the configuration is active.
    pub debug: Arc<AtomicBool>,
    /// Metrics, which outlive a reload.
    pub metrics: SharedMetrics,
    /// The upstreams of all configurations.
    pub upstreams: Arc<UpstreamRegistry>,
    /// Sends queries to upstreams for clients that are not UDP clients.
    pub dispatcher: Dispatcher,
    /// The phase of the process.
    pub lifecycle: Arc<Lifecycle>,
    /// The parts of a configuration that the next one continues to use.
    pub carried_over: CarriedOver,
}

/// How far the process has come.
#[derive(Debug, Default)]
pub struct Lifecycle(AtomicU8);

/// A phase of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// The sockets are not open yet.
    Starting,
    /// Queries are answered.
    Serving,
    /// The process is about to end.
    Ending,
}

impl Lifecycle {
    /// Returns the phase.
    pub fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Ending,
        }
    }

    /// Enters a phase. A process that is ending never serves again.
    pub fn enter(&self, phase: Phase) {
        self.0.fetch_max(phase as u8, Ordering::AcqRel);
    }
}

/// The state that plugins of different blocks of one configuration share, by type.
#[derive(Default)]
pub struct ConfigurationState(Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl ConfigurationState {
    /// Returns the state of a type, which is created by the first call.
    pub fn get<T: Any + Default + Send + Sync>(&self) -> Arc<T> {
        let mut all = self.0.lock();
        let state = all.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(T::default())).clone();
        state.downcast().unwrap_or_default()
    }
}

/// Parts of a block that an equal block of the next configuration continues to use. They are freed with their last
/// user.
#[derive(Default)]
pub struct CarriedOver(Mutex<Vec<Carried>>);

/// A part of a block.
struct Carried {
    block: ServerBlock,
    directive: &'static str,
    part: Weak<dyn Any + Send + Sync>,
}

impl CarriedOver {
    /// Returns the part that a directive of an equal block has, or creates it.
    pub(super) fn get_or_make<T: Any + Send + Sync>(
        &self, block: &ServerBlock, directive: &'static str, make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let mut all = self.0.lock();
        all.retain(|carried| carried.part.strong_count() > 0);
        let mut same = all.iter().filter(|carried| carried.directive == directive && carried.block.is_same(block));
        if let Some(part) = same.find_map(|carried| carried.part.upgrade()?.downcast().ok()) {
            return part;
        }
        let part = Arc::new(make());
        let shared: Arc<dyn Any + Send + Sync> = part.clone();
        all.push(Carried { block: block.clone(), directive, part: Arc::downgrade(&shared) });
        part
    }
}

/// A plugin that is active in a zone on a listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ActivePlugin {
    /// Its name.
    pub name: &'static str,
    /// The listener and the view.
    pub labels: BlockLabels,
    /// The zone.
    pub zone: String,
}

/// The active plugins, for `coredns_plugin_enabled`.
#[derive(Default)]
pub struct ActivePlugins(RwLock<Vec<ActivePlugin>>);

impl ActivePlugins {
    /// Replaces the plugins by those of another configuration.
    pub fn replace(&self, mut plugins: Vec<ActivePlugin>) {
        // Several plugins of a directive in one block count as one.
        plugins.sort_unstable();
        plugins.dedup();
        *self.0.write() = plugins;
    }
}

impl Collected for ActivePlugins {
    const METRICS: &'static [&'static Metric] = &[&table::PLUGIN_ENABLED];

    fn families(&self) -> Vec<MetricFamily> {
        let mut enabled = Family::new(&table::PLUGIN_ENABLED);
        for ActivePlugin { name, labels, zone } in self.0.read().iter() {
            enabled.value(&[name, &labels.server, &labels.view, zone], 1.0);
        }
        vec![enabled.done()]
    }
}
