//! *loadbalance*: changes the order of addresses in each reply, so that clients that use the first one are distributed
//! over all (CoreDNS `plugin/loadbalance`).
//!
//! The plugin is called for every reply. Most replies have one record or none, which costs two comparisons; others are
//! sorted and shuffled in place. PTR records are not reordered: clients use the first name of an address.

mod config;
mod weights;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use tracing::warn;

use crate::chain::{Calls, Exchange, ExplainedReply, Plugin, Step, Wait};
use crate::corefile::GoDuration;
use crate::plugins::build::{BlockBuilder, BuildError, Setting};
use crate::wire::{NameRef, Question, Rcode, Rdata, Record, Reply, Section, Type};

pub use config::{BalancePolicy, Config, parse};
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

/// The plugin of a server block.
pub struct LoadBalance {
    prefer: Vec<IpNet>,
    /// The file of *weighted*, if that is the policy.
    weights: Option<Arc<WeightFile>>,
    reload: Duration,
}

/// The rank of a record within its section. The order of the variants is that of CoreDNS `roundRobin`: some stub
/// resolvers need an alias before the records of its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Alias,
    Other,
    Address,
    Mail,
    /// Other records, with *prefer* (CoreDNS `reorderRecords`).
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

    /// Returns the rank of a record with *prefer*, which CoreDNS applies to the answer and additional sections.
    fn with_prefer(record: &Record) -> Rank {
        match Rank::of(record) {
            Rank::Other if record.section != Section::Authority => Rank::Last,
            rank => rank,
        }
    }
}

impl LoadBalance {
    /// Creates the plugin of a block, and reads the weight file.
    ///
    /// # Errors
    ///
    /// Returns an error if the weight file is invalid, or if it cannot be opened and is never read again.
    pub fn new(config: &Config) -> Result<LoadBalance, WeightError> {
        let prefer = config.prefer.clone();
        let BalancePolicy::Weighted { file, reload } = &config.policy else {
            return Ok(LoadBalance { prefer, weights: None, reload: Duration::ZERO });
        };
        let weights = WeightFile::new(file.clone());
        match weights.read(SystemTime::now()) {
            Err(error @ WeightError::Open(_)) if !reload.is_zero() => {
                let path = file.display();
                warn!(plugin = "loadbalance", "{error}: {path}: will try again in {}", GoDuration(*reload));
            }
            result => drop(result?),
        }
        Ok(LoadBalance { prefer, weights: Some(Arc::new(weights)), reload: *reload })
    }

    /// Returns the weight file, if there is one. It has to be refreshed at the interval [`LoadBalance::reload`].
    pub fn file(&self) -> Option<&Arc<WeightFile>> {
        self.weights.as_ref()
    }

    /// Returns the interval between refreshes of the weight file; zero disables them.
    pub fn reload(&self) -> Duration {
        self.reload
    }
}

impl Plugin for LoadBalance {
    fn name(&self) -> &'static str {
        "loadbalance"
    }

    fn calls(&self) -> Calls {
        Calls { query: false, reply: true, sent: false }
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn explain_reply(&self, exchange: &mut Exchange<'_>, lines: &mut Vec<String>) -> ExplainedReply {
        let question = exchange.question();
        let reply = exchange.reply();
        let is_shuffled = |record: &&Record| matches!(Rank::of(record), Rank::Address | Rank::Mail);
        let count = reply.section(Section::Answer).filter(is_shuffled).count();
        if count < 2 || !reorders(reply, question) {
            return ExplainedReply::Known;
        }
        // The order below stays that of the plugins before, since that of the response is random.
        if self.weights.is_some() {
            lines.push(format!("puts one of the {count} addresses first, chosen at random by its weight"));
            return ExplainedReply::Known;
        }
        lines.push(format!("shuffles the {count} records of each response"));
        if !self.prefer.is_empty() {
            let networks: Vec<String> = self.prefer.iter().map(IpNet::to_string).collect();
            lines.push(format!("then puts addresses in {} first", networks.join(", ")));
            move_preferred_first(reply.records_mut(), &self.prefer);
        }
        ExplainedReply::Known
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> Option<Wait> {
        // Most replies have one record.
        if exchange.reply().records().len() > 1 {
            self.reorder(exchange);
        }
        None
    }
}

impl LoadBalance {
    #[inline(never)]
    fn reorder(&self, exchange: &mut Exchange<'_>) {
        let question = exchange.question();
        let reply = exchange.reply();
        if !reorders(reply, question) {
            return;
        }
        if let Some(file) = &self.weights {
            move_weighted_first(reply, question, &file.weights());
        } else {
            shuffle(reply.records_mut());
            if !self.prefer.is_empty() {
                move_preferred_first(reply.records_mut(), &self.prefer);
            }
        }
    }
}

/// Returns whether the records of a reply may be put into another order.
fn reorders(reply: &Reply, question: &Question) -> bool {
    reply.rcode == Rcode::NOERROR && !matches!(question.qtype, Type::AXFR | Type::IXFR)
}

/// Shuffles the addresses and the mail exchangers of each section, and puts them after its other records.
fn shuffle(records: &mut [Record]) {
    // Records of different sections may be mixed; the encoder selects those of each section.
    let place = |record: &Record| (record.section as u8) << 4 | Rank::of(record) as u8;
    sort(records, place);
    for run in records.chunk_by_mut(|a, b| place(a) == place(b)) {
        if run.len() > 1 && matches!(Rank::of(&run[0]), Rank::Address | Rank::Mail) {
            fastrand::shuffle(run);
        }
    }
}

/// Puts addresses in these networks first, in the order of the networks.
fn move_preferred_first(records: &mut [Record], networks: &[IpNet]) {
    let position = |record: &Record| match address(record) {
        Some(address) if record.section != Section::Authority => {
            networks.iter().position(|network| network.contains(&address)).unwrap_or(networks.len())
        }
        _ => 0,
    };
    sort(records, |record| (record.section, Rank::with_prefer(record), position(record)));
}

/// Chooses an address of each section by weight, and puts it before the other addresses.
fn move_weighted_first(reply: &mut Reply, question: &Question, weights: &Weights) {
    if !matches!(question.qtype, Type::A | Type::AAAA | Type::SRV) {
        return;
    }
    let has_address = |section| reply.section(section).any(|record| Rank::of(record) == Rank::Address);
    let is_answer_sorted = has_address(Section::Answer);
    let is_additional_sorted = has_address(Section::Additional);
    sort(reply.records_mut(), |record| {
        let is_sorted = match record.section {
            Section::Answer => is_answer_sorted,
            Section::Authority => false,
            Section::Additional => is_additional_sorted,
        };
        (record.section, if is_sorted { Rank::of(record) } else { Rank::Other })
    });
    for section in [Section::Answer, Section::Additional] {
        let is_candidate = |record: &Record| record.section == section && Rank::of(record) == Rank::Address;
        let Some(first) = reply.records().iter().position(is_candidate) else { continue };
        let count = reply.records()[first..].iter().take_while(|record| is_candidate(record)).count();
        let chosen = choose(reply, first, count, question, weights);
        reply.records_mut().swap(first, chosen);
    }
}

/// Chooses one of `count` addresses, the first of which has the index `first`. Returns its index.
fn choose(reply: &Reply, first: usize, count: usize, question: &Question, weights: &Weights) -> usize {
    let run = &reply.records()[first..first + count];
    // Nearly always the owner is the name of the question; any other owner has to be copied.
    let weight = |record: &Record| {
        if record.owner == NameRef::QUESTION {
            return weight_of(record, weights.of(question.name()));
        }
        let owner = reply.full_name(record.owner, question.name()).to_lower();
        weight_of(record, weights.of(owner.as_name()))
    };
    // At most 4,096 records with a weight of 255 each.
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

/// Returns the weight of an address, given the weights of its owner.
fn weight_of(record: &Record, weights: &[(IpAddr, u8)]) -> u32 {
    let address = address(record);
    let found = weights.iter().find(|(of, _)| Some(*of) == address);
    u32::from(found.map_or(DEFAULT_WEIGHT, |(_, weight)| *weight))
}

/// Returns the address of an A or AAAA record.
fn address(record: &Record) -> Option<IpAddr> {
    match record.rdata {
        Rdata::A(address) => Some(IpAddr::from(address)),
        Rdata::Aaaa(address) => Some(IpAddr::from(address).to_canonical()),
        _ => None,
    }
}

/// Sorts records in place. Records with equal keys stay in their order. (The standard library's stable sort allocates.)
fn sort<K: Ord>(records: &mut [Record], key: impl Fn(&Record) -> K + Copy) {
    if records.is_sorted_by_key(key) {
        return;
    }
    let middle = records.len() / 2;
    sort(&mut records[..middle], key);
    sort(&mut records[middle..], key);
    merge(records, middle, key);
}

/// Merges two sorted parts, the second of which starts at `middle`, by rotation (as in Go's `sort.Stable`, "SymMerge").
fn merge<K: Ord>(records: &mut [Record], middle: usize, key: impl Fn(&Record) -> K + Copy) {
    let left = middle;
    let right = records.len() - middle;
    if left == 0 || right == 0 || key(&records[middle - 1]) <= key(&records[middle]) {
        return;
    }
    if left + right == 2 {
        return records.swap(0, 1);
    }
    // The first half of the longer part, and the records of the other part that come before the second half.
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
