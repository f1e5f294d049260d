//! From a configuration to what serves it: router for each socket, and the indexes that their plugins answer from.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::configuration::{Block, Configuration, Key};
use super::operations::{self, Metrics, Operations};
use super::sockets::{Place, Socket, credentials};
use crate::chain::{self, Chain, Fallthrough, Plugin, Router, Surroundings};
use crate::cluster::entry::EndpointFields;
use crate::cluster::{CurrentIndex, Index, IndexWriter, Options};
use crate::corefile::{Diagnostic, Diagnostics, Listen, Scheme, Span, Stage, check_keys};
use crate::net::Credentials;
use crate::plugins::bind::{Address, Interface};
use crate::plugins::cache::{self, BlockCache};
use crate::plugins::kubernetes::config::Api;
use crate::plugins::kubernetes::{self, Kubernetes};
use crate::plugins::prometheus::{Enabled, Refused};
use crate::plugins::{
    Setting, acl, any, bufsize, chaos, dns64, encrypted, errors, forward, header, hosts, loadbalance, local, log,
    loops, minimal, nsid, rewrite, timeouts, whoami,
};
use crate::source::Selection;
use crate::telemetry::log::Logger;
use crate::upstream::{Dispatcher, UpstreamRegistry};
use crate::wire::NameBuf;

/// How often consolidated errors are looked through.
const FLUSH: Duration = Duration::from_secs(1);
/// How often files are looked at that name other servers.
const FILES: Duration = Duration::from_secs(2);
/// A file is looked at no more often than this, whatever `reload` says.
const SOONEST: Duration = Duration::from_millis(100);

/// What plugins need of the world.
pub struct World {
    /// Where lines go.
    pub logger: Logger,
    /// This machine's name.
    pub hostname: String,
    /// This machine's interfaces.
    pub interfaces: Vec<Interface>,
    /// Lines of level debug are written; set once it is known whether *debug* stands in some block.
    pub debug: Arc<AtomicBool>,
    /// Where numbers go.
    pub metrics: Metrics,
    /// Other servers.
    pub servers: Arc<UpstreamRegistry>,
    /// Who carries queries to other servers for those who are no UDP clients.
    pub dispatcher: Dispatcher,
    /// The clock, and who runs what no client waits for.
    pub surroundings: Surroundings,
    /// What configurations have in common.
    pub kept: Kept,
}

/// What a configuration finds of the one before: parts whose settings are the same go on. They are held by whoever uses
/// them, and are gone with the last.
#[derive(Default)]
pub struct Kept {
    indexes: Mutex<Vec<KeptIndex>>,
    memories: Mutex<Vec<KeptMemory>>,
}

/// What a cache keeps, and the block that it is of.
struct KeptMemory {
    keys: Vec<Key>,
    settings: Vec<Setting>,
    memory: Weak<BlockCache>,
}

/// An index, and what it is about.
struct KeptIndex {
    wanted: WantedIndex,
    index: Weak<Index>,
}

/// What stanzas want of an index.
#[derive(Clone, PartialEq)]
struct WantedIndex {
    api: Api,
    selection: Selection,
    keep: EndpointFields,
}

impl Kept {
    /// The index that is about the same, if there is one.
    fn index(&self, wanted: &WantedIndex) -> Option<Arc<Index>> {
        let mut indexes = self.indexes.lock();
        indexes.retain(|kept| kept.index.strong_count() > 0);
        indexes.iter().find(|kept| kept.wanted == *wanted).and_then(|kept| kept.index.upgrade())
    }

    /// The index that answers until the first lists of a new one are complete. It is of the same API server, and best
    /// of the same objects; else one that `all` of the new configuration have no use for.
    fn previous_index(&self, wanted: &WantedIndex, all: &[WantedIndex]) -> Option<Arc<Index>> {
        let indexes = self.indexes.lock();
        let objects = |selection: &Selection| (selection.labels.clone(), selection.namespace_labels.clone());
        let candidates = indexes.iter().filter(|kept| kept.wanted.api.server == wanted.api.server);
        let candidates =
            candidates.filter_map(|kept| Some((kept, kept.index.upgrade().filter(|index| index.is_synced())?)));
        let ranked = candidates.map(|(kept, index)| {
            let is_same = objects(&kept.wanted.selection) == objects(&wanted.selection);
            ((is_same, !all.contains(&kept.wanted)), index)
        });
        // The newest of the best.
        ranked.max_by_key(|(rank, _)| *rank).map(|(_, index)| index)
    }

    /// Notes an index.
    fn note_index(&self, wanted: WantedIndex, index: &Arc<Index>) {
        self.indexes.lock().push(KeptIndex { wanted, index: Arc::downgrade(index) });
    }

    /// What a cache of the same block keeps: with other plugins behind it, what they have said is of no use.
    fn memory(&self, block: &Block, config: &cache::Config, live: &[NameBuf], shared: &[NameBuf]) -> Arc<BlockCache> {
        let mut memories = self.memories.lock();
        memories.retain(|kept| kept.memory.strong_count() > 0);
        let same = |kept: &&KeptMemory| kept.keys == block.keys && kept.settings == block.settings;
        if let Some(memory) = memories.iter().find(same).and_then(|kept| kept.memory.upgrade()) {
            return memory;
        }
        let memory = Arc::new(BlockCache::new(config.clone(), live, shared));
        let (keys, settings) = (block.keys.clone(), block.settings.clone());
        memories.push(KeptMemory { keys, settings, memory: Arc::downgrade(&memory) });
        memory
    }
}

/// Something that is done again and again beside the answers.
pub struct Chore {
    /// How often.
    pub every: Duration,
    /// What, at this time of day. It may block. Returns whether it is to be done again soon.
    pub run: Box<dyn Fn(SystemTime) -> bool + Send + Sync>,
    /// What is done once at the end.
    pub stop: Option<Box<dyn Fn() + Send + Sync>>,
}

/// What has been built.
pub struct Built {
    /// A listener for each socket.
    pub listeners: Vec<Listener>,
    /// An index for each selection of the cluster's objects that nobody follows yet.
    pub indexes: Vec<Followed>,
    /// All indexes that are answered from.
    pub used: Vec<CurrentIndex>,
    /// *debug* stands in some block.
    pub debug: bool,
    /// What is done beside the answers.
    pub chores: Vec<Chore>,
    /// What an operator sees.
    pub operations: Operations,
    /// What looks for loops, and the listener that it asks.
    pub loops: Vec<(Arc<loops::Watch>, usize)>,
    /// The plugins, for metrics.
    pub enabled: Vec<Enabled>,
    /// How many UDP sockets of each address *multisocket* asks for, if it says.
    pub sockets: Option<NonZeroUsize>,
}

/// One socket, or one for UDP and one for TCP.
pub struct Listener {
    /// Where it is.
    pub place: Place,
    /// The zones, as start-up lines name them.
    pub zones: Vec<String>,
    /// Who answers.
    pub router: Arc<Router>,
    /// What *timeouts* says; of several blocks the last that has it.
    pub timeouts: timeouts::Config,
    /// What the directive of its transport says; of several blocks the last that has it.
    pub limits: encrypted::Limits,
    /// What *tls* says.
    pub credentials: Option<Arc<Credentials>>,
}

/// An index, and which objects it is about.
pub struct Followed {
    /// How their API server is reached.
    pub api: Api,
    /// Which objects.
    pub selection: Selection,
    /// Where their events go.
    pub writer: IndexWriter,
    /// The first stanza that wants them, for mistakes.
    pub place: Option<Span>,
}

/// Where the blocks listen: the addresses of each block's *bind*, if it has one. What is no address of this machine,
/// and blocks that get in each other's way, are mistakes.
pub fn listen_addresses(
    configuration: &Configuration, port: u16, interfaces: &[Interface], diagnostics: &mut Diagnostics,
) -> Vec<Option<Vec<Address>>> {
    let binds: Vec<Option<Vec<Address>>> =
        configuration.blocks.iter().map(|block| bound(block, interfaces, diagnostics)).collect();
    let listens = binds.iter().map(|addresses| Listen {
        addresses: addresses.iter().flatten().map(ToString::to_string).collect(),
        filtered: false,
    });
    check_keys(&configuration.corefile, port, listens, diagnostics);
    binds
}

/// Builds everything. Mistakes that only the world shows are in `diagnostics`.
pub fn build(configuration: &Configuration, port: u16, world: &World, diagnostics: &mut Diagnostics) -> Built {
    let binds = listen_addresses(configuration, port, &world.interfaces, diagnostics);
    let indexes = Indexes::of(configuration, &world.kept);
    let (mut chores, mut operations, mut enabled) = (Vec::new(), Operations::default(), Vec::new());
    let mut loops = Vec::new();
    let mut sockets: Vec<Socket> = Vec::new();
    let mut socket_of: HashMap<Place, usize> = HashMap::new();
    let trees = &configuration.corefile.blocks;
    for ((block, tree), bound) in configuration.blocks.iter().zip(trees).zip(&binds) {
        let maker = Maker { block, tree, bound: bound.as_deref(), indexes: &indexes, world };
        let BuiltChain { chain, counted_at, translated, guarded, cached, mut watch } =
            maker.chain(&mut chores, diagnostics);
        operations.add(block, &chain, &world.metrics);
        let wants_all = |setting: &Setting| matches!(setting, Setting::Chaos(_) | Setting::Forward(_));
        let other_classes = block.settings.iter().any(wants_all);
        let addresses: Vec<Option<Address>> = match bound {
            Some(addresses) => addresses.iter().copied().map(Some).collect(),
            None => vec![None],
        };
        // One chain for all zones that the block serves on a socket.
        let mut zones_of_port: BTreeMap<(Scheme, u16), Vec<NameBuf>> = BTreeMap::new();
        for key in &block.keys {
            zones_of_port.entry((key.scheme, key.port)).or_default().push(key.zone.clone());
        }
        let files = block.settings.iter().find_map(|setting| match setting {
            Setting::Tls(files) => Some(files),
            _ => None,
        });
        for ((scheme, port), zones) in zones_of_port {
            for &address in &addresses {
                let place = Place { scheme, address, port };
                let at = *socket_of.entry(place).or_insert_with(|| {
                    sockets.push(Socket { place, files: files.cloned(), ..Socket::default() });
                    sockets.len() - 1
                });
                if scheme != Scheme::Dns && sockets[at].files.as_ref() != files {
                    let message =
                        format!("conflicting TLS configuration for shared listener {}", operations::server_name(place));
                    diagnostics.push(Diagnostic::error(
                        Stage::Setup,
                        tree.keys.first().map(|key| key.token.span),
                        message,
                    ));
                }
                let server = operations::server_name(place);
                let mut chain = chain.clone();
                // The last first, so that none moves those before it.
                if let Some((cached_at, memory)) = &cached {
                    chain = world.metrics.cached(&chain, *cached_at, &server, memory);
                }
                if let Some((guarded_at, config)) = &guarded {
                    chain = world.metrics.guarded(&chain, *guarded_at, &server, config);
                }
                if let Some((translated_at, config)) = translated {
                    chain = world.metrics.translated(&chain, translated_at, &server, config);
                }
                if let Some(counted_at) = counted_at {
                    chain = world.metrics.counted(&chain, counted_at, &server, &zones);
                    enabled.extend(operations::enabled(&chain, &server, &zones));
                }
                // One socket is enough: what is forwarded comes back whoever has asked.
                if scheme == Scheme::Dns {
                    loops.extend(watch.take().map(|watch| (watch, at)));
                }
                sockets[at].blocks.push(chain::Block { zones: zones.clone(), chain });
                sockets[at].other_classes |= other_classes;
                sockets[at].listen_as(&block.settings);
            }
        }
    }
    let credentials = credentials(configuration, &sockets, diagnostics);
    // Without *prometheus* nobody asks for the numbers.
    let is_counted = !enabled.is_empty();
    let listeners = sockets.into_iter().zip(credentials).map(|(socket, credentials)| {
        let Socket { place, blocks, other_classes, timeouts, limits, .. } = socket;
        let zones = blocks.iter().flat_map(|block| &block.zones).map(ToString::to_string).collect();
        let mut router = Router::new(blocks, other_classes).surrounded_by(world.surroundings.clone());
        if is_counted {
            let server = operations::server_name(place);
            router = router.observed_by(Arc::new(Refused::new(&world.metrics.queries, &server)));
        }
        Listener { place, zones, router: Arc::new(router), timeouts, limits, credentials }
    });
    let debug = configuration.blocks.iter().any(|block| block.settings.contains(&Setting::Debug));
    let (listeners, used) = (listeners.collect(), indexes.used());
    let settings = configuration.blocks.iter().flat_map(|block| &block.settings);
    let sockets =
        settings.filter_map(|setting| if let Setting::Multisocket(sockets) = setting { *sockets } else { None }).max();
    Built { listeners, indexes: indexes.into_followed(), used, debug, chores, operations, loops, enabled, sockets }
}

/// The addresses of a block's *bind*, if it has one.
fn bound(block: &Block, interfaces: &[Interface], diagnostics: &mut Diagnostics) -> Option<Vec<Address>> {
    block.settings.iter().find_map(|setting| match setting {
        Setting::Bind(config) => Some(config.resolve(interfaces, diagnostics)),
        _ => None,
    })
}

/// The plugins of a block, but for those that are another one on each socket, and where they belong.
struct BuiltChain {
    chain: Chain,
    /// Where *prometheus* does.
    counted_at: Option<usize>,
    /// Where *dns64* does, and what it says.
    translated: Option<(usize, dns64::Config)>,
    /// Where *acl* does, and its rules.
    guarded: Option<(usize, acl::Config)>,
    /// Where *cache* does, and what it keeps.
    cached: Option<(usize, Arc<BlockCache>)>,
    /// What *loop* waits for.
    watch: Option<Arc<loops::Watch>>,
}

/// What the plugins of a block are made from.
struct Maker<'a> {
    block: &'a Block,
    /// Where it stands in the file, for mistakes.
    tree: &'a crate::corefile::Block,
    /// The addresses of its *bind*.
    bound: Option<&'a [Address]>,
    indexes: &'a Indexes,
    world: &'a World,
}

impl Maker<'_> {
    /// The plugins of the block.
    fn chain(&self, chores: &mut Vec<Chore>, diagnostics: &mut Diagnostics) -> BuiltChain {
        let (mut plugins, mut metadata) = (Vec::new(), None);
        let (mut counted_at, mut translated, mut guarded, mut cached, mut watch) = (None, None, None, None, None);
        for setting in &self.block.settings {
            match setting {
                Setting::Metadata(config) => metadata = Some(config.zones.clone()),
                Setting::Prometheus(_) => counted_at = Some(plugins.len()),
                Setting::Dns64(config) => translated = Some((plugins.len(), *config)),
                Setting::Acl(config) => guarded = Some((plugins.len(), config.clone())),
                Setting::Loop => {
                    let zone =
                        self.block.keys.first().map_or(crate::wire::Name::ROOT.to_owned(), |key| key.zone.clone());
                    let (plugin, watches) = loops::Loop::new(zone);
                    plugins.push(Arc::new(plugin) as Arc<dyn Plugin>);
                    watch = Some(watches);
                }
                Setting::Cache(config) => {
                    let (live, shared) = self.live_zones();
                    let memory = self.world.kept.memory(self.block, config, &live, &shared);
                    cached = Some((plugins.len(), memory));
                }
                _ => {}
            }
            match self.plugins(setting, chores) {
                Ok(made) => plugins.extend(made),
                Err((name, message)) => {
                    let span = self.tree.directives_named(name).next().map(|found| found.span);
                    diagnostics.push(Diagnostic::error(Stage::Setup, span, message).plugin(name));
                }
            }
        }
        let mut chain = Chain::new(plugins);
        if let Some(zones) = metadata {
            chain = chain.with_metadata(zones);
        }
        BuiltChain { chain, counted_at, translated, guarded, cached, watch }
    }

    /// The zones whose names are all answered from the cluster's state of the moment, and those of which only the names
    /// that exist there are.
    fn live_zones(&self) -> (Vec<NameBuf>, Vec<NameBuf>) {
        let stanza = self.block.settings.iter().find_map(|setting| match setting {
            Setting::Kubernetes(config) => Some(&config.answers),
            _ => None,
        });
        let zones = stanza.iter().flat_map(|answers| answers.zones.iter().map(|zone| (zone, &answers.fallthrough)));
        let zones = zones.map(|(zone, fallthrough)| (zone.clone(), fallthrough.for_zone(zone) == Fallthrough::Never));
        let (live, shared): (Vec<_>, Vec<_>) = zones.partition(|(_, is_live)| *is_live);
        let names = |zones: Vec<(NameBuf, bool)>| zones.into_iter().map(|(zone, _)| zone).collect();
        (names(live), names(shared))
    }

    /// The plugins of a directive; else why not: the directive and the mistake.
    fn plugins(
        &self, setting: &Setting, chores: &mut Vec<Chore>,
    ) -> Result<Vec<Arc<dyn Plugin>>, (&'static str, String)> {
        let Setting::Forward(stanzas) = setting else { return Ok(self.plugin(setting, chores)?.into_iter().collect()) };
        let mut plugins: Vec<Arc<dyn Plugin>> = Vec::new();
        for (at, config) in stanzas.iter().enumerate() {
            let has_next = at + 1 < stanzas.len();
            let made = forward::Forward::new(config, &self.world.servers, self.world.dispatcher.clone(), has_next);
            let (plugin, following) = made.map_err(|error| ("forward", error))?;
            if let Some(following) = following {
                chores.push(Chore { every: FILES, run: Box::new(move |now| following.refresh(now)), stop: None });
            }
            plugins.push(Arc::new(plugin));
        }
        Ok(plugins)
    }

    /// The plugin of a directive, if it makes one; else why not: the directive and the mistake.
    fn plugin(
        &self, setting: &Setting, chores: &mut Vec<Chore>,
    ) -> Result<Option<Arc<dyn Plugin>>, (&'static str, String)> {
        let world = self.world;
        let plugin: Arc<dyn Plugin> = match setting {
            // These make no plugin.
            Setting::Root(_) | Setting::Bind(_) | Setting::Debug | Setting::Metadata(_) => return Ok(None),
            Setting::Reload(_) | Setting::Timeouts(_) | Setting::Multisocket(_) | Setting::Accepted => return Ok(None),
            Setting::Tls(_) | Setting::Https(_) | Setting::Https3(_) | Setting::Quic(_) => return Ok(None),
            Setting::Ready(_) | Setting::Health(_) | Setting::Prometheus(_) => return Ok(None),
            // These are made elsewhere.
            Setting::Acl(_) | Setting::Cache(_) | Setting::Dns64(_) | Setting::Forward(_) | Setting::Loop => {
                return Ok(None);
            }
            Setting::Nsid(config) => {
                let data = config.data.clone().unwrap_or_else(|| world.hostname.clone());
                Arc::new(nsid::Nsid { data: data.into_bytes().into() })
            }
            Setting::Bufsize(config) => Arc::new(bufsize::Bufsize { config: *config }),
            Setting::Errors(config) => {
                let plugin = Arc::new(errors::Errors::new(config, world.logger.clone(), world.debug.clone()));
                if plugin.consolidates() {
                    let (flushed, stopped) = (plugin.clone(), plugin.clone());
                    let run = Box::new(move |_| {
                        flushed.flush(Instant::now());
                        false
                    });
                    chores.push(Chore { every: FLUSH, run, stop: Some(Box::new(move || stopped.stop())) });
                }
                plugin
            }
            Setting::Log(config) => Arc::new(log::Log::new(config, world.logger.clone())),
            Setting::Local(config) => {
                Arc::new(local::Local { config: config.clone(), counts: world.metrics.locals.clone() })
            }
            Setting::Any => Arc::new(any::Any),
            Setting::Chaos(config) => Arc::new(chaos::Chaos {
                version: config.version.clone().unwrap_or_else(|| super::VERSION.to_owned()),
                authors: config.authors.clone(),
                hostname: world.hostname.clone(),
            }),
            Setting::Loadbalance(config) => {
                let plugin =
                    loadbalance::LoadBalance::new(config).map_err(|error| ("loadbalance", error.to_string()))?;
                if let Some(file) = plugin.file().cloned() {
                    chores.extend(reread(plugin.reload(), move |now| file.refresh(now)));
                }
                Arc::new(plugin)
            }
            Setting::Rewrite(config) => Arc::new(rewrite::Rewrite::new(config)),
            Setting::Header(config) => Arc::new(header::Header { config: *config }),
            Setting::Minimal => Arc::new(minimal::Minimal),
            Setting::Hosts(config) => {
                let plugin = Arc::new(hosts::Hosts::new(config));
                let file = plugin.file().clone();
                chores.extend(reread(plugin.reload(), move |now| file.refresh(now)));
                world.metrics.hosts.add(&plugin);
                plugin
            }
            Setting::Kubernetes(config) => {
                let index = self.indexes.index_for(config);
                let own = own_addresses(self.bound, &world.interfaces);
                Arc::new(Kubernetes::new(config.answers.clone(), index, own))
            }
            Setting::Whoami => Arc::new(whoami::Whoami),
        };
        Ok(Some(plugin))
    }
}

/// A file that is looked at again and again; never where `every` is zero.
fn reread(every: Duration, run: impl Fn(SystemTime) -> bool + Send + Sync + 'static) -> Option<Chore> {
    (!every.is_zero()).then(|| Chore { every: every.max(SOONEST), run: Box::new(run), stop: None })
}

/// This server's own addresses, of which its `ns.dns` and NS records tell: those of *bind*, or all of the machine.
fn own_addresses(bound: Option<&[Address]>, interfaces: &[Interface]) -> Vec<IpAddr> {
    let mut own: Vec<IpAddr> = match bound {
        Some(bound) => bound.iter().map(|address| address.ip).collect(),
        None => interfaces.iter().flat_map(|interface| interface.addresses.iter().copied()).collect(),
    };
    own.retain(|address| !address.is_loopback() && !address.is_unspecified());
    own
}

/// The indexes of a configuration: stanzas that ask for the same objects share one.
struct Indexes {
    all: Vec<Shared>,
}

/// An index that stanzas share.
struct Shared {
    index: CurrentIndex,
    wanted: WantedIndex,
    /// What is to be followed, where nobody follows it yet.
    followed: Option<Followed>,
}

/// What a stanza asks for, as far as sharing goes.
fn same(followed: (&Api, &Selection), config: &kubernetes::Config) -> bool {
    let (api, selection) = followed;
    api.server == config.api.server
        && selection.labels == config.labels
        && selection.namespace_labels == config.namespace_labels
}

impl Indexes {
    /// One for each selection, with everything that any of its stanzas needs.
    fn of(configuration: &Configuration, kept: &Kept) -> Indexes {
        let mut wanted: Vec<(Api, Selection, EndpointFields, Option<Span>)> = Vec::new();
        for (block, tree) in configuration.blocks.iter().zip(&configuration.corefile.blocks) {
            let stanza = block.settings.iter().find_map(|setting| match setting {
                Setting::Kubernetes(config) => Some(config),
                _ => None,
            });
            let Some(config) = stanza else { continue };
            let view = &config.answers.view;
            let found = wanted.iter().position(|(api, selection, ..)| same((api, selection), config));
            let at = found.unwrap_or_else(|| {
                let selection = Selection {
                    labels: config.labels.clone(),
                    namespace_labels: config.namespace_labels.clone(),
                    ..Selection::default()
                };
                let place = tree.directives_named("kubernetes").next().map(|found| found.span);
                wanted.push((config.api.clone(), selection, EndpointFields::default(), place));
                wanted.len() - 1
            });
            let (api, selection, keep, _) = &mut wanted[at];
            // Those that share an index wait together, until the most patient gives up.
            api.startup_timeout = api.startup_timeout.max(config.api.startup_timeout);
            selection.pods |= kubernetes::wants_pods(view);
            selection.endpoints |= view.endpoints;
            keep.pods |= view.endpoint_pod_names;
            keep.zones |= view.zonal;
        }
        let places: Vec<Option<Span>> = wanted.iter().map(|(.., place)| *place).collect();
        let wanted: Vec<WantedIndex> =
            wanted.into_iter().map(|(api, selection, keep, _)| WantedIndex { api, selection, keep }).collect();
        let all = wanted.iter().zip(places).map(|(one, place)| {
            if let Some(index) = kept.index(one) {
                let previous = kept.previous_index(one, &wanted).filter(|_| !index.is_synced());
                let index = CurrentIndex::replacing(index, previous);
                return Shared { index, wanted: one.clone(), followed: None };
            }
            let previous = kept.previous_index(one, &wanted);
            let WantedIndex { api, selection, keep } = one.clone();
            let (index, writer) = Index::new(&Options { kinds: selection.kinds().collect(), endpoint_fields: keep });
            kept.note_index(one.clone(), &index);
            let followed = Some(Followed { api, selection, writer, place });
            Shared { index: CurrentIndex::replacing(index, previous), wanted: one.clone(), followed }
        });
        Indexes { all: all.collect() }
    }

    /// The index that a stanza answers from.
    fn index_for(&self, config: &kubernetes::Config) -> CurrentIndex {
        let found = self.all.iter().find(|shared| same((&shared.wanted.api, &shared.wanted.selection), config));
        found.expect("`of` made one for each stanza").index.clone()
    }

    /// All of them.
    fn used(&self) -> Vec<CurrentIndex> {
        self.all.iter().map(|shared| shared.index.clone()).collect()
    }

    fn into_followed(self) -> Vec<Followed> {
        self.all.into_iter().filter_map(|shared| shared.followed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::configuration::read_text;
    use crate::cluster::model::Kind;
    use crate::corefile::MemoryFiles;

    /// The kinds that are followed for each index of these stanzas, one block each.
    fn followed(stanzas: &[&str]) -> Vec<Vec<&'static str>> {
        let block = |(n, stanza): (usize, &&str)| format!("z{n}.local {{\n kubernetes {{\n {stanza}\n }}\n}}\n");
        let text: String = stanzas.iter().enumerate().map(block).collect();
        let mut diagnostics = Diagnostics::default();
        let configuration = read_text("Corefile", &text, 53, &MemoryFiles::default(), &mut diagnostics);
        assert!(!diagnostics.has_errors(), "{diagnostics:?}");
        let kinds = |followed: &Followed| followed.selection.kinds().map(|kind| kind.name()).collect();
        Indexes::of(&configuration, &Kept::default()).into_followed().iter().map(kinds).collect()
    }

    /// B11: without endpoints no slices are watched.
    #[test]
    fn stanzas_that_ask_for_the_same_share_one_watch() {
        let (basic, pods) = (vec!["Namespace", "Service", "EndpointSlice"], Kind::ALL.map(Kind::name).to_vec());
        assert_eq!(followed(&["ttl 5", "ttl 30", "pods insecure"]), std::slice::from_ref(&basic));
        // One that wants more is served by a watch of more.
        assert_eq!(followed(&["noendpoints", "pods verified"]), std::slice::from_ref(&pods));
        assert_eq!(followed(&["noendpoints"]), [["Namespace", "Service"]]);
        // Other objects, or another API server, are another watch.
        assert_eq!(followed(&["ttl 5", "labels a=b", "namespace_labels a=b", "labels a = b"]).len(), 3);
        assert_eq!(followed(&["kubeconfig f", "kubeconfig f x", "endpoint http://h", "kubeconfig f"]).len(), 3);
        assert_eq!(followed(&["startup_timeout 1s", "apiserver_qps 9"]), [basic]);
    }
}
