//! *grpc*: forwards queries to upstreams by gRPC, with CoreDNS's service `coredns.dns.DnsService` (CoreDNS
//! `plugin/grpc`). A query is tried at one upstream after the other.

mod config;
mod counts;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use crate::chain::pending::{BoxFuture, Continue};
use crate::chain::{Exchange, Failure, Fallthrough, Plugin, State, Step, Wait, Work};
use crate::net::grpc::{self, DnsPacket, GrpcCode, GrpcStatus};
use crate::plugins::build::{BlockBuilder, BuildError, Setting};
use crate::plugins::upstream_tls;
use crate::upstream::{
    ConnectionReuse, GrpcCall, GrpcClient, Http2Config, TrustError, UpstreamMetrics, UpstreamPolicy, UpstreamRegistry,
};
use crate::wire::{MAX_MESSAGE, Message, NameBuf, Query, Question, Rcode, header};

pub use config::{Config, parse};
pub use counts::GrpcMetrics;

/// The time for a query at all upstreams (CoreDNS `plugin/grpc` `defaultTimeout`).
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long an idle connection stays open. Go's library has 30 minutes; by then a network may have forgotten it.
const EXPIRE: Duration = Duration::from_secs(60);
/// After a failure to connect, queries are tried at the next upstream at once for this time.
const PAUSE: Duration = Duration::from_secs(1);

impl Setting for Config {
    fn check(&self) -> Vec<BuildError> {
        self.trust.iter().filter_map(|trust| upstream_tls::check(trust).err().map(BuildError)).collect()
    }

    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let resources = block.resources();
        let metrics = resources.metrics.get::<GrpcMetrics>();
        let group = GrpcGroup::new(self, &resources.upstreams, &metrics).map_err(|error| error.to_string())?;
        let Config { from, except, fallthrough, .. } = self.clone();
        block.plugin_per_listener(move |listener| Grpc {
            from: from.clone(),
            except: except.clone(),
            fallthrough: if listener.next.is_empty() { Fallthrough::Never } else { fallthrough.clone() },
            group: group.clone(),
        });
        Ok(())
    }
}

/// The plugin.
struct Grpc {
    from: NameBuf,
    except: Vec<NameBuf>,
    /// Never, if there is no next plugin.
    fallthrough: Fallthrough,
    group: Arc<GrpcGroup>,
}

/// The upstreams of a stanza.
struct GrpcGroup {
    upstreams: Vec<GrpcUpstream>,
    policy: UpstreamPolicy,
    /// The number of turns, for [`UpstreamPolicy::RoundRobin`].
    turn: AtomicUsize,
}

/// An upstream.
struct GrpcUpstream {
    client: GrpcClient,
    metrics: Arc<UpstreamMetrics>,
}

/// A query for upstreams.
struct GrpcQuery {
    packet: Vec<u8>,
    client: IpAddr,
    until: Instant,
    /// The next plugin gets the query after NXDOMAIN or a failure.
    falls_through: bool,
}

/// The result of one attempt.
enum Attempt {
    /// The reply is complete.
    Replied,
    /// The response has another question.
    OtherQuestion,
    /// The next upstream is tried.
    Failed(GrpcStatus),
}

impl Grpc {
    /// Returns whether the plugin forwards this question (CoreDNS `GRPC.match`).
    fn is_forwarded(&self, question: &Question) -> bool {
        let (name, from) = (question.name(), self.from.as_name());
        name.is_within(from)
            && (name.eq_ignore_case(from) || !self.except.iter().any(|except| name.is_within(except.as_name())))
    }
}

impl Plugin for Grpc {
    fn name(&self) -> &'static str {
        "grpc"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        if !self.is_forwarded(exchange.question()) {
            return Step::Next;
        }
        let mut packet = exchange.query.packet().to_vec();
        exchange.state.query_change().apply(&mut packet);
        let query = GrpcQuery {
            packet,
            client: exchange.client.remote.ip(),
            until: exchange.no_later(exchange.now + TIMEOUT),
            falls_through: self.fallthrough.covers(exchange.question()),
        };
        let group = self.group.clone();
        let future = Box::new(move |state| -> BoxFuture<_> { Box::pin(group.answer(query, state)) });
        Step::Pending(Wait::Work(Work { future, overload: Rcode::SERVFAIL, plugin: "grpc" }))
    }
}

impl GrpcGroup {
    /// Creates the upstreams of a configuration.
    fn new(config: &Config, registry: &UpstreamRegistry, metrics: &GrpcMetrics) -> Result<Arc<GrpcGroup>, TrustError> {
        let mut upstreams = Vec::new();
        for address in &config.to {
            let config = Http2Config {
                address: address.clone(),
                source: None,
                trust: config.trust.clone(),
                reuse: ConnectionReuse { expire: EXPIRE, ..ConnectionReuse::default() },
                pause: PAUSE,
            };
            let client = registry.grpc(&config)?;
            upstreams.push(GrpcUpstream { metrics: metrics.upstream(client.label()), client });
        }
        Ok(Arc::new(GrpcGroup { upstreams, policy: config.policy, turn: AtomicUsize::new(0) }))
    }

    /// Answers a query from the first upstream that has a response.
    async fn answer(self: Arc<Self>, query: GrpcQuery, mut state: State) -> (State, Continue) {
        let mut failed = None;
        let order = self.policy.order(self.upstreams.len(), &self.turn);
        for &number in &order[..self.upstreams.len()] {
            if Instant::now() >= query.until {
                break;
            }
            match self.upstreams[usize::from(number)].attempt(&query, &mut state).await {
                Attempt::Replied if state.reply.rcode == Rcode::NXDOMAIN && query.falls_through => {
                    state.reply.clear();
                    return (state, Continue::Next);
                }
                Attempt::Replied => return (state, Continue::Answered),
                Attempt::OtherQuestion => return (refuse(state, Rcode::FORMERR), Continue::Answered),
                Attempt::Failed(status) => failed = Some(status),
            }
        }
        state.reply.clear();
        if query.falls_through {
            return (state, Continue::Next);
        }
        let failure = failed.map_or_else(|| "no healthy gRPC proxies".to_owned(), |status| status.to_string());
        state.failure = Some(Failure::Answer(failure.into()));
        (refuse(state, Rcode::SERVFAIL), Continue::Answered)
    }
}

impl GrpcUpstream {
    /// Sends a query, and reads the response into the state.
    async fn attempt(&self, query: &GrpcQuery, state: &mut State) -> Attempt {
        let start = Instant::now();
        let call = GrpcCall {
            client: query.client,
            path: grpc::QUERY_PATH,
            body: grpc::encode(&DnsPacket { msg: query.packet.clone() }),
            headers: Vec::new(),
            limit: MAX_MESSAGE + DnsPacket::OVERHEAD,
            memory: None,
            until: query.until,
        };
        let packet = match self.client.call(call).await.and_then(|(message, _)| DnsPacket::parse(&message)) {
            Ok(packet) => packet,
            Err(status) if status.code == GrpcCode::NotFound => {
                state.reply.clear();
                state.reply.rcode = Rcode::NXDOMAIN;
                return Attempt::Replied;
            }
            Err(status) => return Attempt::Failed(status),
        };
        let malformed = || Attempt::Failed(GrpcStatus::new(GrpcCode::Internal, "the response is not a DNS message"));
        if packet.msg.len() < header::LEN {
            return malformed();
        }
        let Ok(parsed) = Query::parse(&query.packet) else { return malformed() };
        let Ok(message) = Message::parse(&packet.msg, &parsed.question) else { return Attempt::OtherQuestion };
        if state.reply.read(&message).is_err() {
            return malformed();
        }
        self.metrics.record_answer(message.rcode(), start.elapsed());
        Attempt::Replied
    }
}

/// Responds with a bare code.
fn refuse(mut state: State, rcode: Rcode) -> State {
    state.reply.clear();
    state.reply.rcode = rcode;
    state.bare = true;
    state
}
