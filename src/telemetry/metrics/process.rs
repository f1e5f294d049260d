//! Metrics of this process: those of the library's collector, those that only Go's collector has, CPU time with
//! fractions of a second, and the memory limit of its container. The library counts whole seconds, which shows a server
//! that needs two in a minute as steps.

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, MetricFamily};

use super::family::Family;
use super::table::{MEMORY_LIMIT, Metric, PROCESS_RECEIVED, PROCESS_SENT, PROCESS_VIRTUAL_MAX};

/// The family whose value is replaced.
const CPU: &str = "process_cpu_seconds_total";

/// Metrics that the library does not have.
const MORE: [&Metric; 4] = [&PROCESS_VIRTUAL_MAX, &PROCESS_RECEIVED, &PROCESS_SENT, &MEMORY_LIMIT];

/// Files with the memory limit of a container's control group: of version 2 and of version 1.
const MEMORY_LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// Collects the metrics of this process.
pub(super) struct Process {
    library: ProcessCollector,
    more: Vec<Desc>,
}

impl Process {
    /// Creates the collector.
    pub(super) fn new() -> Process {
        Process { library: ProcessCollector::for_self(), more: MORE.iter().map(|metric| metric.desc()).collect() }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.library.desc().into_iter().chain(&self.more).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.library.collect();
        let cpu = families.iter_mut().find(|family| family.name() == CPU);
        if let (Some(cpu), Some(seconds)) = (cpu, cpu_seconds()) {
            for metric in cpu.mut_metric() {
                let mut counter = Counter::default();
                counter.set_value(seconds);
                metric.set_counter(counter);
            }
        }
        let (received, sent) = network_bytes().unzip();
        let more = MORE.into_iter().zip([address_space(), received, sent, memory_limit()]);
        families.extend(more.filter_map(|(metric, value)| {
            let mut family = Family::new(metric);
            family.value(&[], value?);
            Some(family.done())
        }));
        families
    }
}

/// Returns the limit of address space in bytes. Without a limit it is the number that stands for that, as in Go's
/// collector.
fn address_space() -> Option<f64> {
    getrlimit(Resource::RLIMIT_AS).ok().map(|(soft, _)| soft as f64)
}

/// Returns the memory limit in bytes, if there is one.
fn memory_limit() -> Option<f64> {
    parse_memory_limit(&MEMORY_LIMITS.iter().find_map(|path| std::fs::read_to_string(path).ok())?)
}

/// Parses a memory limit. Without one, version 2 has the word `max`, and version 1 a number near 2^63.
fn parse_memory_limit(text: &str) -> Option<f64> {
    let bytes: u64 = text.trim().parse().ok()?;
    (bytes < 1 << 60).then_some(bytes as f64)
}

/// Returns the bytes received and sent over IP in this network namespace, as Go's collector counts them.
fn network_bytes() -> Option<(f64, f64)> {
    parse_netstat(&std::fs::read_to_string("/proc/self/net/netstat").ok()?)
}

/// Parses `/proc/self/net/netstat`, where each line of numbers follows a line of their names.
fn parse_netstat(text: &str) -> Option<(f64, f64)> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("IpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let of = |wanted| {
        let at = names.split_whitespace().position(|name| name == wanted)?;
        numbers.split_whitespace().nth(at)?.parse().ok()
    };
    Some((of("InOctets")?, of("OutOctets")?))
}

/// Returns user and system time of all threads.
fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let microseconds = [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| time.tv_sec() as f64 * 1e6 + time.tv_usec() as f64)
        .sum::<f64>();
    Some(microseconds / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_limit_is_a_number_that_a_machine_can_have() {
        assert_eq!(parse_memory_limit("178257920\n"), Some(178_257_920.0));
        for text in ["max\n", "9223372036854771712\n", "", "-1"] {
            assert_eq!(parse_memory_limit(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_found_by_their_names() {
        let text = "TcpExt: A B\nTcpExt: 1 2\nIpExt: X InOctets OutOctets\nIpExt: 0 17 42\n";
        assert_eq!(parse_netstat(text), Some((17.0, 42.0)));
        for text in
            ["", "IpExt: InOctets OutOctets\n", "IpExt: InOctets\nIpExt: 1\n", "IpExt: InOctets OutOctets\nIpExt: 1\n"]
        {
            assert_eq!(parse_netstat(text), None, "{text}");
        }
    }
}
