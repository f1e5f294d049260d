//! Samples of queries, from the threads that answer them to the one that counts them.
//!
//! Each thread has a buffer of its own. While there are few queries, every one is a sample with the weight 1; above
//! [`RATE`] in a second, one query in N is, with the weight N. The distance to the next sample is random, since queries
//! come in pairs of A and AAAA.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::Duration;

use parking_lot::Mutex;

use crate::telemetry::metrics::{CELL_SLOTS, cell_slot};

/// The number of samples in a second that is aimed at. In a minute, that is enough to know a share of 0.5 % with a
/// standard deviation of 3 % of it.
const RATE: f64 = 4_000.0;
/// The number of samples that a thread holds until they are taken. When it has half of them, it wakes the thread that
/// takes them; if that is not in time, the distance doubles with each sixteenth of the second half, so that all of a
/// burst is represented. A wake-up costs as much as many samples, since the tables of the counts have left the
/// processor's cache until then.
const CAPACITY: usize = 1_024;
const HALF: usize = CAPACITY / 2;
const STEP: usize = HALF / 16;
/// The time in which the distance of samples falls by an eighth, while there are few queries.
const FALL: Duration = Duration::from_millis(50);
/// The maximum number of such steps in one call. About 75 lead from the largest distance to 1.
const MAX_STEPS: u128 = 100;
/// The maximum length of the name of a sample: the last labels.
pub const SAMPLE_NAME: usize = 80;
/// The code of a query that was dropped.
pub const NO_RESPONSE: u16 = u16::MAX;

/// A query.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The address of the client.
    pub client: IpAddr,
    /// A hash of the whole name.
    pub name_hash: u64,
    /// The last labels of the name, in wire form, at most [`SAMPLE_NAME`] bytes.
    pub name: &'a [u8],
    /// Labels before `name` were left out.
    pub is_cut: bool,
    /// The query type.
    pub qtype: u16,
    /// The response code, or [`NO_RESPONSE`].
    pub rcode: u16,
    /// The reason as one word; empty for an ordinary answer.
    pub reason: &'static str,
    /// The number of queries that this one represents.
    pub weight: u32,
}

/// Samples with their names.
#[derive(Default)]
pub struct SampleList {
    samples: Vec<StoredSample>,
    /// The names, one after the other.
    names: Vec<u8>,
}

/// A sample whose name is in a list.
struct StoredSample {
    client: IpAddr,
    name_hash: u64,
    /// The end of its name.
    name_end: u32,
    is_cut: bool,
    qtype: u16,
    rcode: u16,
    reason: &'static str,
    weight: u32,
}

impl SampleList {
    /// Creates a list that grows no more while a thread records samples.
    fn new() -> SampleList {
        SampleList { samples: Vec::with_capacity(CAPACITY), names: Vec::with_capacity(CAPACITY * SAMPLE_NAME) }
    }

    fn push(&mut self, sample: Sample<'_>) {
        let Sample { client, name_hash, name, is_cut, qtype, rcode, reason, weight } = sample;
        self.names.extend_from_slice(&name[..name.len().min(SAMPLE_NAME)]);
        // At most `CAPACITY` names.
        let name_end = self.names.len() as u32;
        self.samples.push(StoredSample { client, name_hash, name_end, is_cut, qtype, rcode, reason, weight });
    }

    fn clear(&mut self) {
        self.samples.clear();
        self.names.clear();
    }

    /// Returns the samples in their order.
    pub fn iter(&self) -> impl Iterator<Item = Sample<'_>> {
        let mut start = 0;
        self.samples.iter().map(move |stored| {
            let StoredSample { client, name_hash, name_end, is_cut, qtype, rcode, reason, weight } = *stored;
            let end = name_end as usize;
            let name = self.names.get(start..end).unwrap_or_default();
            start = end;
            Sample { client, name_hash, name, is_cut, qtype, rcode, reason, weight }
        })
    }

    /// Returns the number of queries that the samples represent.
    pub fn weight(&self) -> u64 {
        self.samples.iter().map(|sample| u64::from(sample.weight)).sum()
    }
}

/// The buffers of all threads.
pub struct Samples {
    buffers: [OnceLock<Box<Mutex<SampleBuffer>>>; CELL_SLOTS],
    /// The mean distance of samples.
    period: AtomicU32,
    /// Queries without a sample that should have had one.
    missed: AtomicU64,
    /// The thread that takes the samples.
    taker: OnceLock<Thread>,
}

/// The samples of a thread. It is locked by that thread, which never waits, and by the one that takes the samples,
/// which only exchanges the list for an empty one.
struct SampleBuffer {
    list: SampleList,
    /// The weight of the next sample.
    weight: u32,
    random: fastrand::Rng,
}

impl Default for Samples {
    fn default() -> Samples {
        let buffers = [const { OnceLock::new() }; CELL_SLOTS];
        Samples { buffers, period: AtomicU32::new(1), missed: AtomicU64::new(0), taker: OnceLock::new() }
    }
}

impl Samples {
    /// Records a query. Returns the distance to the next one that this thread has to record; 1 is the next query.
    pub fn record<'a>(&self, sample: impl FnOnce() -> Sample<'a>) -> u32 {
        let buffer = self.buffers[cell_slot()].get_or_init(SampleBuffer::create);
        let Some(mut buffer) = buffer.try_lock() else {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return 1;
        };
        let distance = buffer.record(sample, self.period.load(Ordering::Relaxed), &self.missed);
        let is_half_full = buffer.list.samples.len() == HALF;
        drop(buffer);
        if let Some(taker) = self.taker.get().filter(|_| is_half_full) {
            taker.unpark();
        }
        distance
    }

    /// Makes this thread the one that takes the samples: it is unparked when a buffer is half full.
    pub fn take_here(&self) {
        let _ = self.taker.set(std::thread::current());
    }

    /// Takes all samples, and calls `visit` with those of each thread. `spare` is reused from call to call.
    pub fn take(&self, spare: &mut Option<SampleList>, mut visit: impl FnMut(&SampleList)) {
        let spare = spare.get_or_insert_with(SampleList::new);
        for buffer in self.buffers.iter().filter_map(OnceLock::get) {
            spare.clear();
            std::mem::swap(spare, &mut buffer.lock().list);
            visit(spare);
        }
    }

    /// Returns the number of queries without a sample that should have had one.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Returns the mean distance of samples.
    pub fn period(&self) -> u32 {
        self.period.load(Ordering::Relaxed)
    }

    /// Sets the distance of samples for a number of queries in a time.
    pub fn adapt(&self, queries: u64, time: Duration) {
        let rate = queries as f64 / time.as_secs_f64().max(0.001);
        let wanted = (rate / RATE).ceil().clamp(1.0, 65_536.0) as u32;
        // Falls slowly, since traffic comes in bursts: by an eighth in each of these times.
        let steps = (time.as_nanos() / FALL.as_nanos()).clamp(1, MAX_STEPS);
        let fallen = (0..steps).fold(self.period(), |period, _| period - period.div_ceil(8));
        self.period.store(wanted.max(fallen).max(1), Ordering::Relaxed);
    }
}

impl SampleBuffer {
    #[cold]
    fn create() -> Box<Mutex<SampleBuffer>> {
        Box::new(Mutex::new(SampleBuffer { list: SampleList::new(), weight: 1, random: fastrand::Rng::new() }))
    }

    fn record<'a>(&mut self, sample: impl FnOnce() -> Sample<'a>, period: u32, missed: &AtomicU64) -> u32 {
        let len = self.list.samples.len();
        if len < CAPACITY {
            self.list.push(Sample { weight: self.weight, ..sample() });
        } else {
            missed.fetch_add(u64::from(self.weight), Ordering::Relaxed);
        }
        if len < HALF && period == 1 {
            self.weight = 1;
            return 1;
        }
        let doubled = if len < HALF { 0 } else { (len - HALF) / STEP + 1 };
        self.weight = period.saturating_mul(1 << doubled.min(15));
        // The mean of 1, …, 2 N - 1 is N.
        if self.weight == 1 { 1 } else { self.random.u32(1..self.weight.saturating_mul(2)) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn sample(number: u32) -> Sample<'static> {
        Sample {
            client: Ipv4Addr::from(number).into(),
            name_hash: u64::from(number),
            name: b"",
            is_cut: false,
            qtype: 1,
            rcode: 0,
            reason: "",
            weight: 0,
        }
    }

    /// Sends a number of queries, of which each second one is of client 1. Returns the sums of weights by client.
    fn send(samples: &Samples, queries: u32, distance: &mut u32) {
        for number in 0..queries {
            *distance -= 1;
            if *distance == 0 {
                *distance = samples.record(|| sample(number % 2));
            }
        }
    }

    fn sums(samples: &Samples) -> [u64; 2] {
        let mut sums = [0, 0];
        samples.take(&mut None, |list| {
            list.iter().for_each(|sample| sums[sample.name_hash as usize] += u64::from(sample.weight));
        });
        sums
    }

    #[test]
    fn every_query_is_counted_while_there_are_few() {
        let (samples, mut distance) = (Samples::default(), 1);
        for _ in 0..10 {
            send(&samples, HALF as u32, &mut distance);
            assert_eq!(sums(&samples), [HALF as u64 / 2; 2]);
            samples.adapt(HALF as u64, Duration::from_millis(200));
            assert_eq!(samples.period(), 1);
        }
        assert_eq!(samples.missed(), 0);
    }

    /// A burst is longer than the buffer; then the distance adapts. Client 1 always has half of the queries.
    #[test]
    fn weights_represent_the_queries_that_were_left_out() {
        let (samples, mut distance) = (Samples::default(), 1);
        let (mut burst, mut adapted) = ([0, 0], [0, 0]);
        let add = |all: &mut [u64; 2], more: [u64; 2]| (0..2).for_each(|at| all[at] += more[at]);
        for _ in 0..200 {
            send(&samples, 20_000, &mut distance);
            add(&mut burst, sums(&samples));
        }
        assert_eq!(samples.missed(), 0);
        samples.adapt(20_000, Duration::from_millis(100));
        assert_eq!(samples.period(), 50);
        for _ in 0..200 {
            send(&samples, 20_000, &mut distance);
            add(&mut adapted, sums(&samples));
        }
        for sum in [burst, adapted].concat() {
            assert!(sum.abs_diff(2_000_000) < 200_000, "{burst:?} {adapted:?}");
        }
        // It falls step by step.
        samples.adapt(1, FALL);
        assert_eq!(samples.period(), 43);
        let at_once = Samples::default();
        at_once.adapt(20_000, Duration::from_millis(100));
        at_once.adapt(1, 10 * FALL);
        (0..9).for_each(|_| samples.adapt(1, FALL));
        assert_eq!(samples.period(), at_once.period());
        assert!((2..43).contains(&samples.period()));
        samples.adapt(1, Duration::from_secs(3_600));
        assert_eq!(samples.period(), 1);
    }

    /// A buffer is as large as it will ever be from the start, since the thread that records answers queries.
    #[test]
    fn names_are_those_of_their_samples() {
        let mut list = SampleList::new();
        let names: Vec<Vec<u8>> = (0..CAPACITY).map(|number| vec![number as u8; number % (SAMPLE_NAME + 9)]).collect();
        let size = (list.samples.capacity(), list.names.capacity());
        for _ in 0..2 {
            names.iter().for_each(|name| list.push(Sample { name, ..sample(0) }));
            assert_eq!((list.samples.capacity(), list.names.capacity()), size);
            let found: Vec<&[u8]> = list.iter().map(|sample| sample.name).collect();
            assert_eq!(found, names.iter().map(|name| &name[..name.len().min(SAMPLE_NAME)]).collect::<Vec<_>>());
            list.clear();
        }
    }

    #[test]
    fn half_a_buffer_wakes_the_thread_that_takes_samples() {
        let samples = Samples::default();
        let (ready, is_ready) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let samples = &samples;
            let taken = scope.spawn(move || {
                samples.take_here();
                ready.send(()).expect("the test waits");
                let mut all = 0;
                // Without the wake-up, this would never end.
                while all == 0 {
                    std::thread::park();
                    samples.take(&mut None, |list| all += list.iter().count());
                }
                all
            });
            is_ready.recv().expect("it runs");
            send(samples, HALF as u32, &mut 1);
            assert_eq!(taken.join().expect("no panic"), HALF);
        });
    }

    #[test]
    fn what_does_not_fit_is_missed() {
        let samples = Samples::default();
        let lock = samples.buffers[cell_slot()].get_or_init(SampleBuffer::create);
        let guard = lock.lock();
        assert_eq!(samples.record(|| sample(0)), 1);
        drop(guard);
        assert_eq!(samples.missed(), 1);
        for _ in 0..CAPACITY {
            samples.record(|| sample(0));
        }
        assert_eq!(samples.missed(), 1);
        samples.record(|| sample(0));
        assert!(samples.missed() > 1);
    }
}
