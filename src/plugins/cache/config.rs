//! The lines of *cache* (CoreDNS `plugin/cache/setup.go`).

use std::time::Duration;

use crate::corefile::{Arguments, Directive, Token, parse_duration};
use crate::plugins::{Context, zones_or_block_or_none};
use crate::wire::NameBuf;

/// The default maximum TTL of answers in seconds; that of denials is half (CoreDNS `dnsutil.MaximumDefaultTTL`).
const MAX_TTL: u32 = 3_600;
/// The default minimum TTL in seconds, and the TTL of failures (CoreDNS `dnsutil.MinimalDefaultTTL`).
pub(super) const MIN_TTL: u32 = 5;
/// The default number of entries of a partition, which is rounded to 9,984.
const CAPACITY: i64 = 10_000;
/// CoreDNS divides a cache into this number of shards of equal size, each with at least [`MIN_SHARD`] entries.
const SHARDS: i64 = 256;
const MIN_SHARD: i64 = 4;
/// The maximum TTL of failures. RFC 2308 7.1: a failure "MUST NOT" be cached longer; RFC 8767 5 has the same limit for
/// retries.
const FAILURE_LIMIT: Duration = Duration::from_secs(5 * 60);

/// The configuration of the directive.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The zones whose names are cached.
    pub zones: Vec<NameBuf>,
    /// The limits for answers.
    pub success: PartitionLimits,
    /// The limits for denials and failures.
    pub denial: PartitionLimits,
    /// The TTL of failures: at most 5 minutes; zero disables caching of failures.
    pub servfail: Duration,
    /// Which entries are refreshed before they expire.
    pub prefetch: Option<Prefetch>,
    /// How expired entries are used, if at all.
    pub stale: Option<Stale>,
    /// Whether TTLs in responses remain constant.
    pub keep_ttl: bool,
}

/// The limits of a partition.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionLimits {
    /// The number of entries: a multiple of 256, at least 1,024.
    pub capacity: usize,
    /// The maximum TTL in seconds, at least 1.
    pub max: u32,
    /// The minimum TTL in seconds; `max` has precedence.
    pub min: u32,
    /// The zones whose names are not cached in this partition.
    pub except: Vec<NameBuf>,
}

/// Which entries are refreshed before they expire.
#[derive(Clone, Debug, PartialEq)]
pub struct Prefetch {
    /// The minimum number of hits, at least 1.
    pub amount: u32,
    /// The maximum time between hits.
    pub gap: Duration,
    /// The percentage of the TTL that remains when the entry is refreshed: 10–90.
    pub percentage: u8,
}

/// How expired entries are used.
#[derive(Clone, Debug, PartialEq)]
pub struct Stale {
    /// The time in seconds for which expired entries are used, at least 1.
    pub max_age: u32,
    /// Whether a client waits for a newer answer.
    pub verify: Verify,
    /// The TTL in responses.
    pub ttl: u32,
    /// The delay before another refresh after a failed one: at most 5 minutes.
    pub recheck: Duration,
    /// *serve_stale_policy prefer_positive*: an answer has precedence over a denial of the same name.
    pub prefer_positive: bool,
}

/// Whether a client waits for a newer answer than an expired one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// No; the next client gets it.
    Immediate,
    /// Up to this time, or without a limit.
    Wait(Option<Duration>),
}

impl PartitionLimits {
    fn new(max: u32) -> PartitionLimits {
        PartitionLimits { capacity: round_capacity(CAPACITY), max, min: MIN_TTL, except: Vec::new() }
    }
}

/// Rounds a number of entries as CoreDNS does.
fn round_capacity(number: i64) -> usize {
    ((number / SHARDS).max(MIN_SHARD) * SHARDS) as usize
}

/// Parses the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut line = Arguments::of(stanzas.first()?, context.diagnostics);
    let (mut success, mut denial) = (PartitionLimits::new(MAX_TTL), PartitionLimits::new(MAX_TTL / 2));
    // A number is the TTL, anything else a zone.
    if line.peek().is_some_and(|word| word.text.parse::<i64>().is_ok())
        && let Some(max) = parse_max_ttl(&mut line)
    {
        (success.max, denial.max) = (max, max);
    }
    if let Some(word) = line.peek()
        && let Ok(time) = parse_duration(&word.text)
    {
        let (text, seconds) = (&word.text, time / 1_000_000_000);
        let message = format!("'{text}' is taken for a zone, so that no other name is cached: write 'cache {seconds}'");
        line.warning(word, message);
    }
    let mut config = Config {
        zones: zones_or_block_or_none(&mut line, context.zones),
        success,
        denial,
        servfail: Duration::from_secs(u64::from(MIN_TTL)),
        prefetch: None,
        stale: None,
        keep_ttl: false,
    };
    // A repeated line changes only its own values.
    let mut prefetch = Prefetch { amount: 0, gap: Duration::from_secs(60), percentage: 10 };
    let (mut has_stale, mut prefer_positive) = (false, false);
    let mut policy: Option<&Token> = None;
    for property in line.body() {
        let mut line = line.enter(property);
        match line.name() {
            "success" => parse_limits(&mut line, &mut config.success),
            "denial" => parse_limits(&mut line, &mut config.denial),
            "prefetch" => parse_prefetch(&mut line, &mut prefetch),
            "serve_stale" => {
                has_stale = true;
                config.stale = parse_stale(&mut line);
            }
            "serve_stale_policy" => {
                if policy.is_some() {
                    line.error(&property.name, "serve_stale_policy can only be specified once");
                }
                policy = Some(&property.name);
                prefer_positive = parse_policy(&mut line);
            }
            "servfail" => config.servfail = parse_servfail(&mut line).unwrap_or(config.servfail),
            "disable" => parse_disable(&mut line, &mut config),
            "keepttl" => config.keep_ttl = true,
            _ => line.unknown([
                "success",
                "denial",
                "prefetch",
                "serve_stale",
                "serve_stale_policy",
                "servfail",
                "disable",
                "keepttl",
            ]),
        }
        line.finish();
    }
    if let Some(policy) = policy.filter(|_| !has_stale) {
        line.error_expected(policy, "serve_stale_policy requires serve_stale", "serve_stale in the same block");
    }
    line.finish();
    config.prefetch = (prefetch.amount > 0).then_some(prefetch);
    config.stale = config.stale.map(|stale| Stale { prefer_positive, ..stale });
    (errors == context.diagnostics.has_errors()).then_some(config)
}

/// Parses the next word as an integer, as Go's `strconv.Atoi` does.
fn parse_integer<'a>(line: &mut Arguments<'a, '_>, what: &str) -> Option<(i64, &'a Token)> {
    let word = line.peek();
    let number = line.parse(what, |text| text.parse().map_err(|_| format!("invalid number '{text}'")))?;
    Some((number, word?))
}

/// Parses the next word as the maximum TTL.
fn parse_max_ttl(line: &mut Arguments<'_, '_>) -> Option<u32> {
    let (number, word) = parse_integer(line, "seconds")?;
    if number <= 0 {
        line.error_expected(word, format!("cache TTL can not be zero or negative: {number}"), "at least 1");
        return None;
    }
    Some(u32::try_from(number).unwrap_or(u32::MAX))
}

/// Parses `success` and `denial`: `CAPACITY [TTL [MINTTL]]`.
fn parse_limits(line: &mut Arguments<'_, '_>, limits: &mut PartitionLimits) {
    let Some((number, _)) = parse_integer(line, "a number of entries") else { return };
    limits.capacity = round_capacity(number);
    if line.more() {
        let Some(max) = parse_max_ttl(line) else { return };
        limits.max = max;
    }
    if line.more() {
        let Some((number, word)) = parse_integer(line, "seconds") else { return };
        if number < 0 {
            line.error_expected(word, format!("cache min TTL can not be negative: {number}"), "at least 0");
            return;
        }
        limits.min = u32::try_from(number).unwrap_or(u32::MAX);
    }
    // CoreDNS ignores further words.
    for word in line.rest() {
        line.warning(word, format!("'{}' has no effect", word.text));
    }
}

/// Parses `prefetch AMOUNT [DURATION [PERCENTAGE%]]`.
fn parse_prefetch(line: &mut Arguments<'_, '_>, prefetch: &mut Prefetch) {
    let Some((number, word)) = parse_integer(line, "a number of queries") else { return };
    if number < 0 {
        line.error_expected(word, format!("prefetch amount should be positive: {number}"), "at least 0");
        return;
    }
    prefetch.amount = u32::try_from(number).unwrap_or(u32::MAX);
    if line.more() {
        let Some((gap, _)) = parse_optional_duration(line, "") else { return };
        // Every interval between queries exceeds a negative one.
        prefetch.gap = gap.unwrap_or_default();
    }
    let Some(word) = line.next_word() else { return };
    let expected = "a percentage from 10% to 90%";
    let Some(number) = word.text.strip_suffix('%') else {
        let last = word.text.chars().last().unwrap_or(' ');
        let message = format!("last character of percentage should be `%`, but is: {last:?}");
        line.error_expected(word, message, expected);
        return;
    };
    match number.parse::<i64>() {
        Ok(number @ 10..=90) => prefetch.percentage = number as u8,
        Ok(number) => {
            let message = format!("percentage should fall in range [10, 90]: {number}");
            line.error_expected(word, message, expected);
        }
        Err(_) => line.error_expected(word, format!("invalid number '{number}'"), expected),
    }
}

/// Parses the next word as a duration, `None` if it is negative; `context` is a prefix of the error.
fn parse_optional_duration<'a>(line: &mut Arguments<'a, '_>, context: &str) -> Option<(Option<Duration>, &'a Token)> {
    let word = line.peek();
    let nanoseconds = line.parse("a duration such as 5s, 500ms or 1h30m", |text| {
        parse_duration(text).map_err(|error| format!("{context}{error}"))
    })?;
    Some((u64::try_from(nanoseconds).ok().map(Duration::from_nanos), word?))
}

/// Parses the next word as a duration that is not negative.
fn parse_positive_duration<'a>(
    line: &mut Arguments<'a, '_>, context: &str, negative: &str,
) -> Option<(Duration, &'a Token)> {
    let (duration, word) = parse_optional_duration(line, context)?;
    if duration.is_none() {
        line.error(word, negative);
    }
    Some((duration?, word))
}

/// Parses `serve_stale [DURATION [immediate [TTL [RECHECK]] | verify [TIMEOUT [TTL [RECHECK]]]]]`. Returns `None` if
/// expired entries are not used.
fn parse_stale(line: &mut Arguments<'_, '_>) -> Option<Stale> {
    let mut max_age = Duration::from_secs(3_600);
    if line.more() {
        (max_age, _) = parse_positive_duration(line, "", "invalid negative duration for serve_stale")?;
    }
    let mut verify = Verify::Immediate;
    if let Some(word) = line.next_word() {
        match word.text.to_lowercase().as_str() {
            "immediate" => {}
            "verify" => verify = Verify::Wait(None),
            mode => {
                let message = format!("invalid value for serve_stale refresh mode: {mode}");
                line.error_expected(word, message, "immediate or verify");
                return None;
            }
        }
    }
    if verify != Verify::Immediate && line.more() {
        let negative = "invalid negative timeout for serve_stale verify";
        let (timeout, _) = parse_positive_duration(line, "invalid serve_stale verify timeout: ", negative)?;
        verify = Verify::Wait(Some(timeout).filter(|timeout| !timeout.is_zero()));
    }
    let (mut ttl, mut recheck) = (0, Duration::ZERO);
    if line.more() {
        ttl = parse_stale_ttl(line)?;
    }
    if line.more() {
        let negative = "invalid negative failure recheck for serve_stale";
        let (duration, word) = parse_positive_duration(line, "invalid serve_stale failure recheck: ", negative)?;
        if duration > FAILURE_LIMIT {
            line.error(word, "serve_stale failure recheck cannot exceed 5 minutes");
            return None;
        }
        recheck = duration;
    }
    let max_age = u32::try_from(max_age.as_secs()).unwrap_or(u32::MAX);
    (max_age > 0).then_some(Stale { max_age, verify, ttl, recheck, prefer_positive: false })
}

/// Parses the next word as the TTL of expired entries.
fn parse_stale_ttl(line: &mut Arguments<'_, '_>) -> Option<u32> {
    let negative = "invalid negative response TTL for serve_stale";
    let (ttl, word) = parse_positive_duration(line, "invalid serve_stale response TTL: ", negative)?;
    if ttl.subsec_nanos() != 0 {
        line.error(word, "serve_stale response TTL must be a whole number of seconds");
        return None;
    }
    let seconds = u32::try_from(ttl.as_secs()).ok();
    if seconds.is_none() {
        line.error(word, "serve_stale response TTL exceeds the DNS TTL range");
    }
    seconds
}

/// Parses `serve_stale_policy prefer_positive` and returns whether it is valid.
fn parse_policy(line: &mut Arguments<'_, '_>) -> bool {
    let Some([word]) = line.exactly::<1>("prefer_positive") else { return false };
    let is_known = word.text.eq_ignore_ascii_case("prefer_positive");
    if !is_known {
        let message = format!("invalid serve_stale_policy: {}", word.text);
        line.error_expected(word, message, "prefer_positive");
    }
    is_known
}

/// Parses `servfail DURATION`.
fn parse_servfail(line: &mut Arguments<'_, '_>) -> Option<Duration> {
    let (duration, word) = parse_positive_duration(line, "", "invalid negative ttl for servfail")?;
    if duration > FAILURE_LIMIT {
        line.error(word, "caching SERVFAIL responses over 5 minutes is not permitted");
        return None;
    }
    Some(duration)
}

/// Parses `disable success|denial [ZONES...]`; without zones the partition is disabled for all names.
fn parse_disable(line: &mut Arguments<'_, '_>, config: &mut Config) {
    let Some(partition) = line.word("success or denial") else { return };
    let limits = match partition.text.as_str() {
        "success" => &mut config.success,
        "denial" => &mut config.denial,
        _ => {
            let message = "cache type for disable must be \"success\" or \"denial\"";
            line.error_expected(partition, message, "success or denial");
            return;
        }
    };
    // CoreDNS interprets each word as a name, networks too.
    let everywhere = !line.more();
    limits.except = Vec::new();
    for word in line.rest() {
        match NameBuf::from_text(&word.text) {
            Ok(zone) => limits.except.push(zone.to_lower()),
            Err(error) => line.warning(word, format!("'{}' is ignored: {error}", word.text)),
        }
    }
    if everywhere {
        limits.except.push(crate::wire::Name::ROOT.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, n, read};

    fn stale_of(arguments: &str) -> Option<Stale> {
        config(&format!("cache {{\n serve_stale {arguments}\n}}"), parse).stale
    }

    #[test]
    fn defaults_are_coredns() {
        let limits = |max| PartitionLimits { capacity: 9_984, max, min: 5, except: Vec::new() };
        let default = Config {
            zones: vec![n("example."), n("example.org.")],
            success: limits(3_600),
            denial: limits(1_800),
            servfail: Duration::from_secs(5),
            prefetch: None,
            stale: None,
            keep_ttl: false,
        };
        assert_eq!(config("cache", parse), default);
        assert_eq!(config("cache {\n}", parse), default);
        let ten = config("cache 10 Sub.example", parse);
        assert_eq!((ten.success.max, ten.denial.max, ten.zones), (10, 10, vec![n("sub.example.")]));
        // A word that is not a number is a zone.
        assert_eq!(read("cache 10x", parse).0.expect("a configuration").zones, [n("10x.")]);
    }

    #[test]
    fn every_property_is_parsed() {
        let config_of = config(
            "cache {
                success 2000 100 0
                denial 10 20
                prefetch 5 10m 20%
                prefetch 3
                serve_stale
                serve_stale_policy Prefer_Positive
                servfail 0
                disable success
                disable denial Cluster.Local 10.0.0.0/8
                keepttl
            }",
            parse,
        );
        let success = PartitionLimits { capacity: 1_792, max: 100, min: 0, except: vec![n(".")] };
        let denial =
            PartitionLimits { capacity: 1_024, max: 20, min: 5, except: vec![n("cluster.local."), n("10.0.0.0/8.")] };
        let prefetch = Prefetch { amount: 3, gap: Duration::from_secs(600), percentage: 20 };
        assert_eq!((config_of.success, config_of.denial, config_of.prefetch), (success, denial, Some(prefetch)));
        assert_eq!((config_of.servfail, config_of.keep_ttl), (Duration::ZERO, true));
        assert!(config_of.stale.expect("serve_stale").prefer_positive);
        assert_eq!(config("cache {\n prefetch 0\n}", parse).prefetch, None);
        let (config, messages) = read("cache {\n success 1 2 3 4\n}", parse);
        assert_eq!((config.expect("a configuration").success.min, messages), (3, vec!["'4' has no effect".to_owned()]));
    }

    #[test]
    fn serve_stale_has_two_modes() {
        let seconds = Duration::from_secs;
        let immediate = Stale {
            max_age: 3_600,
            verify: Verify::Immediate,
            ttl: 0,
            recheck: Duration::ZERO,
            prefer_positive: false,
        };
        assert_eq!(stale_of(""), Some(immediate.clone()));
        assert_eq!(stale_of("0"), None);
        assert_eq!(stale_of("20m Immediate"), Some(Stale { max_age: 1_200, ..immediate.clone() }));
        let timed = Stale { ttl: 30, recheck: seconds(10), ..immediate };
        assert_eq!(stale_of("1h immediate 30s 10s"), Some(timed.clone()));
        let wait = |timeout| Stale { verify: Verify::Wait(timeout), ..timed.clone() };
        assert_eq!(stale_of("1h verify 0 30s 10s"), Some(wait(None)));
        assert_eq!(stale_of("1h verify 100ms 30s 10s"), Some(wait(Some(Duration::from_millis(100)))));
        let plain = Stale { ttl: 0, recheck: Duration::ZERO, ..wait(None) };
        assert_eq!(stale_of("1h verify"), Some(plain));
    }

    #[test]
    fn errors_of_coredns_are_errors() {
        for (lines, message) in [
            ("cache 0", "cache TTL can not be zero or negative: 0"),
            ("cache -1", "cache TTL can not be zero or negative: -1"),
            ("cache {\n succes\n}", "unknown property 'succes' (success?)"),
            ("cache {\n success\n}", "Wrong argument count or unexpected line ending after 'success'"),
            ("cache {\n success a\n}", "invalid number 'a'"),
            ("cache {\n success 1 0\n}", "cache TTL can not be zero or negative: 0"),
            ("cache {\n denial 1 1 -1\n}", "cache min TTL can not be negative: -1"),
            ("cache {\n prefetch\n}", "Wrong argument count or unexpected line ending after 'prefetch'"),
            ("cache {\n prefetch -1\n}", "prefetch amount should be positive: -1"),
            ("cache {\n prefetch 1 1\n}", "time: missing unit in duration \"1\""),
            ("cache {\n prefetch 1 1m 10\n}", "last character of percentage should be `%`, but is: '0'"),
            ("cache {\n prefetch 1 1m 9%\n}", "percentage should fall in range [10, 90]: 9"),
            ("cache {\n prefetch 1 1m 91%\n}", "percentage should fall in range [10, 90]: 91"),
            ("cache {\n prefetch 1 1m x%\n}", "invalid number 'x'"),
            ("cache {\n prefetch 1 1m 10% 1\n}", "Wrong argument count or unexpected line ending after '1'"),
            ("cache {\n serve_stale -1s\n}", "invalid negative duration for serve_stale"),
            ("cache {\n serve_stale 1h never\n}", "invalid value for serve_stale refresh mode: never"),
            ("cache {\n serve_stale 1h verify -1s\n}", "invalid negative timeout for serve_stale verify"),
            (
                "cache {\n serve_stale 1h verify x\n}",
                "invalid serve_stale verify timeout: time: invalid duration \"x\"",
            ),
            ("cache {\n serve_stale 1h immediate -1s\n}", "invalid negative response TTL for serve_stale"),
            (
                "cache {\n serve_stale 1h immediate 1500ms\n}",
                "serve_stale response TTL must be a whole number of seconds",
            ),
            ("cache {\n serve_stale 1h immediate 1200000h\n}", "serve_stale response TTL exceeds the DNS TTL range"),
            (
                "cache {\n serve_stale 1h immediate 30s 30s 1s\n}",
                "Wrong argument count or unexpected line ending after '1s'",
            ),
            ("cache {\n serve_stale 1h verify 0 30s 301s\n}", "serve_stale failure recheck cannot exceed 5 minutes"),
            (
                "cache {\n serve_stale 1h verify 0 30s 30s 1s\n}",
                "Wrong argument count or unexpected line ending after '1s'",
            ),
            ("cache {\n serve_stale\n serve_stale_policy x\n}", "invalid serve_stale_policy: x"),
            ("cache {\n serve_stale_policy prefer_positive\n}", "serve_stale_policy requires serve_stale"),
            (
                "cache {\n serve_stale\n serve_stale_policy prefer_positive\n serve_stale_policy prefer_positive\n}",
                "serve_stale_policy can only be specified once",
            ),
            ("cache {\n servfail\n}", "Wrong argument count or unexpected line ending after 'servfail'"),
            ("cache {\n servfail -1s\n}", "invalid negative ttl for servfail"),
            ("cache {\n servfail 301s\n}", "caching SERVFAIL responses over 5 minutes is not permitted"),
            ("cache {\n disable\n}", "Wrong argument count or unexpected line ending after 'disable'"),
            ("cache {\n disable all\n}", "cache type for disable must be \"success\" or \"denial\""),
            ("cache {\n keepttl x\n}", "Wrong argument count or unexpected line ending after 'x'"),
        ] {
            let (config, messages) = read(lines, parse);
            assert_eq!(config, None, "{lines}");
            assert_eq!(messages[0], message, "{lines}");
        }
    }
}
