//! What the operating system says of this process, `process_*`: the library's collector, with what Go's has beside it, and
//! with CPU time in fractions of a second. The library counts whole seconds, and a server that needs two in a minute shows
//! as steps.

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, MetricFamily};

use super::table::{PROCESS_RECEIVED, PROCESS_SENT, PROCESS_VIRTUAL_MAX};
use super::{Family, Metric};

/// The family that is mended.
const CPU: &str = "process_cpu_seconds_total";

/// What is added.
const MORE: [&Metric; 3] = [&PROCESS_VIRTUAL_MAX, &PROCESS_RECEIVED, &PROCESS_SENT];

/// The collector.
pub(super) struct Process {
    library: ProcessCollector,
    more: Vec<Desc>,
}

impl Process {
    /// Of this process.
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
        let (received, sent) = octets().unzip();
        let more = MORE.into_iter().zip([address_space(), received, sent]);
        families.extend(more.filter_map(|(metric, value)| {
            let mut family = Family::new(metric);
            family.value(&[], value?);
            Some(family.done())
        }));
        families
    }
}

/// The most address space, in octets; a number that means no bound where there is none, as in Go's collector.
fn address_space() -> Option<f64> {
    getrlimit(Resource::RLIMIT_AS).ok().map(|(soft, _)| soft as f64)
}

/// Octets received and sent over IP in this network namespace, as Go's collector counts them.
fn octets() -> Option<(f64, f64)> {
    octets_of(&std::fs::read_to_string("/proc/self/net/netstat").ok()?)
}

/// Those of a text in which a line with names comes before each line with numbers.
fn octets_of(text: &str) -> Option<(f64, f64)> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("IpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let of = |wanted| {
        let at = names.split_whitespace().position(|name| name == wanted)?;
        numbers.split_whitespace().nth(at)?.parse().ok()
    };
    Some((of("InOctets")?, of("OutOctets")?))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_stand_below_their_names() {
        let text = "TcpExt: A B\nTcpExt: 1 2\nIpExt: X InOctets OutOctets\nIpExt: 0 17 42\n";
        assert_eq!(octets_of(text), Some((17.0, 42.0)));
        for text in
            ["", "IpExt: InOctets OutOctets\n", "IpExt: InOctets\nIpExt: 1\n", "IpExt: InOctets OutOctets\nIpExt: 1\n"]
        {
            assert_eq!(octets_of(text), None, "{text}");
        }
    }
}
