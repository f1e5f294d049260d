//! *reload*: looks whether the Corefile has changed (CoreDNS `plugin/reload`). The work is the app's.

use std::time::Duration;

use super::Context;
use super::build::{BlockOptions, ReloadTiming, Setting};
use crate::corefile::{Arguments, Directive};

/// How often the file is looked at, without an argument.
const INTERVAL: Duration = Duration::from_secs(30);
/// The least that may be written.
const LEAST_INTERVAL: Duration = Duration::from_secs(2);
/// How much the interval varies, so that replicas don't reload together.
const JITTER: Duration = Duration::from_secs(15);
/// The least that may be written, but for none.
const LEAST_JITTER: Duration = Duration::from_secs(1);

impl Setting for ReloadTiming {
    fn configure(&self, options: &mut BlockOptions) {
        options.reload = Some(*self);
    }
}

/// Reads the directive; the first of several counts.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<ReloadTiming> {
    let errors = context.diagnostics.has_errors();
    let mut line = Arguments::of(stanzas.first()?, context.diagnostics);
    let mut config = ReloadTiming { interval: INTERVAL, jitter: JITTER };
    if let Some(word) = line.peek() {
        config.interval = line.duration()?;
        if config.interval < LEAST_INTERVAL {
            line.error(word, format!("interval value must be greater or equal to {LEAST_INTERVAL:?}"));
        }
    }
    if let Some(word) = line.peek() {
        config.jitter = line.duration()?;
        if !config.jitter.is_zero() && config.jitter < LEAST_JITTER {
            line.error(word, format!("jitter value must be 0 or greater or equal to {LEAST_JITTER:?}"));
        }
    }
    config.jitter = config.jitter.min(config.interval / 2);
    if let Some(property) = line.body().first() {
        line.warning(&property.name, "'reload' has no properties; they do nothing");
    }
    line.finish();
    (errors == context.diagnostics.has_errors()).then_some(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, read};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn intervals_have_coredns_defaults_and_bounds() {
        let made = |interval: u32, jitter: u32| ReloadTiming { interval: SECOND * interval, jitter: SECOND * jitter };
        assert_eq!(config("reload", parse), made(30, 15));
        assert_eq!(config("reload 10s", parse), made(10, 5));
        assert_eq!(config("reload 2s 1s", parse), made(2, 1));
        assert_eq!(config("reload 1m 0s", parse), made(60, 0));
        assert_eq!(read("reload 1s", parse).1, ["interval value must be greater or equal to 2s"]);
        assert_eq!(read("reload 10s 500ms", parse).1, ["jitter value must be 0 or greater or equal to 1s"]);
        assert!(read("reload 10s 1s 1s", parse).0.is_none());
        let (least, most) = (made(30, 15).next(0.0), made(30, 15).next(1.0));
        assert_eq!((least, most), (SECOND * 45 / 2, SECOND * 75 / 2));
    }
}
