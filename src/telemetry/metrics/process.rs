//! What the operating system says of this process, `process_*`: the library's collector, with CPU time in fractions of
//! a second. The library counts whole seconds, and a server that needs two in a minute shows as steps.

use nix::sys::resource::{UsageWho, getrusage};
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, MetricFamily};

/// The family that is mended.
const CPU: &str = "process_cpu_seconds_total";

/// The collector.
pub(super) struct Process(ProcessCollector);

impl Process {
    /// Of this process.
    pub(super) fn new() -> Process {
        Process(ProcessCollector::for_self())
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0.collect();
        let cpu = families.iter_mut().find(|family| family.name() == CPU);
        if let (Some(cpu), Some(seconds)) = (cpu, cpu_seconds()) {
            for metric in cpu.mut_metric() {
                let mut counter = Counter::default();
                counter.set_value(seconds);
                metric.set_counter(counter);
            }
        }
        families
    }
}

/// User and system time of all threads.
fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let microseconds = [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| time.tv_sec() as f64 * 1e6 + time.tv_usec() as f64)
        .sum::<f64>();
    Some(microseconds / 1e6)
}
