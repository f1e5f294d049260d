//! A counter with the label `server`: one number for each socket.

use std::marker::PhantomData;
use std::sync::Arc;

use parking_lot::RwLock;

use super::{Cells, Collected, Family, Metric, MetricFamily};

/// A metric whose only label is `server`.
pub trait ServerMetric: 'static {
    /// The metric.
    const METRIC: &'static Metric;
}

/// The counter of a socket.
pub struct ServerCounter {
    /// The label of the socket, such as `dns://:53`.
    server: String,
    cells: Cells<1>,
}

impl ServerCounter {
    /// Adds one.
    pub fn increment(&self) {
        self.cells.mine().add(0, 1);
    }
}

/// The counters of all sockets. They outlive a reload. A socket without an event is not shown, as in CoreDNS.
pub struct ServerCounters<T> {
    all: RwLock<Vec<Arc<ServerCounter>>>,
    metric: PhantomData<fn() -> T>,
}

impl<T> Default for ServerCounters<T> {
    fn default() -> ServerCounters<T> {
        ServerCounters { all: RwLock::default(), metric: PhantomData }
    }
}

impl<T> ServerCounters<T> {
    /// Returns the counter of a socket, and adds it if it is new.
    pub fn of(&self, server: &str) -> Arc<ServerCounter> {
        let mut all = self.all.write();
        if let Some(found) = all.iter().find(|counter| counter.server == server) {
            return found.clone();
        }
        let counter = Arc::new(ServerCounter { server: server.to_owned(), cells: Cells::default() });
        all.push(counter.clone());
        counter
    }
}

impl<T: ServerMetric> Collected for ServerCounters<T> {
    const METRICS: &'static [&'static Metric] = &[T::METRIC];

    fn families(&self) -> Vec<MetricFamily> {
        let mut family = Family::new(T::METRIC);
        for counter in self.all.read().iter() {
            let [count] = counter.cells.sums();
            if count > 0 {
                family.value(&[&counter.server], count as f64);
            }
        }
        vec![family.done()]
    }
}
