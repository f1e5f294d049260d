//! The lines of *cache* (CoreDNS `plugin/cache/setup.go`).

use std::time::Duration;

use crate::corefile::{Arguments, Directive, Token, parse_duration};
use crate::plugins::{Context, zones_or_block_or_none};
use crate::wire::NameBuf;

/// The longest that an answer is kept; a denial half of it (CoreDNS `dnsutil.MaximumDefaultTTL`).
const MAX_TTL: u32 = 3_600;
/// The shortest that an answer is kept, and how long a failure is (CoreDNS `dnsutil.MinimalDefaultTTL`).
pub(super) const MIN_TTL: u32 = 5;
/// How many items of a sort there may be; 9,984 come of it.
const CAPACITY: i64 = 10_000;
/// CoreDNS divides a cache into so many parts of equal size, each of at least [`SMALLEST`].
const PARTS: i64 = 256;
const SMALLEST: i64 = 4;
/// RFC 2308 7.1: a failure "MUST NOT" be kept for longer; RFC 8767 5 says the same of not asking again.
const FAILURE_LIMIT: Duration = Duration::from_secs(5 * 60);

/// What the directive says.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Names in these zones are kept.
    pub zones: Vec<NameBuf>,
    /// Answers.
    pub success: Limits,
    /// Denials, and failures.
    pub denial: Limits,
    /// How long a failure is kept: at most 5 minutes, zero is not at all.
    pub servfail: Duration,
    /// Which items are renewed before they end.
    pub prefetch: Option<Prefetch>,
    /// What is done with items that have ended, where they are of use.
    pub stale: Option<Stale>,
    /// TTLs do not go down.
    pub keep_ttl: bool,
}

/// How items of a sort are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// How many: a multiple of 256, at least 1,024.
    pub capacity: usize,
    /// The longest time in seconds, at least 1.
    pub max: u32,
    /// The shortest time in seconds; `max` wins.
    pub min: u32,
    /// Those of names in these zones are not kept.
    pub except: Vec<NameBuf>,
}

/// Which items are renewed before they end.
#[derive(Clone, Debug, PartialEq)]
pub struct Prefetch {
    /// Asked for so often, at least once,
    pub amount: u32,
    /// without a pause of this length,
    pub gap: Duration,
    /// once so much of their time is left, in per cent: 10–90.
    pub percentage: u8,
}

/// What is done with items that have ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Stale {
    /// For so many seconds they are of use, at least 1.
    pub up_to: u32,
    /// Whether a client waits for a newer answer.
    pub verify: Verify,
    /// The TTL that they are given with.
    pub ttl: u32,
    /// For how long nobody is asked again after a failure: at most 5 minutes.
    pub recheck: Duration,
    /// *serve_stale_policy prefer_positive*: an answer goes before a denial of the same name.
    pub prefer_positive: bool,
}

/// Whether a client waits for a newer answer than the one that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// No, the next one gets it.
    Immediate,
    /// For so long; without an end where there is none.
    Wait(Option<Duration>),
}

impl Limits {
    fn new(max: u32) -> Limits {
        Limits { capacity: capacity(CAPACITY), max, min: MIN_TTL, except: Vec::new() }
    }
}

/// The capacity that CoreDNS makes of a number.
fn capacity(number: i64) -> usize {
    ((number / PARTS).max(SMALLEST) * PARTS) as usize
}

/// Reads the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut line = Arguments::of(stanzas.first()?, context.diagnostics);
    let (mut success, mut denial) = (Limits::new(MAX_TTL), Limits::new(MAX_TTL / 2));
    // A number is the TTL, anything else a zone.
    if line.peek().is_some_and(|word| word.text.parse::<i64>().is_ok())
        && let Some(max) = max_ttl(&mut line)
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
    // Another line of it says what is different.
    let mut prefetch = Prefetch { amount: 0, gap: Duration::from_secs(60), percentage: 10 };
    let (mut has_stale, mut prefer_positive) = (false, false);
    let mut policy: Option<&Token> = None;
    for property in line.body() {
        let mut line = line.enter(property);
        match line.name() {
            "success" => limits(&mut line, &mut config.success),
            "denial" => limits(&mut line, &mut config.denial),
            "prefetch" => read_prefetch(&mut line, &mut prefetch),
            "serve_stale" => {
                has_stale = true;
                config.stale = stale(&mut line);
            }
            "serve_stale_policy" => {
                if policy.is_some() {
                    line.error(&property.name, "serve_stale_policy can only be specified once");
                }
                policy = Some(&property.name);
                prefer_positive = read_policy(&mut line);
            }
            "servfail" => config.servfail = servfail(&mut line).unwrap_or(config.servfail),
            "disable" => disable(&mut line, &mut config),
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
        line.error_expected(policy, "serve_stale_policy requires serve_stale", "serve_stale beside it");
    }
    line.finish();
    config.prefetch = (prefetch.amount > 0).then_some(prefetch);
    config.stale = config.stale.map(|stale| Stale { prefer_positive, ..stale });
    (errors == context.diagnostics.has_errors()).then_some(config)
}

/// The next word as a whole number, as Go's `strconv.Atoi` reads it.
fn integer<'a>(line: &mut Arguments<'a, '_>, what: &str) -> Option<(i64, &'a Token)> {
    let word = line.peek();
    let number = line.parse(what, |text| text.parse().map_err(|_| format!("invalid number '{text}'")))?;
    Some((number, word?))
}

/// The next word as the longest time.
fn max_ttl(line: &mut Arguments<'_, '_>) -> Option<u32> {
    let (number, word) = integer(line, "seconds")?;
    if number <= 0 {
        line.error_expected(word, format!("cache TTL can not be zero or negative: {number}"), "at least 1");
        return None;
    }
    Some(u32::try_from(number).unwrap_or(u32::MAX))
}

/// `success` and `denial`: `CAPACITY [TTL [MINTTL]]`.
fn limits(line: &mut Arguments<'_, '_>, limits: &mut Limits) {
    let Some((number, _)) = integer(line, "how many answers are kept") else { return };
    limits.capacity = capacity(number);
    if line.more() {
        let Some(max) = max_ttl(line) else { return };
        limits.max = max;
    }
    if line.more() {
        let Some((number, word)) = integer(line, "seconds") else { return };
        if number < 0 {
            line.error_expected(word, format!("cache min TTL can not be negative: {number}"), "at least 0");
            return;
        }
        limits.min = u32::try_from(number).unwrap_or(u32::MAX);
    }
    // CoreDNS passes over what follows.
    for word in line.rest() {
        line.warning(word, format!("'{}' has no effect", word.text));
    }
}

/// `prefetch AMOUNT [DURATION [PERCENTAGE%]]`.
fn read_prefetch(line: &mut Arguments<'_, '_>, prefetch: &mut Prefetch) {
    let Some((number, word)) = integer(line, "how often a name is asked for") else { return };
    if number < 0 {
        line.error_expected(word, format!("prefetch amount should be positive: {number}"), "at least 0");
        return;
    }
    prefetch.amount = u32::try_from(number).unwrap_or(u32::MAX);
    if line.more() {
        let Some((gap, _)) = duration(line, "") else { return };
        // Every query comes after a pause that is longer than a negative one.
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

/// The next word as a duration, `None` within where it is negative; `context` stands before an error's text.
fn duration<'a>(line: &mut Arguments<'a, '_>, context: &str) -> Option<(Option<Duration>, &'a Token)> {
    let word = line.peek();
    let nanoseconds = line.parse("a duration such as 5s, 500ms or 1h30m", |text| {
        parse_duration(text).map_err(|error| format!("{context}{error}"))
    })?;
    Some((u64::try_from(nanoseconds).ok().map(Duration::from_nanos), word?))
}

/// The next word as a duration that is not negative.
fn positive<'a>(line: &mut Arguments<'a, '_>, context: &str, negative: &str) -> Option<(Duration, &'a Token)> {
    let (duration, word) = duration(line, context)?;
    if duration.is_none() {
        line.error(word, negative);
    }
    Some((duration?, word))
}

/// `serve_stale [DURATION [immediate [TTL [RECHECK]] | verify [TIMEOUT [TTL [RECHECK]]]]]`; `None` where items are of
/// no use once they have ended.
fn stale(line: &mut Arguments<'_, '_>) -> Option<Stale> {
    let mut up_to = Duration::from_secs(3_600);
    if line.more() {
        (up_to, _) = positive(line, "", "invalid negative duration for serve_stale")?;
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
        let (timeout, _) = positive(line, "invalid serve_stale verify timeout: ", negative)?;
        verify = Verify::Wait(Some(timeout).filter(|timeout| !timeout.is_zero()));
    }
    let (mut ttl, mut recheck) = (0, Duration::ZERO);
    if line.more() {
        ttl = stale_ttl(line)?;
    }
    if line.more() {
        let negative = "invalid negative failure recheck for serve_stale";
        let (duration, word) = positive(line, "invalid serve_stale failure recheck: ", negative)?;
        if duration > FAILURE_LIMIT {
            line.error(word, "serve_stale failure recheck cannot exceed 5 minutes");
            return None;
        }
        recheck = duration;
    }
    let up_to = u32::try_from(up_to.as_secs()).unwrap_or(u32::MAX);
    (up_to > 0).then_some(Stale { up_to, verify, ttl, recheck, prefer_positive: false })
}

/// The next word as the TTL of what has ended.
fn stale_ttl(line: &mut Arguments<'_, '_>) -> Option<u32> {
    let negative = "invalid negative response TTL for serve_stale";
    let (ttl, word) = positive(line, "invalid serve_stale response TTL: ", negative)?;
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

/// `serve_stale_policy prefer_positive`; says whether it is that.
fn read_policy(line: &mut Arguments<'_, '_>) -> bool {
    let Some([word]) = line.exactly::<1>("prefer_positive") else { return false };
    let is_known = word.text.eq_ignore_ascii_case("prefer_positive");
    if !is_known {
        let message = format!("invalid serve_stale_policy: {}", word.text);
        line.error_expected(word, message, "prefer_positive");
    }
    is_known
}

/// `servfail DURATION`.
fn servfail(line: &mut Arguments<'_, '_>) -> Option<Duration> {
    let (duration, word) = positive(line, "", "invalid negative ttl for servfail")?;
    if duration > FAILURE_LIMIT {
        line.error(word, "caching SERVFAIL responses over 5 minutes is not permitted");
        return None;
    }
    Some(duration)
}

/// `disable success|denial [ZONES...]`: without zones everywhere.
fn disable(line: &mut Arguments<'_, '_>, config: &mut Config) {
    let Some(sort) = line.word("success or denial") else { return };
    let limits = match sort.text.as_str() {
        "success" => &mut config.success,
        "denial" => &mut config.denial,
        _ => {
            let message = "cache type for disable must be \"success\" or \"denial\"";
            line.error_expected(sort, message, "success or denial");
            return;
        }
    };
    // CoreDNS takes each word for a name as it stands, networks too.
    let everywhere = !line.more();
    limits.except = Vec::new();
    for word in line.rest() {
        match NameBuf::from_text(&word.text) {
            Ok(zone) => limits.except.push(zone.to_lower()),
            Err(error) => line.warning(word, format!("'{}' is left away: {error}", word.text)),
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
        let limits = |max| Limits { capacity: 9_984, max, min: 5, except: Vec::new() };
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
        // What is no number is a zone.
        assert_eq!(config("cache 10x", parse).zones, [n("10x.")]);
    }

    #[test]
    fn every_property_is_read() {
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
        let success = Limits { capacity: 1_792, max: 100, min: 0, except: vec![n(".")] };
        let denial = Limits { capacity: 1_024, max: 20, min: 5, except: vec![n("cluster.local."), n("10.0.0.0/8.")] };
        let prefetch = Prefetch { amount: 3, gap: Duration::from_secs(600), percentage: 20 };
        assert_eq!((config_of.success, config_of.denial, config_of.prefetch), (success, denial, Some(prefetch)));
        assert_eq!((config_of.servfail, config_of.keep_ttl), (Duration::ZERO, true));
        assert!(config_of.stale.expect("serve_stale").prefer_positive);
        assert_eq!(config("cache {\n prefetch 0\n}", parse).prefetch, None);
        let (passed, said) = read("cache {\n success 1 2 3 4\n}", parse);
        assert_eq!((passed.expect("a configuration").success.min, said), (3, vec!["'4' has no effect".to_owned()]));
    }

    #[test]
    fn serve_stale_has_two_modes() {
        let seconds = Duration::from_secs;
        let immediate =
            Stale { up_to: 3_600, verify: Verify::Immediate, ttl: 0, recheck: Duration::ZERO, prefer_positive: false };
        assert_eq!(stale_of(""), Some(immediate.clone()));
        assert_eq!(stale_of("0"), None);
        assert_eq!(stale_of("20m Immediate"), Some(Stale { up_to: 1_200, ..immediate.clone() }));
        let timed = Stale { ttl: 30, recheck: seconds(10), ..immediate };
        assert_eq!(stale_of("1h immediate 30s 10s"), Some(timed.clone()));
        let wait = |timeout| Stale { verify: Verify::Wait(timeout), ..timed.clone() };
        assert_eq!(stale_of("1h verify 0 30s 10s"), Some(wait(None)));
        assert_eq!(stale_of("1h verify 100ms 30s 10s"), Some(wait(Some(Duration::from_millis(100)))));
        let plain = Stale { ttl: 0, recheck: Duration::ZERO, ..wait(None) };
        assert_eq!(stale_of("1h verify"), Some(plain));
    }

    #[test]
    fn what_coredns_refuses_is_refused() {
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
            let (config, said) = read(lines, parse);
            assert_eq!(config, None, "{lines}");
            assert_eq!(said[0], message, "{lines}");
        }
    }
}
