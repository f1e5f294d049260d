//! *forward*: forwards queries for external names to upstreams (CoreDNS `plugin/forward`).
//!
//! The plugin decides which names are forwarded, and follows the files that name upstreams. The choice of an upstream
//! and the exchange with it are the subject of [`crate::upstream`] and of the UDP workers.

mod address;
mod config;
mod resolve;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use crate::chain::{
    Exchange, ExplainNotes, Explained, Failure, Plugin, Step, TraceDenial, UpstreamQuery, UpstreamTap, Wait,
};
use crate::files::{FileError, FollowedFile, Look, MAX_RESOLV_CONF, ResolvConf};
use crate::plugins::build::{BlockBuilder, BlockOptions, BuildError, Chore, Setting};
use crate::upstream::{
    AttemptTap, Dispatcher, Error, Group, MAX_UPSTREAMS, TappedAttempt, Trust, TrustError, Upstream, UpstreamConfig,
    UpstreamRegistry,
};
use crate::wire::{NameBuf, Question, Rcode};
use resolve::ResolveError;

pub use address::{Target, To};
pub use config::{Config, Stanzas, parse};

/// The interval at which files that name upstreams are checked.
const FILE_INTERVAL: Duration = Duration::from_secs(2);

impl Setting for Stanzas {
    fn configure(&self, options: &mut BlockOptions) {
        options.answers_other_classes = true;
    }

    fn ended_zones(&self) -> Vec<NameBuf> {
        self.0.iter().filter(|config| config.answers_all()).map(|config| config.from.clone()).collect()
    }

    fn check(&self) -> Vec<BuildError> {
        self.0.iter().filter_map(|config| config.check_trust().err().map(BuildError)).collect()
    }

    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let resources = block.resources();
        for (at, config) in self.0.iter().enumerate() {
            let has_next = at + 1 < self.0.len();
            let (plugin, follower) =
                Forward::new(config, &resources.upstreams, resources.dispatcher.clone(), has_next)?;
            let plugin = Forward { taps: block.upstream_taps(), ..plugin };
            if let Some(follower) = follower {
                let run = Box::new(move |now| follower.refresh(now));
                block.chore(Chore { every: FILE_INTERVAL, run, stop: None });
            }
            block.plugin(plugin);
        }
        Ok(())
    }
}

/// The plugin of a stanza.
pub struct Forward {
    from: NameBuf,
    except: Vec<NameBuf>,
    group: Arc<Group>,
    next: Vec<Rcode>,
    next_on_nodata: bool,
    /// The next plugin is a *forward* too.
    has_next: bool,
    /// Observers of attempts.
    taps: Vec<Arc<dyn UpstreamTap>>,
}

/// The upstream that a query was sent to last, for the label `forward/upstream` of *metadata*.
#[derive(Default)]
struct LastUpstream(Mutex<Option<Arc<str>>>);

/// Follows the files of a stanza, and replaces its upstreams when a file changes.
pub struct FileFollower {
    config: Config,
    registry: Arc<UpstreamRegistry>,
    group: Arc<Group>,
    /// Accessed by a timer only.
    destinations: Mutex<Vec<Destination>>,
}

/// The servers that a destination of a stanza stands for.
struct Destination {
    /// The servers. For a file, the last ones that it named.
    targets: Vec<Target>,
    file: Option<FollowedFile>,
    /// A warning has been logged that the file cannot be used now.
    is_reported: bool,
}

impl Forward {
    /// Creates the plugin of a stanza and, if the stanza has files, their follower. `has_next` is true if the next
    /// plugin is a *forward* too.
    ///
    /// Looks up hosts, which may block for some seconds.
    pub fn new(
        config: &Config, registry: &Arc<UpstreamRegistry>, dispatcher: Dispatcher, has_next: bool,
    ) -> Result<(Forward, Option<FileFollower>), String> {
        config.check_trust()?;
        let destinations: Result<Vec<_>, _> = config.to.iter().map(|to| Destination::new(to, config)).collect();
        let destinations = destinations.map_err(|error| error.to_string())?;
        let upstreams = upstreams(config, registry, &destinations).map_err(|error| error.to_string())?;
        let counts = Box::new(registry.metrics().clone());
        let group = Arc::new(Group::new(upstreams, config.rules.clone(), dispatcher, counts));
        let has_files = destinations.iter().any(|destination| destination.file.is_some());
        let follower = has_files.then(|| FileFollower {
            config: config.clone(),
            registry: registry.clone(),
            group: group.clone(),
            destinations: Mutex::new(destinations),
        });
        let Config { from, except, next, next_on_nodata, .. } = config.clone();
        Ok((Forward { from, except, group, next, next_on_nodata, has_next, taps: Vec::new() }, follower))
    }

    /// Returns whether the plugin forwards this question (CoreDNS `Forward.match`).
    fn is_forwarded(&self, question: &Question) -> bool {
        let name = question.name();
        let from = self.from.as_name();
        if !from.is_root() && !name.is_within(from) {
            return false;
        }
        self.except.is_empty()
            || name.eq_ignore_case(from)
            || !self.except.iter().any(|except| name.is_within(except.as_name()))
    }
}

impl Forward {
    /// Returns the observers of the attempts of a query. Most queries have none.
    fn taps_of(&self, exchange: &mut Exchange<'_>) -> Vec<Box<dyn AttemptTap>> {
        let mut taps: Vec<_> = self.taps.iter().filter_map(|tap| tap.begin(exchange)).collect();
        if exchange.has_metadata() && exchange.depth() == 0 && exchange.state.notes.get::<LastUpstream>().is_none() {
            let last = Arc::new(LastUpstream::default());
            exchange.state.notes.add(last.clone());
            taps.push(Box::new(last));
        }
        taps
    }
}

impl AttemptTap for Arc<LastUpstream> {
    fn sent(&self, attempt: &TappedAttempt<'_>, _query: &[u8]) {
        *self.0.lock() = Some(attempt.upstream.label.clone());
    }

    fn ended(&self, attempt: &TappedAttempt<'_>, response: Option<&[u8]>, _now: Instant) {
        if response.is_some() {
            *self.0.lock() = Some(attempt.upstream.label.clone());
        }
    }
}

impl Plugin for Forward {
    fn name(&self) -> &'static str {
        "forward"
    }

    fn explain(&self, exchange: &mut Exchange<'_>, notes: &mut ExplainNotes) -> Explained {
        if !self.is_forwarded(exchange.question()) {
            if exchange.question().name().is_within(self.from.as_name()) {
                notes.lines.push(format!("does not forward the name: 'except' of zone {} has it", self.from));
            }
            return Explained::Next;
        }
        let (upstreams, max_fails) = (self.group.upstreams(), self.group.rules.max_fails);
        let mut down = Vec::new();
        let count = match upstreams.len() {
            1 => "1 upstream".to_owned(),
            count => format!("{count} upstreams, policy {}", self.group.rules.policy.name()),
        };
        notes.lines.push(format!("forwards zone {} to {count}", self.from));
        for upstream in upstreams.iter() {
            let fails = upstream.fails.load(std::sync::atomic::Ordering::Relaxed);
            let is_down = max_fails > 0 && fails > max_fails;
            let health = match fails {
                0 => "no failed health check".to_owned(),
                1 => "1 failed health check".to_owned(),
                _ => format!("{fails} failed health checks"),
            };
            let state = match fails {
                _ if is_down => format!("down, {health}"),
                // A dry run sends no query.
                0 if !upstream.driver.has_answered() => "state not known, it has answered no query yet".to_owned(),
                _ => format!("up, {health}"),
            };
            notes.lines.push(format!("upstream {} ({}): {state}", upstream.label, upstream.transport.name()));
            if is_down {
                down.push(format!("{} ({health})", upstream.label));
            }
        }
        if down.len() == upstreams.len() {
            let text = match &down[..] {
                [] => format!("the stanza 'forward {}' has no upstream", self.from),
                _ => format!("every upstream of 'forward {}' is down: {}", self.from, down.join(", ")),
            };
            notes.denial = Some(TraceDenial { reason: "upstreams-down".to_owned(), text, nearest: Vec::new() });
        }
        Explained::Upstream
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        if !self.is_forwarded(exchange.question()) {
            return Step::Next;
        }
        let transport = exchange.client.transport.forwarded_over();
        let change = exchange.state.query_change();
        match self.group.begin(exchange.client.remote.ip(), transport, exchange.now) {
            Ok(attempts) => {
                let mut attempts = attempts.ending_at(exchange.deadline());
                if !self.taps.is_empty() || exchange.has_metadata() {
                    attempts = attempts.tapped_by(self.taps_of(exchange));
                }
                Step::Pending(Wait::Upstream(UpstreamQuery { attempts, change }))
            }
            Err(error) => exchange.fail(error.rcode(), Failure::Upstream(error)),
        }
    }

    fn answered(&self, exchange: &mut Exchange<'_>, outcome: Result<(), Error>) -> Step {
        match outcome {
            Ok(()) => {
                let reply = &exchange.state.reply;
                let is_nodata = self.next_on_nodata && reply.rcode == Rcode::NOERROR && !reply.has_answer();
                if self.has_next && (is_nodata || self.next.contains(&reply.rcode)) {
                    exchange.state.reply.clear();
                    return Step::Next;
                }
                Step::Answered
            }
            Err(error) => exchange.fail(error.rcode(), Failure::Upstream(error)),
        }
    }

    fn metadata(&self, exchange: &Exchange<'_>, label: &str) -> Option<String> {
        match label {
            "forward/upstream" => Some(exchange.state.notes.get::<LastUpstream>()?.0.lock().as_ref()?.to_string()),
            _ => None,
        }
    }
}

impl FileFollower {
    /// Checks whether files have changed, and uses the servers that they name now. Returns whether a file is being
    /// written, so that the next check should come soon ([`crate::files::SOON`]). `now` is the time of day.
    pub fn refresh(&self, now: SystemTime) -> bool {
        let mut destinations = self.destinations.lock();
        // Not `any`, which would stop at the first change and leave the other files for the next time.
        let results: Vec<Refresh> = destinations.iter_mut().map(|destination| destination.refresh(now)).collect();
        if results.contains(&Refresh::Changed) {
            match upstreams(&self.config, &self.registry, &destinations) {
                Ok(upstreams) => {
                    let servers: Vec<_> = upstreams.iter().map(|upstream| upstream.label.to_string()).collect();
                    tracing::info!(plugin = "forward", zone = %self.config.from, ?servers, "a file names new upstreams");
                    self.group.replace(upstreams);
                }
                Err(error) => {
                    tracing::warn!(plugin = "forward", %error, "cannot use the new upstreams, the previous ones stay");
                }
            }
        }
        results.contains(&Refresh::Unsettled)
    }
}

/// Why the servers of a destination are unknown.
#[derive(Debug, thiserror::Error)]
enum DestinationFailure {
    #[error("cannot read {path}: {source}")]
    File { path: String, source: FileError },
    #[error(transparent)]
    Host(#[from] ResolveError),
}

/// The result of [`Destination::refresh`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refresh {
    Unchanged,
    Unsettled,
    Changed,
}

impl Destination {
    /// Reads a file, or looks up a host, which may block for some seconds.
    fn new(to: &To, config: &Config) -> Result<Destination, DestinationFailure> {
        let mut destination = Destination { targets: Vec::new(), file: None, is_reported: false };
        match to {
            To::Server(target) => destination.targets.push(target.clone()),
            To::File(path) => {
                let mut file = FollowedFile::new_polled(path.clone(), MAX_RESOLV_CONF);
                match file.look(SystemTime::now()) {
                    Ok(Look::Changed(bytes)) => destination.update(&bytes, &path.display().to_string()),
                    Ok(Look::Unchanged | Look::Unsettled) => false,
                    Err(source) => {
                        return Err(DestinationFailure::File { path: path.display().to_string(), source });
                    }
                };
                destination.file = Some(file);
            }
            To::Host { name, port, transport, server_name } => {
                let target = |ip| Target {
                    address: (ip, *port).into(),
                    transport: *transport,
                    server_name: server_name.clone(),
                };
                destination.targets = resolve::addresses(name, &config.resolvers)?.into_iter().map(target).collect();
            }
        }
        Ok(destination)
    }

    /// Uses the servers that a file names. Returns whether they have changed. If the file names none, because it is
    /// about to be written or by error, the previous servers stay in use.
    fn update(&mut self, bytes: &[u8], path: &str) -> bool {
        let ResolvConf { servers, ignored, .. } = ResolvConf::parse(bytes);
        if !ignored.is_empty() {
            let ignored = ignored.join(", ");
            tracing::warn!(plugin = "forward", "{path}: invalid server addresses are ignored: {ignored}");
        }
        if servers.is_empty() {
            tracing::warn!(plugin = "forward", "{path} names no server{}", self.consequence());
            self.is_reported = true;
            return false;
        }
        self.is_reported = false;
        let targets: Vec<Target> = servers.into_iter().map(Target::plain).collect();
        let has_changed = self.targets != targets;
        self.targets = targets;
        has_changed
    }

    /// Returns the end of a warning about an unusable file.
    fn consequence(&self) -> &'static str {
        if self.targets.is_empty() { "" } else { "; the servers that it named last stay in use" }
    }

    /// Reads the file of the destination if it has changed.
    fn refresh(&mut self, now: SystemTime) -> Refresh {
        let Some(file) = &mut self.file else { return Refresh::Unchanged };
        let path = file.path().display().to_string();
        match file.look(now) {
            Ok(Look::Unchanged) => Refresh::Unchanged,
            Ok(Look::Unsettled) => Refresh::Unsettled,
            Ok(Look::Changed(bytes)) if self.update(&bytes, &path) => Refresh::Changed,
            Ok(Look::Changed(_)) => Refresh::Unchanged,
            Err(error) => {
                if !std::mem::replace(&mut self.is_reported, true) {
                    tracing::warn!(plugin = "forward", "cannot read {path}: {error}{}", self.consequence());
                }
                Refresh::Unchanged
            }
        }
    }
}

/// Returns the upstreams of a stanza, without duplicates, at most [`MAX_UPSTREAMS`].
fn upstreams(
    config: &Config, registry: &UpstreamRegistry, destinations: &[Destination],
) -> Result<Vec<Arc<Upstream>>, TrustError> {
    let mut targets: Vec<&Target> = Vec::new();
    for target in destinations.iter().flat_map(|destination| &destination.targets) {
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    if targets.len() > MAX_UPSTREAMS {
        let zone = &config.from;
        let count = targets.len();
        tracing::warn!(plugin = "forward", %zone, "{count} servers, only the first {MAX_UPSTREAMS} are used");
        targets.truncate(MAX_UPSTREAMS);
    }
    let upstream = |target: &&Target| {
        let server_name = target.server_name.clone().or_else(|| config.trust.server_name.clone());
        registry.upstream(&UpstreamConfig {
            address: target.address,
            transport: target.transport,
            source: config.source.filter(|source| source.is_ipv4() == target.address.is_ipv4()),
            reuse: config.reuse,
            check: config.check.clone(),
            trust: Trust { server_name, ..config.trust.clone() },
            get: config.get,
        })
    };
    targets.iter().map(upstream).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plugins::testing::{self, Folder, until_settled};

    /// The file may be empty, half written or removed.
    #[test]
    fn servers_stay_when_the_file_names_none() {
        let folder = Folder::new("forward");
        let path = folder.write("resolv.conf", "nameserver 10.0.0.1\n");
        let config = testing::config(&format!("forward . {}", path.display()), parse).0.remove(0);
        let mut destination = Destination::new(&config.to[0], &config).expect("a file");
        let mut later = SystemTime::now();
        let mut servers = |text: Option<&[u8]>| {
            match text {
                Some(text) => std::fs::write(&path, text).expect("a file"),
                None => std::fs::remove_file(&path).expect("removed"),
            }
            let is_unsettled = destination.refresh(SystemTime::now()) == Refresh::Unsettled;
            assert_eq!(is_unsettled, text.is_some(), "a file that was just written may be written again");
            // Long after the file was written.
            later += Duration::from_secs(60);
            let result = until_settled(|| destination.refresh(later), |&result| result != Refresh::Unsettled);
            let has_changed = result == Refresh::Changed;
            let servers: Vec<String> = destination.targets.iter().map(|target| target.address.to_string()).collect();
            (has_changed, servers.join(" "))
        };
        assert_eq!(
            servers(Some(b"nameserver 10.0.0.2\n# \xe9\nnameserver 10.0.0.3")),
            (true, "10.0.0.2:53 10.0.0.3:53".into())
        );
        for bad in [Some(&b""[..]), Some(b"# nothing yet\n"), Some(b"nameserver 10.\n"), None] {
            assert_eq!(servers(bad), (false, "10.0.0.2:53 10.0.0.3:53".into()), "{bad:?}");
        }
        assert_eq!(servers(Some(b"nameserver 10.0.0.4")), (true, "10.0.0.4:53".into()));
    }

    #[test]
    fn a_file_without_a_server_is_reported_unless_another_destination_has_one() {
        let folder = Folder::new("forward");
        let path = folder.write("empty", "# none\n");
        let read = |more: &str| testing::read(&format!("forward . {}{more}", path.display()), parse);
        let (config, messages) = read("");
        assert!(config.is_some());
        assert_eq!(messages, [format!("{} names no server: queries fail until it does", path.display())]);
        assert_eq!(read(" 10.0.0.1").1, [""; 0]);
    }

    #[test]
    fn a_file_of_ten_thousand_lines_is_read_and_one_beyond_the_limit_is_an_error() {
        let folder = Folder::new("forward");
        let lines = "options ndots:5\n".repeat(10_000);
        let path = folder.write("long", &format!("{lines}nameserver 10.0.0.1\n"));
        let corefile = format!("forward . {}", path.display());
        let (config, messages) = testing::read(&corefile, parse);
        assert_eq!(messages, [""; 0]);
        let config = config.expect("a configuration").0.remove(0);
        assert_eq!(Destination::new(&config.to[0], &config).expect("a file").targets.len(), 1);
        folder.write("long", &lines.repeat(10));
        let expected = format!("cannot read {}: longer than {MAX_RESOLV_CONF} bytes", path.display());
        assert_eq!(testing::read(&corefile, parse).1, [expected]);
    }

    /// CoreDNS limits the destinations of a stanza, not the servers of a file.
    #[test]
    fn a_file_may_name_more_servers_than_a_line() {
        let folder = Folder::new("forward");
        let text: String = (1..=16).map(|n| format!("nameserver 10.0.0.{n}\n")).collect();
        let path = folder.write("many", &text);
        let config = testing::config(&format!("forward . {}", path.display()), parse).0.remove(0);
        let destination = Destination::new(&config.to[0], &config).expect("a file");
        assert_eq!(destination.targets.len(), 16);
        assert!(destination.targets.len() <= MAX_UPSTREAMS);
    }
}
