//! *forward*: names that other servers know (CoreDNS `plugin/forward`).
//!
//! The plugin decides which names go where; the rest is the work of `upstream` and of whoever carries the query.

mod address;
mod config;
mod resolve;

use std::sync::Arc;

use parking_lot::Mutex;

use super::changing::ChangingFile;
use crate::chain::{Exchange, Failure, Plugin, Step, UpstreamQuery, Wait};
use crate::upstream::{Dispatcher, Error, Group, Trust, Upstream, UpstreamConfig, UpstreamRegistry};
use crate::wire::{NameBuf, Question, Rcode};

pub use address::{Target, To, parse_name_servers};
pub use config::{Config, parse};

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

/// What a stanza's servers are made of, and made anew when a file of theirs changes.
pub struct Following {
    config: Config,
    registry: Arc<UpstreamRegistry>,
    group: Arc<Group>,
    /// The files among the destinations. Looked at by a timer only.
    files: Mutex<Vec<ChangingFile>>,
}

impl Forward {
    /// The plugin of a stanza, and what follows its files, where it has some. It looks up hosts, and so may take a while.
    pub fn new(
        config: &Config, registry: &Arc<UpstreamRegistry>, dispatcher: Dispatcher, has_next: bool,
    ) -> Result<(Forward, Option<Following>), String> {
        if config.trust.authorities.is_some() || config.trust.identity.is_some() {
            // As CoreDNS does, though only encrypted servers need them.
            config.trust.check().map_err(|error| error.to_string())?;
        }
        let upstreams = upstreams(config, registry)?;
        let has_files = config.to.iter().any(|to| matches!(to, To::File(_)));
        if upstreams.is_empty() {
            // CoreDNS starts, too: the file may name some later.
            tracing::warn!(plugin = "forward", zone = %config.from, "no file names a server; queries fail until one does");
        }
        let counters = Box::new(registry.metrics().clone());
        let group = Arc::new(Group::new(upstreams, config.rules.clone(), dispatcher, counters));
        let following = has_files.then(|| {
            let files = config.to.iter().filter_map(|to| match to {
                To::File(path) => {
                    let mut file = ChangingFile::new(path.clone());
                    // What it holds now is known.
                    let _ = file.open_if_changed();
                    Some(file)
                }
                _ => None,
            });
            let files = Mutex::new(files.collect());
            Following { config: config.clone(), registry: registry.clone(), group: group.clone(), files }
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
    /// Looks whether a file has changed, and asks the servers that it names now. A file that is gone names those that it
    /// named before.
    pub fn refresh(&self) {
        let changed = |file: &mut ChangingFile| file.open_if_changed().is_ok_and(|changed| changed.is_some());
        // Each is looked at, so that none is news the next time.
        let changes = self.files.lock().iter_mut().map(changed).filter(|&changed| changed).count();
        if changes == 0 {
            return;
        }
        match upstreams(&self.config, &self.registry) {
            Ok(upstreams) => {
                let servers: Vec<_> = upstreams.iter().map(|upstream| upstream.label.to_string()).collect();
                tracing::info!(plugin = "forward", zone = %self.config.from, ?servers, "a file names other servers");
                self.group.replace(upstreams);
            }
            Err(error) => tracing::warn!(plugin = "forward", %error, "the servers stay as they are"),
        }
    }
}

/// The servers of a stanza, each once.
fn upstreams(config: &Config, registry: &UpstreamRegistry) -> Result<Vec<Arc<Upstream>>, String> {
    let mut targets: Vec<Target> = Vec::new();
    for to in &config.to {
        let found = match to {
            To::Server(target) => vec![target.clone()],
            To::File(path) => {
                address::name_servers(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?
            }
            To::Host { name, port, transport, server_name } => resolve::addresses(name, &config.resolvers)?
                .into_iter()
                .map(|ip| Target {
                    address: (ip, *port).into(),
                    transport: *transport,
                    server_name: server_name.clone(),
                })
                .collect(),
        };
        for target in found {
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
    }
    let upstream = |target: &Target| {
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
