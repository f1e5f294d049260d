//! Metrics that are shared by type: each part of the server finds its own counters, without a list of all of them.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Metric, MetricFamily, Observed, Registry, register};

/// Counters of the whole process.
pub trait Collected: Default + Send + Sync + 'static {
    /// The metrics that [`Collected::families`] returns.
    const METRICS: &'static [&'static Metric];

    /// Returns the metrics with their values.
    fn families(&self) -> Vec<MetricFamily>;
}

/// The counters of the process, by type. Each is created and registered when it is first used, and stays until the
/// process ends.
#[derive(Clone, Default)]
pub struct SharedMetrics {
    registry: Registry,
    all: Arc<Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>>,
}

impl SharedMetrics {
    /// Creates the counters of a registry.
    pub fn new(registry: Registry) -> SharedMetrics {
        SharedMetrics { registry, all: Arc::default() }
    }

    /// Returns the registry of the process, from which every `/metrics` page is collected.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Returns the counters of a type.
    pub fn get<T: Collected>(&self) -> Arc<T> {
        self.get_or_make(|registry| {
            let counters = Arc::new(T::default());
            let collected = counters.clone();
            register(registry, Observed::new(T::METRICS, move || collected.families()));
            counters
        })
    }

    /// Returns the counters of a type that registers itself.
    pub fn get_or_make<T: Any + Send + Sync>(&self, make: impl FnOnce(&Registry) -> Arc<T>) -> Arc<T> {
        let make = || -> Arc<dyn Any + Send + Sync> { make(&self.registry) };
        let counters = self.all.lock().entry(TypeId::of::<T>()).or_insert_with(make).clone();
        counters.downcast().unwrap_or_else(|_| unreachable!("the key is the type"))
    }
}
