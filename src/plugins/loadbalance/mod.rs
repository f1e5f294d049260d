//! *loadbalance*: puts addresses into another order each time, so that clients that take the first spread (CoreDNS
//! `plugin/loadbalance`).
//!
//! It stands behind every answer. Most have one record or none, and cost two comparisons here; addresses alone are
//! shuffled where they lie. PTR is left in its order: who asks for a name of an address takes the first.

mod config;
mod weights;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use tracing::warn;

use crate::chain::{Exchange, Plugin, Step, Wait};
use crate::corefile::GoDuration;
use crate::plugins::build::{BlockBuilder, BuildError, Setting};
use crate::wire::{NameRef, Question, Rcode, Rdata, Record, Reply, Section, Type};

pub use config::{Config, Policy, parse};
use weights::DEFAULT_WEIGHT;
pub use weights::{WeightError, WeightFile, Weights};

impl Setting for Config {
    fn check(&self) -> Vec<BuildError> {
        LoadBalance::new(self).err().map(|error| BuildError(error.to_string())).into_iter().collect()
    }

    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let plugin = LoadBalance::new(self).map_err(|error| BuildError(error.to_string()))?;
        if let Some(file) = plugin.file().cloned() {
            block.follow_file(plugin.reload(), move |now| file.refresh(now));
        }
        block.plugin(plugin);
        Ok(())
    }
}

/// The plugin.
pub struct LoadBalance {
    prefer: Vec<IpNet>,
    /// The file of *weighted*.
    weights: Option<Arc<WeightFile>>,
    reload: Duration,
}

/// Where a record stands within its section. The order of the variants is that of CoreDNS `roundRobin`: some stub
/// resolvers want an alias before what it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Alias,
    Other,
    Address,
    Mail,
    /// With *prefer* other records are last (CoreDNS `reorderRecords`).
    Last,
}

impl Rank {
    fn of(record: &Record) -> Rank {
        match record.rtype {
            Type::CNAME => Rank::Alias,
            Type::A | Type::AAAA => Rank::Address,
            Type::MX => Rank::Mail,
            _ => Rank::Other,
        }
    }

    /// The order of *prefer*, which CoreDNS applies to answers and additional records.
    fn preferring(record: &Record) -> Rank {
        match Rank::of(record) {
            Rank::Other if record.section != Section::Authority => Rank::Last,
            rank => rank,
        }
    }
}

impl LoadBalance {
    /// The plugin of a block. It reads the weight file; one that cannot be opened may come later if it is looked at
    /// again.
    pub fn new(config: &Config) -> Result<LoadBalance, WeightError> {
        let prefer = config.prefer.clone();
        let Policy::Weighted { file, reload } = &config.policy else {
            return Ok(LoadBalance { prefer, weights: None, reload: Duration::ZERO });
        };
        let weights = WeightFile::new(file.clone());
        match weights.read(SystemTime::now()) {
            Err(error @ WeightError::Open(_)) if !reload.is_zero() => {
                let path = file.display();
                warn!(plugin = "loadbalance", "{error}: {path}: will try again in {}", GoDuration(*reload));
            }
            read => drop(read?),
        }
        Ok(LoadBalance { prefer, weights: Some(Arc::new(weights)), reload: *reload })
    }

    /// The weight file, if there is one, to be refreshed every [`LoadBalance::reload`].
    pub fn file(&self) -> Option<&Arc<WeightFile>> {
        self.weights.as_ref()
    }

    /// How often; zero is never.
    pub fn reload(&self) -> Duration {
        self.reload
    }
}

impl Plugin for LoadBalance {
    fn name(&self) -> &'static str {
        "loadbalance"
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> Option<Wait> {
        let question = exchange.question();
        let reply = exchange.reply();
        if reply.records().len() < 2
            || reply.rcode != Rcode::NOERROR
            || matches!(question.qtype, Type::AXFR | Type::IXFR)
        {
            return None;
        }
        if let Some(file) = &self.weights {
            weighted(reply, question, &file.weights());
        } else {
            round_robin(reply.records_mut());
            if !self.prefer.is_empty() {
                prefer(reply.records_mut(), &self.prefer);
            }
        }
        None
    }
}

/// Shuffles the addresses and the mail exchangers of each section, behind the other records.
fn round_robin(records: &mut [Record]) {
    // Sections may lie in any order between each other; the encoder takes one after the other.
    sort(records, |record| (record.section, Rank::of(record)));
    for run in records.chunk_by_mut(|a, b| a.section == b.section && Rank::of(a) == Rank::of(b)) {
        if run.len() > 1 && matches!(Rank::of(&run[0]), Rank::Address | Rank::Mail) {
            fastrand::shuffle(run);
        }
    }
}

/// Puts addresses in these networks first, those of the first network before the others.
fn prefer(records: &mut [Record], networks: &[IpNet]) {
    let place = |record: &Record| match address(record) {
        Some(address) if record.section != Section::Authority => {
            networks.iter().position(|network| network.contains(&address)).unwrap_or(networks.len())
        }
        _ => 0,
    };
    sort(records, |record| (record.section, Rank::preferring(record), place(record)));
}

/// Puts one address of a section first, chosen by weight.
fn weighted(reply: &mut Reply, question: &Question, weights: &Weights) {
    if !matches!(question.qtype, Type::A | Type::AAAA | Type::SRV) {
        return;
    }
    let has_address = |section| reply.section(section).any(|record| Rank::of(record) == Rank::Address);
    let (answer, additional) = (has_address(Section::Answer), has_address(Section::Additional));
    sort(reply.records_mut(), |record| {
        let is_sorted = match record.section {
            Section::Answer => answer,
            Section::Authority => false,
            Section::Additional => additional,
        };
        (record.section, if is_sorted { Rank::of(record) } else { Rank::Other })
    });
    for section in [Section::Answer, Section::Additional] {
        let is_one = |record: &Record| record.section == section && Rank::of(record) == Rank::Address;
        let Some(first) = reply.records().iter().position(is_one) else { continue };
        let count = reply.records()[first..].iter().take_while(|record| is_one(record)).count();
        let chosen = choose(reply, first, count, question, weights);
        reply.records_mut().swap(first, chosen);
    }
}

/// Chooses one of `count` addresses from `first` on.
fn choose(reply: &Reply, first: usize, count: usize, question: &Question, weights: &Weights) -> usize {
    let run = &reply.records()[first..first + count];
    // Nearly always all of them are of the question's name; others cost a copy of their name.
    let weight = |record: &Record| {
        if record.owner == NameRef::QUESTION {
            return weight_of(record, weights.of(question.name()));
        }
        let owner = reply.full_name(record.owner, question.name()).to_lower();
        weight_of(record, weights.of(owner.as_name()))
    };
    // At most 4,096 records of 255 each.
    let sum: u32 = run.iter().map(weight).sum();
    let mut left = fastrand::u32(..sum.max(1));
    for (index, record) in run.iter().enumerate() {
        let weight = weight(record);
        if left < weight {
            return first + index;
        }
        left -= weight;
    }
    first
}

/// The weight of an address among those of its name.
fn weight_of(record: &Record, weights: &[(IpAddr, u8)]) -> u32 {
    let address = address(record);
    let found = weights.iter().find(|(with, _)| Some(*with) == address);
    u32::from(found.map_or(DEFAULT_WEIGHT, |(_, weight)| *weight))
}

/// The address of a record that is one.
fn address(record: &Record) -> Option<IpAddr> {
    match record.rdata {
        Rdata::A(octets) => Some(IpAddr::from(octets)),
        Rdata::Aaaa(octets) => Some(IpAddr::from(octets).to_canonical()),
        _ => None,
    }
}

/// Sorts records; equal ones keep their order. In place: the standard library's stable sort takes memory.
fn sort<K: Ord>(records: &mut [Record], key: impl Fn(&Record) -> K + Copy) {
    if records.is_sorted_by_key(key) {
        return;
    }
    let middle = records.len() / 2;
    sort(&mut records[..middle], key);
    sort(&mut records[middle..], key);
    merge(records, middle, key);
}

/// Merges the sorted records before and from `middle` on, by rotation (as in Go's `sort.Stable`, "SymMerge").
fn merge<K: Ord>(records: &mut [Record], middle: usize, key: impl Fn(&Record) -> K + Copy) {
    let (left, right) = (middle, records.len() - middle);
    if left == 0 || right == 0 || key(&records[middle - 1]) <= key(&records[middle]) {
        return;
    }
    if left + right == 2 {
        return records.swap(0, 1);
    }
    // Half of the longer side, and what of the other side belongs in front of the rest of it.
    let (from, to) = if left >= right {
        let half = left / 2;
        let pivot = key(&records[half]);
        (half, records[middle..].partition_point(|record| key(record) < pivot))
    } else {
        let half = right / 2;
        let pivot = key(&records[middle + half]);
        (records[..middle].partition_point(|record| key(record) <= pivot), half)
    };
    records[from..middle + to].rotate_left(middle - from);
    let (first, second) = records.split_at_mut(from + to);
    merge(first, from, key);
    merge(second, middle - from, key);
}

#[cfg(test)]
mod tests;
