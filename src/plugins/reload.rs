//! *reload*: how often the Corefile is checked for changes (CoreDNS `plugin/reload`). The check itself is in `app`.

use std::time::Duration;

use super::Context;
use super::build::{BlockOptions, ReloadTiming, Setting};
use crate::corefile::{Arguments, Directive};

/// The default interval.
const INTERVAL: Duration = Duration::from_secs(30);
/// The minimum interval.
const MIN_INTERVAL: Duration = Duration::from_secs(2);
/// The default jitter, so that replicas do not reload at the same time.
const JITTER: Duration = Duration::from_secs(15);
/// The minimum jitter, unless it is 0.
const MIN_JITTER: Duration = Duration::from_secs(1);

impl Setting for ReloadTiming {
    fn configure(&self, options: &mut BlockOptions) {
        options.reload = Some(*self);
    }
}

/// Parses the directive; the first stanza of a server block is used.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<ReloadTiming> {
    let errors = context.diagnostics.has_errors();
    let mut line = Arguments::of(stanzas.first()?, context.diagnostics);
    let mut config = ReloadTiming { interval: INTERVAL, jitter: JITTER };
    if let Some(word) = line.peek() {
        config.interval = line.duration()?;
        if config.interval < MIN_INTERVAL {
            line.error(word, format!("interval value must be greater or equal to {MIN_INTERVAL:?}"));
        }
    }
    if let Some(word) = line.peek() {
        config.jitter = line.duration()?;
        if !config.jitter.is_zero() && config.jitter < MIN_JITTER {
            line.error(word, format!("jitter value must be 0 or greater or equal to {MIN_JITTER:?}"));
        }
    }
    config.jitter = config.jitter.min(config.interval / 2);
    if let Some(property) = line.body().first() {
        line.warning(&property.name, "'reload' has no properties; this one has no effect");
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
    fn intervals_have_the_defaults_and_minima_of_coredns() {
        let seconds =
            |interval: u32, jitter: u32| ReloadTiming { interval: SECOND * interval, jitter: SECOND * jitter };
        assert_eq!(config("reload", parse), seconds(30, 15));
        assert_eq!(config("reload 10s", parse), seconds(10, 5));
        assert_eq!(config("reload 2s 1s", parse), seconds(2, 1));
        assert_eq!(config("reload 1m 0s", parse), seconds(60, 0));
        assert_eq!(read("reload 1s", parse).1, ["interval value must be greater or equal to 2s"]);
        assert_eq!(read("reload 10s 500ms", parse).1, ["jitter value must be 0 or greater or equal to 1s"]);
        assert!(read("reload 10s 1s 1s", parse).0.is_none());
        assert_eq!(seconds(30, 15).delay(0.0), SECOND * 45 / 2);
        assert_eq!(seconds(30, 15).delay(1.0), SECOND * 75 / 2);
    }
}
