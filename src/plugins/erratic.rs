//! *erratic*: answers every address query with the same address, and drops, delays or truncates some of the responses,
//! to test clients (CoreDNS `plugin/erratic`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Context;
use super::build::{BlockBuilder, BuildError, Setting};
use crate::chain::pending::Continue;
use crate::chain::{Exchange, ExplainNotes, Explained, Plugin, State, Step, Wait, Work};
use crate::corefile::{Arguments, Directive, parse_duration};
use crate::wire::{Class, NameBuf, NameRef, Rcode, Rdata, Record, Section, Type};

/// The address of every A query.
const ADDRESS: [u8; 4] = [192, 0, 2, 53];
/// The address of every AAAA query.
const ADDRESS_V6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53];
/// The number of A records with `large`.
const LARGE: usize = 30;
/// How many queries there are for each that is dropped, delayed or truncated, where the property has no number.
const DEFAULT_AMOUNT: u64 = 2;
/// The delay, where `delay` has none.
const DEFAULT_DELAY: Duration = Duration::from_millis(100);
/// The longest delay: what waits for longer than a client would only occupies the server.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// Which responses are wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// One query in this many gets no response; 0 for none.
    pub drop: u64,
    /// One query in this many gets a late response; 0 for none.
    pub delay: u64,
    /// How late it is.
    pub duration: Duration,
    /// A query whose number has none of these bits gets a response with TC; 0 for none (CoreDNS takes the bits, not
    /// the remainder).
    pub truncate: u64,
    /// A response has 30 addresses.
    pub large: bool,
}

/// Parses the directive. Later stanzas win.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let had_errors = context.diagnostics.has_errors();
    let mut config = Config { drop: DEFAULT_AMOUNT, delay: 0, duration: DEFAULT_DELAY, truncate: 0, large: false };
    let mut has_drop = false;
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        for property in line.body() {
            let mut inner = line.enter(property);
            match inner.name() {
                "drop" if inner.more() => {
                    has_drop = true;
                    config.drop = parse_amount(&mut inner);
                }
                "drop" => {}
                "delay" => {
                    config.delay = parse_amount(&mut inner);
                    config.duration = if inner.more() { parse_delay(&mut inner) } else { DEFAULT_DELAY };
                }
                "truncate" => config.truncate = parse_amount(&mut inner),
                // CoreDNS ignores what follows.
                "large" => {
                    config.large = true;
                    inner.ignore_rest();
                }
                _ => inner.unknown(["drop", "delay", "truncate", "large"]),
            }
            inner.finish();
        }
        line.finish();
    }
    if (config.delay > 0 || config.truncate > 0) && !has_drop {
        config.drop = 0;
    }
    (had_errors == context.diagnostics.has_errors()).then_some(config)
}

/// Parses how many queries there are for each that is treated so.
fn parse_amount(line: &mut Arguments<'_, '_>) -> u64 {
    if !line.more() {
        return DEFAULT_AMOUNT;
    }
    let amount = line.parse("a number, 0 or more", |text| match text.parse::<i32>() {
        Ok(amount) => u64::try_from(amount).map_err(|_| format!("illegal amount value given \"{text}\"")),
        Err(_) => Err(format!("invalid number '{text}'")),
    });
    amount.unwrap_or_default()
}

/// Parses a delay. CoreDNS does not wait for a negative one.
fn parse_delay(line: &mut Arguments<'_, '_>) -> Duration {
    let word = line.peek();
    let nanoseconds = line.parse("a duration such as 100ms", parse_duration).unwrap_or_default();
    let delay = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or_default());
    if let Some(word) = word.filter(|_| delay > MAX_DELAY) {
        line.error_expected(word, format!("delay '{}' is too long", word.text), "at most 60s");
    }
    delay
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        block.plugin(Erratic { config: self.clone(), queries: AtomicU64::new(0) });
        Ok(())
    }
}

/// The plugin.
pub struct Erratic {
    config: Config,
    /// The number of queries so far, of all workers: which queries are dropped must not depend on the worker.
    queries: AtomicU64,
}

impl Erratic {
    /// Writes the response. Types other than A and AAAA get SERVFAIL.
    fn answer(&self, exchange: &mut Exchange<'_>, is_truncated: bool) -> Step {
        let question = exchange.question();
        let (rdata, count) = match question.qtype {
            Type::A => (Rdata::A(ADDRESS), if self.config.large { LARGE } else { 1 }),
            Type::AAAA => (Rdata::Aaaa(ADDRESS_V6), 1),
            _ => return exchange.refuse(Rcode::SERVFAIL),
        };
        let (rtype, class) = (question.qtype, Class::IN);
        let reply = exchange.reply();
        reply.authoritative = true;
        reply.truncated = is_truncated;
        for _ in 0..count {
            reply.push(Record { section: Section::Answer, owner: NameRef::QUESTION, rtype, class, ttl: 0, rdata });
        }
        Step::Answered
    }
}

impl Plugin for Erratic {
    fn name(&self) -> &'static str {
        "erratic"
    }

    /// The list of CoreDNS's plugin, for every client.
    fn search_list(&self, exchange: &Exchange<'_>) -> Option<Vec<NameBuf>> {
        let list = ["a.example.org", "b.example.org", "."].map(NameBuf::from_text);
        let list: Vec<NameBuf> = list.into_iter().flatten().collect();
        exchange.question().name().is_within(list.first()?.as_name()).then_some(list)
    }

    fn explain(&self, exchange: &mut Exchange<'_>, notes: &mut ExplainNotes) -> Explained {
        notes.lines.push("drops, delays or truncates some of the queries".to_owned());
        self.answer(exchange, false).into()
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let number = self.queries.fetch_add(1, Ordering::Relaxed);
        let is_one_in = |amount: u64| amount > 0 && number.is_multiple_of(amount);
        if is_one_in(self.config.drop) {
            return Step::Drop;
        }
        let is_truncated = self.config.truncate > 0 && number & self.config.truncate == 0;
        let step = self.answer(exchange, is_truncated);
        if !is_one_in(self.config.delay) || self.config.duration.is_zero() {
            return step;
        }
        let timer = exchange.surroundings().sleep(self.config.duration);
        Step::Pending(Wait::Work(Work {
            future: Box::new(move |state: State| {
                Box::pin(async move {
                    timer.await;
                    (state, Continue::Answered)
                })
            }),
            overload: Rcode::SERVFAIL,
            plugin: "erratic",
        }))
    }

    fn unready(&self) -> Option<String> {
        // CoreDNS is ready between the third and the fifth query, to test who asks.
        let queries = self.queries.load(Ordering::Relaxed);
        (!(3..5).contains(&queries)).then(|| format!("{queries} queries so far; ready with 3 or 4"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plugins::testing::{ask, config, read};

    #[test]
    fn a_large_response_has_thirty_addresses() {
        let plugin = |lines: &str| Arc::new(Erratic { config: config(lines, parse), queries: AtomicU64::new(0) });
        let answer = |lines: &str| ask(vec![plugin(lines)], "a.example.", Type::A);
        assert_eq!(answer("erratic {\n drop 0\n}"), "NOERROR aa 192.0.2.53");
        assert_eq!(answer("erratic {\n drop 0\n large\n}").matches("192.0.2.53").count(), LARGE);
    }

    #[test]
    fn amounts_have_coredns_defaults() {
        let made = |lines: &str| {
            let Config { drop, delay, duration, truncate, large } = config(lines, parse);
            format!("{drop} {delay} {duration:?} {truncate} {large}")
        };
        assert_eq!(made("erratic"), "2 0 100ms 0 false");
        assert_eq!(made("erratic {\n drop\n}"), "2 0 100ms 0 false");
        assert_eq!(made("erratic {\n drop 3\n delay 5 1s\n}"), "3 5 1s 0 false");
        assert_eq!(made("erratic {\n delay\n large x\n}"), "0 2 100ms 0 true");
        assert_eq!(made("erratic {\n truncate 0\n}"), "2 0 100ms 0 false");
        assert_eq!(made("erratic {\n truncate 4\n drop 0\n delay 1 -1s\n}"), "0 1 0ns 4 false");
        for (lines, message) in [
            ("drop -1", "illegal amount value given \"-1\""),
            ("delay x", "invalid number 'x'"),
            ("drop 1 2", "Wrong argument count or unexpected line ending after '2'"),
            ("delay 1 2h", "delay '2h' is too long"),
            ("delay 1 soon", "time: invalid duration \"soon\""),
            ("reorder", "unknown property 'reorder'"),
        ] {
            assert_eq!(read(&format!("erratic {{\n {lines}\n}}"), parse).1, [message], "{lines}");
        }
    }
}
