//! *forward*: names that other servers know (CoreDNS `plugin/forward`).
//!
//! The plugin decides which names go where; the rest is the work of `upstream` and of whoever carries the query.

mod address;
mod config;
mod resolve;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::chain::{Exchange, Failure, Plugin, Step, UpstreamQuery, Wait};
use crate::files::{FollowedFile, Look, MAX_RESOLV_CONF, ResolvConf};
use crate::plugins::build::{BlockBuilder, BlockOptions, BuildError, Chore, Setting};
use crate::upstream::{Dispatcher, Error, Group, MAX_UPSTREAMS, Trust, Upstream, UpstreamConfig, UpstreamRegistry};
use crate::wire::{NameBuf, Question, Rcode};

pub use address::{Target, To};
pub use config::{Config, Stanzas, parse};

/// The interval at which files that name upstreams are checked.
const FILE_INTERVAL: Duration = Duration::from_secs(2);

impl Setting for Stanzas {
    fn configure(&self, options: &mut BlockOptions) {
        options.answers_other_classes = true;
    }

    fn check(&self) -> Vec<BuildError> {
        self.0.iter().filter_map(|config| config.check_trust().err().map(BuildError)).collect()
    }

    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let resources = block.resources();
        for (at, config) in self.0.iter().enumerate() {
            let has_next = at + 1 < self.0.len();
            let (plugin, following) =
                Forward::new(config, &resources.upstreams, resources.dispatcher.clone(), has_next)?;
            if let Some(following) = following {
                let run = Box::new(move |now| following.refresh(now));
                block.chore(Chore { every: FILE_INTERVAL, run, stop: None });
            }
            block.plugin(plugin);
        }
        Ok(())
    }
}

/// The plugin of one stanza.
pub struct Forward {
    from: NameBuf,
    except: Vec<NameBuf>,
    group: Arc<Group>,
    next: Vec<Rcode>,
    next_on_nodata: bool,
    /// Another *forward* stands right behind.
    has_next: bool,
}

/// What follows the files that a stanza names, and asks other servers when they change.
pub struct Following {
    config: Config,
    registry: Arc<UpstreamRegistry>,
    group: Arc<Group>,
    /// Looked at by a timer only.
    destinations: Mutex<Vec<Destination>>,
}

/// What one word of a stanza stands for now.
struct Destination {
    /// The servers. Those of a file are the last that it named.
    targets: Vec<Target>,
    file: Option<FollowedFile>,
    /// The log says already that the file is of no use now.
    is_reported: bool,
}

impl Forward {
    /// The plugin of a stanza, and what follows its files, where it has some. It looks up hosts, and so may take a
    /// while.
    pub fn new(
        config: &Config, registry: &Arc<UpstreamRegistry>, dispatcher: Dispatcher, has_next: bool,
    ) -> Result<(Forward, Option<Following>), String> {
        config.check_trust()?;
        let destinations = config.to.iter().map(|to| Destination::new(to, config)).collect::<Result<Vec<_>, _>>()?;
        let upstreams = upstreams(config, registry, &destinations)?;
        let counts = Box::new(registry.metrics().clone());
        let group = Arc::new(Group::new(upstreams, config.rules.clone(), dispatcher, counts));
        let has_files = destinations.iter().any(|destination| destination.file.is_some());
        let following = has_files.then(|| Following {
            config: config.clone(),
            registry: registry.clone(),
            group: group.clone(),
            destinations: Mutex::new(destinations),
        });
        let Config { from, except, next, next_on_nodata, .. } = config.clone();
        Ok((Forward { from, except, group, next, next_on_nodata, has_next }, following))
    }

    /// Whether a name is forwarded here (CoreDNS `Forward.match`).
    fn takes(&self, question: &Question) -> bool {
        let (name, from) = (question.name(), self.from.as_name());
        if !from.is_root() && !name.is_within(from) {
            return false;
        }
        self.except.is_empty()
            || name.eq_ignore_case(from)
            || !self.except.iter().any(|except| name.is_within(except.as_name()))
    }
}

impl Plugin for Forward {
    fn name(&self) -> &'static str {
        "forward"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        if !self.takes(exchange.question()) {
            return Step::Next;
        }
        let stream = !exchange.client.transport.is_datagram();
        let change = exchange.state.query_change();
        match self.group.begin(stream, exchange.now) {
            Ok(attempts) => Step::Pending(Wait::Upstream(UpstreamQuery { attempts, change })),
            Err(error) => exchange.fail(Rcode::REFUSED, Failure::Upstream(error)),
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
            Err(error @ Error::Unsupported(_)) => exchange.fail(Rcode::NOTIMP, Failure::Upstream(error)),
            Err(error) => exchange.fail(Rcode::SERVFAIL, Failure::Upstream(error)),
        }
    }
}

impl Following {
    /// Looks whether a file has changed, and asks the servers that it names now. Returns whether somebody is writing
    /// one, so that it is to be looked at again soon. `now` is the time of day.
    pub fn refresh(&self, now: SystemTime) -> bool {
        let mut destinations = self.destinations.lock();
        // Not `any`: each is looked at, so that none is news the next time.
        let looks: Vec<Refreshed> = destinations.iter_mut().map(|destination| destination.refresh(now)).collect();
        if looks.contains(&Refreshed::Changed) {
            match upstreams(&self.config, &self.registry, &destinations) {
                Ok(upstreams) => {
                    let servers: Vec<_> = upstreams.iter().map(|upstream| upstream.label.to_string()).collect();
                    tracing::info!(plugin = "forward", zone = %self.config.from, ?servers, "a file names other servers");
                    self.group.replace(upstreams);
                }
                Err(error) => tracing::warn!(plugin = "forward", %error, "the servers stay as they are"),
            }
        }
        looks.contains(&Refreshed::Unsettled)
    }
}

/// What a look at a destination has shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refreshed {
    Unchanged,
    Unsettled,
    Changed,
}

impl Destination {
    /// Finds the servers of a word. Looks up a host, and so may take a while.
    fn new(to: &To, config: &Config) -> Result<Destination, String> {
        let mut destination = Destination { targets: Vec::new(), file: None, is_reported: false };
        match to {
            To::Server(target) => destination.targets.push(target.clone()),
            To::File(path) => {
                let mut file = FollowedFile::polled(path.clone(), MAX_RESOLV_CONF);
                match file.look(SystemTime::now()) {
                    Ok(Look::Changed(bytes)) => destination.take(&bytes, &path.display().to_string()),
                    Ok(Look::Unchanged | Look::Unsettled) => false,
                    Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
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

    /// Takes the servers that a file names; whether they are others. A file that names none is about to be written, or
    /// a mistake: the last that it named go on to be asked.
    fn take(&mut self, bytes: &[u8], path: &str) -> bool {
        let ResolvConf { servers, ignored } = ResolvConf::parse(bytes);
        if !ignored.is_empty() {
            let ignored = ignored.join(", ");
            tracing::warn!(plugin = "forward", "{path}: no address of a server, left out: {ignored}");
        }
        if servers.is_empty() {
            tracing::warn!(plugin = "forward", "{path} names no server{}", self.consequence());
            self.is_reported = true;
            return false;
        }
        self.is_reported = false;
        let targets: Vec<Target> = servers.into_iter().map(Target::plain).collect();
        let is_new = self.targets != targets;
        self.targets = targets;
        is_new
    }

    /// What follows from a file that is of no use.
    fn consequence(&self) -> &'static str {
        if self.targets.is_empty() { "" } else { "; the last that it named are asked" }
    }

    fn refresh(&mut self, now: SystemTime) -> Refreshed {
        let Some(file) = &mut self.file else { return Refreshed::Unchanged };
        let path = file.path().display().to_string();
        match file.look(now) {
            Ok(Look::Unchanged) => Refreshed::Unchanged,
            Ok(Look::Unsettled) => Refreshed::Unsettled,
            Ok(Look::Changed(bytes)) if self.take(&bytes, &path) => Refreshed::Changed,
            Ok(Look::Changed(_)) => Refreshed::Unchanged,
            Err(error) => {
                if !std::mem::replace(&mut self.is_reported, true) {
                    tracing::warn!(plugin = "forward", "cannot read {path}: {error}{}", self.consequence());
                }
                Refreshed::Unchanged
            }
        }
    }
}

/// The servers of a stanza, each once.
fn upstreams(
    config: &Config, registry: &UpstreamRegistry, destinations: &[Destination],
) -> Result<Vec<Arc<Upstream>>, String> {
    let mut targets: Vec<&Target> = Vec::new();
    for target in destinations.iter().flat_map(|destination| &destination.targets) {
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    if targets.len() > MAX_UPSTREAMS {
        let (zone, count) = (&config.from, targets.len());
        tracing::warn!(plugin = "forward", %zone, "of {count} servers the first {MAX_UPSTREAMS} are asked");
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
    targets.iter().map(|target| upstream(target).map_err(|error| error.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plugins::testing::{Folder, until_settled};

    /// A file that is emptied, half written or gone names the servers that it named before.
    #[test]
    fn a_file_that_names_no_server_names_the_last() {
        let folder = Folder::new("forward");
        let path = folder.write("resolv.conf", "nameserver 10.0.0.1\n");
        let (_, said) = crate::plugins::testing::read(&format!("forward . {}", path.display()), parse);
        assert_eq!(said, [""; 0]);
        let config = crate::plugins::testing::config(&format!("forward . {}", path.display()), parse).0.remove(0);
        let mut destination = Destination::new(&config.to[0], &config).expect("a file");
        let mut later = SystemTime::now();
        let mut servers = |text: Option<&[u8]>| {
            match text {
                Some(text) => std::fs::write(&path, text).expect("a file"),
                None => std::fs::remove_file(&path).expect("removed"),
            }
            let soon = destination.refresh(SystemTime::now()) == Refreshed::Unsettled;
            assert_eq!(soon, text.is_some(), "what was just written may be written again");
            // Long after the file was written.
            later += Duration::from_secs(60);
            let seen = until_settled(|| destination.refresh(later), |&seen| seen != Refreshed::Unsettled);
            let changed = seen == Refreshed::Changed;
            let servers: Vec<String> = destination.targets.iter().map(|target| target.address.to_string()).collect();
            (changed, servers.join(" "))
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
    fn files_that_name_no_server_are_reported_unless_others_do() {
        let folder = Folder::new("forward");
        let path = folder.write("empty", "# none\n");
        let read = |more: &str| crate::plugins::testing::read(&format!("forward . {}{more}", path.display()), parse);
        let (config, said) = read("");
        assert!(config.is_some());
        assert_eq!(said, [format!("{} names no server: queries fail until it does", path.display())]);
        assert_eq!(read(" 10.0.0.1").1, [""; 0]);
    }

    /// CoreDNS limits the words, not the servers of a file.
    #[test]
    fn a_file_may_name_more_servers_than_a_line() {
        let folder = Folder::new("forward");
        let text: String = (1..=16).map(|n| format!("nameserver 10.0.0.{n}\n")).collect();
        let path = folder.write("many", &text);
        let config = crate::plugins::testing::config(&format!("forward . {}", path.display()), parse).0.remove(0);
        let destination = Destination::new(&config.to[0], &config).expect("a file");
        assert_eq!(destination.targets.len(), 16);
        assert!(destination.targets.len() <= MAX_UPSTREAMS);
    }
}
