//! The cost of writing the index: time to apply events, and memory.
//!
//! `cargo bench --bench index` prints both. Only memory has limits, since the requested bytes are the same in every
//! run.

mod counting;
mod fixture;

use std::process::ExitCode;
use std::time::Duration;

use clusterdns::cluster::{Event, IndexWriter};
use counting::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The number of Services, and of endpoints for each: the sizes that Kubernetes supports.
const SERVICES: usize = 10_000;
const ENDPOINTS: usize = 15;
/// The limit of bytes for an endpoint, everything included.
const ENDPOINT_LIMIT: f64 = 80.0;
/// The limit of memory during a relist, relative to the memory before it.
const RELIST_LIMIT: f64 = 1.05;
/// The number of updates of a slice.
const UPDATES: usize = 2_000;
/// The time at which events arrive.
const NOW: u32 = 1_700_000_000;

fn main() -> ExitCode {
    let count = SERVICES * ENDPOINTS;
    println!(
        "{SERVICES} Services, {count} endpoints; every fifth Service is headless and its endpoints have host names\n"
    );

    println!("{:<44} {:>9}", "memory", "bytes");
    let start = counting::bytes();
    let (index, mut writer) = fixture::empty_index();
    // Events are created one by one, so that the memory and its peak belong to the index.
    apply(&mut writer, fixture::service_list(SERVICES));
    let services = counting::bytes() - start;
    apply(&mut writer, fixture::slice_list(SERVICES, ENDPOINTS));
    let all = counting::bytes() - start;
    counting::reset_peak();
    apply(&mut writer, fixture::service_list(SERVICES));
    apply(&mut writer, fixture::slice_list(SERVICES, ENDPOINTS));
    let relist = (counting::peak() - start) as f64 / all as f64;
    let grown = (counting::bytes() - start) as f64 / all as f64;
    let endpoint = (all - services) as f64 / count as f64;
    let row = |what: &str, value: f64, limit: Option<f64>| {
        let verdict = limit
            .map_or(String::new(), |limit| format!("limit {limit}{}", if value > limit { " EXCEEDED" } else { "" }));
        println!("{what:<44} {value:>9.2} {verdict}");
        limit.is_none_or(|limit| value <= limit)
    };
    row("a Service without endpoints", services as f64 / SERVICES as f64, None);
    let mut holds = row("an endpoint, with its share of a slice of 15", endpoint, Some(ENDPOINT_LIMIT));
    row("the whole index, MiB", all as f64 / f64::from(1 << 20), None);
    holds &= row("peak of a relist, relative to the whole", relist, Some(RELIST_LIMIT));
    holds &= row("after the relist, relative to the whole", grown, Some(RELIST_LIMIT));

    println!("\n{:<44} {:>9} {:>12}", "CPU time (of this machine, now)", "ms", "us an object");
    let lists = || (fixture::service_list(SERVICES).collect(), fixture::slice_list(SERVICES, ENDPOINTS).collect());
    // Two writers get the same events; one of them has applied them before.
    let (again_services, again_slices): (Vec<Event>, Vec<Event>) = lists();
    time("relist, Services, nothing changed", SERVICES, || apply(&mut writer, again_services));
    time("relist, slices of 15, nothing changed", SERVICES, || apply(&mut writer, again_slices));
    drop((index, writer));
    let (first_services, first_slices): (Vec<Event>, Vec<Event>) = lists();
    let (_index, mut writer) = fixture::empty_index();
    time("first list, Services", SERVICES, || apply(&mut writer, first_services));
    time("first list, slices of 15", SERVICES, || apply(&mut writer, first_slices));
    apply(&mut writer, fixture::large_service());
    let updates: Vec<Event> = (0..UPDATES).map(fixture::large_update).collect();
    time("update of a slice of 100 (of 250), one moved", UPDATES, || apply(&mut writer, updates));

    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn apply(writer: &mut IndexWriter, events: impl IntoIterator<Item = Event>) {
    for event in events {
        writer.apply(event, NOW);
    }
}

fn time(what: &str, objects: usize, work: impl FnOnce()) {
    let start = cpu_time();
    work();
    let spent = cpu_time() - start;
    let each = spent.as_secs_f64() * 1e6 / objects as f64;
    println!("{what:<44} {:>9.1} {each:>12.2}", spent.as_secs_f64() * 1e3);
}

/// Returns the CPU time of this thread, so that other load on the machine does not count. The kernel counts
/// nanoseconds.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default())
}
