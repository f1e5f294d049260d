//! *etcd*: answers from records in etcd, in SkyDNS's form (CoreDNS `plugin/etcd`). Each query asks etcd, so that an
//! answer is as new as etcd's data; *cache* in front of it saves requests.
//!
//! ```text
//! question ─ lookup.rs ─► keys ─ store.rs ─► Range of etcd ─ service.rs ─► records ─► reply
//!               └ names of other zones: an internal look-up through the chain
//! ```

mod config;
mod lookup;
mod service;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::chain::pending::{BoxFuture, Continue};
use crate::chain::{Exchange, Failure, Plugin, State, Step, Wait, Work, Zones};
use crate::plugins::build::{BlockBuilder, BuildError, Setting};
use crate::plugins::upstream_tls;
use crate::upstream::{ConnectionReuse, Http2Config, TrustError, UpstreamRegistry};
use crate::wire::{NameBuf, Question, Rcode, Section};
use lookup::{EtcdLookup, LookupError, soa};
use store::{Caller, EtcdClient};

pub use config::{Config, EtcdEndpoint, LeaseTtl, parse};

/// The time for a query (CoreDNS `etcdTimeout`, which is that of each request).
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long an idle connection stays open.
const EXPIRE: Duration = Duration::from_secs(60);
/// After a failure to connect, queries fail or use another endpoint at once for this time.
const PAUSE: Duration = Duration::from_secs(1);

impl Setting for Config {
    fn check(&self) -> Vec<BuildError> {
        self.trust.iter().filter_map(|trust| upstream_tls::check(trust).err().map(BuildError)).collect()
    }

    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let plugin = Etcd::new(self, &block.resources().upstreams).map_err(|error| error.to_string())?;
        block.plugin(plugin);
        Ok(())
    }
}

/// The plugin.
struct Etcd {
    config: Arc<Config>,
    /// The index of each zone in the configuration.
    zones: Zones,
    client: Arc<EtcdClient>,
}

impl Etcd {
    /// Creates the plugin without a connection.
    fn new(config: &Config, registry: &UpstreamRegistry) -> Result<Etcd, TrustError> {
        let mut endpoints = Vec::new();
        for EtcdEndpoint { address, tls } in &config.endpoints {
            let uses_tls = tls.unwrap_or(config.trust.is_some());
            endpoints.push(registry.grpc(&Http2Config {
                address: address.clone(),
                source: None,
                trust: uses_tls.then(|| config.trust.clone().unwrap_or_default()),
                reuse: ConnectionReuse { expire: EXPIRE, ..ConnectionReuse::default() },
                pause: PAUSE,
            })?);
        }
        let client = Arc::new(EtcdClient::new(endpoints, config.credentials.clone()));
        let mut zones = Zones::default();
        for (number, zone) in config.zones.iter().enumerate() {
            zones.add(zone, number);
        }
        Ok(Etcd { config: Arc::new(config.clone()), zones, client })
    }
}

impl Plugin for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let question = exchange.question();
        let Some(zone) = self.zones.longest(question) else { return Step::Next };
        let zone = self.config.zones[zone].to_lower();
        let falls_through = self.config.fallthrough.covers(question);
        let (name, question) = (exchange.query.sent_name().to_owned(), question.clone());
        let caller = Caller {
            client: exchange.client.remote.ip(),
            now: exchange.now,
            until: exchange.no_later(exchange.now + TIMEOUT),
        };
        let lookup = EtcdLookup::new(self.config.clone(), self.client.clone(), exchange.resolver(), caller, zone);
        let future =
            Box::new(move |state| -> BoxFuture<_> { Box::pin(answer(lookup, name, question, falls_through, state)) });
        Step::Pending(Wait::Work(Work { future, overload: Rcode::SERVFAIL, plugin: "etcd" }))
    }
}

/// Answers a query.
async fn answer(
    mut lookup: EtcdLookup, name: NameBuf, question: Question, falls_through: bool, mut state: State,
) -> (State, Continue) {
    let found = lookup.answer(name, question.qtype).await;
    let serial = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32);
    let reply = &mut state.reply;
    reply.clear();
    let found = match found {
        Err(LookupError::NotFound) if falls_through => return (state, Continue::Next),
        Err(LookupError::NotFound) => {
            reply.rcode = Rcode::NXDOMAIN;
            None
        }
        Err(LookupError::Invalid(reason) | LookupError::Failed(reason)) => {
            reply.rcode = Rcode::SERVFAIL;
            state.failure = Some(Failure::Answer(reason.into()));
            None
        }
        Ok(answer) => Some(answer).filter(|answer| !answer.records.is_empty()),
    };
    reply.authoritative = true;
    match found {
        None => soa(&lookup.zone).write(Section::Authority, &question, serial, reply),
        Some(answer) => {
            reply.truncated = answer.truncated;
            for (section, records) in [(Section::Answer, answer.records), (Section::Additional, answer.extra)] {
                for record in records {
                    if reply.is_full() {
                        break;
                    }
                    record.write(section, &question, serial, reply);
                }
            }
        }
    }
    (state, Continue::Answered)
}
