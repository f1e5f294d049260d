//! Builds what serves a configuration: a router for each listener, and the indexes that its plugins answer from.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::configuration::Configuration;
use super::indexes::{Followed, Indexes, KnownIndexes};
use super::sockets::{ListenerAddress, Socket, check_listeners, credentials, hosts};
use crate::chain::{self, Router, Surroundings};
use crate::cluster::CurrentIndex;
use crate::corefile::{self, Diagnostic, Diagnostics, Listen, Scheme, Stage, check_keys};
use crate::net::{Address, Credentials, Interface, ProxyRules};
use crate::plugins::build::{
    ActivePlugin, ApplyTask, BlockBuilder, BlockContext, BoundTask, Chore, ConfigurationState, Hook, ListenerLimits,
    PageRequest, Resources, ServerBlock, TimeoutOptions,
};
use crate::telemetry::metrics::BlockLabels;
use crate::wire::NameBuf;

/// What a configuration is built with.
pub struct World {
    /// The resources that plugins use.
    pub resources: Resources,
    /// The clock, and background work for answers.
    pub surroundings: Surroundings,
    /// The indexes of earlier configurations.
    pub indexes: KnownIndexes,
}

/// A configuration that was built.
pub struct Built {
    /// The listeners.
    pub listeners: Vec<Listener>,
    /// The indexes that have to be filled.
    pub indexes: Vec<Followed>,
    /// All indexes that are answered from.
    pub used: Vec<CurrentIndex>,
    /// Some block has *debug*.
    pub debug: bool,
    /// Periodic work.
    pub chores: Vec<Chore>,
    /// Pages for operators.
    pub pages: Vec<PageRequest>,
    /// Work that starts when a listener is bound, with the index of that listener.
    pub bound_tasks: Vec<(usize, BoundTask)>,
    /// Work that starts when the configuration is applied.
    pub tasks: Vec<ApplyTask>,
    /// Work when the configuration is in use.
    pub at_start: Vec<Hook>,
    /// Work when the process is about to stop.
    pub at_stop: Vec<Hook>,
    /// The plugins, for metrics.
    pub plugins: Vec<ActivePlugin>,
    /// The number of UDP sockets of each address, if it is configured.
    pub sockets: Option<NonZeroUsize>,
    /// How long everything continues after the order to end.
    pub lameduck: Duration,
}

/// A UDP socket, a TCP socket, or both at one address.
pub struct Listener {
    /// Where it listens.
    pub address: ListenerAddress,
    /// The zones, as lines at the start name them.
    pub zones: Vec<String>,
    /// Answers the queries.
    pub router: Arc<Router>,
    /// The timeouts of TCP connections.
    pub timeouts: TimeoutOptions,
    /// The limits of encrypted connections.
    pub limits: ListenerLimits,
    /// The rules for headers of the PROXY protocol.
    pub proxy: Option<ProxyRules>,
    /// The certificate of encrypted connections.
    pub credentials: Option<Arc<Credentials>>,
}

/// Returns the zones of a block, and its place in the Corefile, for people.
fn place(configuration: &Configuration, block: &ServerBlock, tree: &corefile::Block) -> String {
    let zones: Vec<String> = block.keys.iter().map(|key| format!("{}:{}", key.zone, key.port)).collect();
    let mut text = zones.join(" ");
    if let Some(view) = &block.options.view {
        text.push_str(&format!(" view {view}"));
    }
    if let Some(key) = tree.keys.first() {
        text.push_str(&format!(" ({})", configuration.corefile.sources.place(key.token.span)));
    }
    text
}

/// Returns the addresses that each block listens on, if it restricts them. Addresses that this machine does not have
/// are errors, and so are blocks with the same zone on the same address, and listeners that cannot be open together.
pub fn listen_addresses(
    configuration: &Configuration, port: u16, interfaces: &[Interface], diagnostics: &mut Diagnostics,
) -> Vec<Option<Vec<Address>>> {
    let mut all = Vec::new();
    for block in &configuration.blocks {
        let addresses = block.directives.iter().find_map(|directive| directive.addresses(interfaces, diagnostics));
        all.push(addresses);
    }
    let listens =
        all.iter().map(|addresses| Listen { addresses: addresses.iter().flatten().map(ToString::to_string).collect() });
    check_keys(&configuration.corefile, port, listens, diagnostics);
    check_listeners(configuration, port, &all, diagnostics);
    all
}

/// Builds a configuration. Errors that only the machine shows are added to `diagnostics`.
pub fn build(configuration: &Configuration, port: u16, world: &World, diagnostics: &mut Diagnostics) -> Built {
    let addresses = listen_addresses(configuration, port, &world.resources.interfaces, diagnostics);
    let indexes = Indexes::new(configuration, &world.indexes);
    let index = |request: &_| indexes.for_request(request);
    let state = ConfigurationState::default();
    let mut sockets: Vec<Socket> = Vec::new();
    let mut socket_of: HashMap<ListenerAddress, usize> = HashMap::new();
    let (mut chores, mut pages, mut bound_tasks, mut plugins) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut tasks = Vec::new();
    let (mut at_start, mut at_stop) = (Vec::new(), Vec::new());
    let mut observer = None;
    for ((block, tree), addresses) in configuration.blocks.iter().zip(&configuration.corefile.blocks).zip(&addresses) {
        let addresses = addresses.as_deref();
        let context = BlockContext { block, addresses, resources: &world.resources, state: &state, index: &index };
        let mut built = BlockBuilder::new(context).build(|directive, message| {
            let span = tree.directives_named(directive).next().map(|stanza| stanza.span);
            diagnostics.push(Diagnostic::error(Stage::Setup, span, message).plugin(directive));
        });
        chores.append(&mut built.chores);
        pages.append(&mut built.pages);
        tasks.append(&mut built.tasks);
        at_start.append(&mut built.at_start);
        at_stop.append(&mut built.at_stop);
        observer = observer.or(built.observer.take());
        let hosts = hosts(addresses);
        // One chain for all zones that the block serves on a socket.
        let mut zones_of_port: BTreeMap<(Scheme, u16), Vec<NameBuf>> = BTreeMap::new();
        for key in &block.keys {
            zones_of_port.entry((key.scheme, key.port)).or_default().push(key.zone.clone());
        }
        let tls = block.options.tls.as_ref();
        for ((scheme, port), zones) in zones_of_port {
            for &host in &hosts {
                let address = ListenerAddress { scheme, host, port };
                let at = *socket_of.entry(address).or_insert_with(|| {
                    sockets.push(Socket { address, files: tls.cloned(), ..Socket::default() });
                    sockets.len() - 1
                });
                let server = address.server_name();
                let labels = BlockLabels { server, view: block.options.view.clone().unwrap_or_default() };
                let chain = built.chain(&labels, &zones).with_place(&place(configuration, block, tree));
                if built.reports_plugins {
                    let active = |(zone, name): (&NameBuf, &'static str)| ActivePlugin {
                        name,
                        labels: labels.clone(),
                        zone: zone.to_string(),
                    };
                    let names = chain.plugins().iter().map(|plugin| plugin.name());
                    plugins.extend(names.flat_map(|name| zones.iter().map(move |zone| (zone, name))).map(active));
                }
                // One socket is enough for what a block does once.
                if scheme == Scheme::Dns {
                    bound_tasks.extend(built.bound_tasks.drain(..).map(|task| (at, task)));
                }
                sockets[at].blocks.push(chain::Block { zones: zones.clone(), chain });
                sockets[at].apply(&block.options);
            }
        }
    }
    let credentials = credentials(configuration, &sockets, diagnostics);
    let listeners = sockets.into_iter().zip(credentials).map(|(socket, credentials)| {
        let Socket { address, blocks, other_classes, timeouts, limits, proxy, .. } = socket;
        let zones = blocks.iter().flat_map(|block| &block.zones).map(ToString::to_string).collect();
        let mut router = Router::new(blocks, other_classes).surrounded_by(world.surroundings.clone());
        if let Some(observer) = &observer {
            router = router.observed_by(observer(&address.server_name()));
        }
        Listener { address, zones, router: Arc::new(router), timeouts, limits, proxy, credentials }
    });
    let options = || configuration.blocks.iter().map(|block| &block.options);
    Built {
        listeners: listeners.collect(),
        used: indexes.used(),
        debug: options().any(|options| options.is_debug),
        sockets: options().filter_map(|options| options.sockets).max(),
        lameduck: options().map(|options| options.lameduck).max().unwrap_or_default(),
        indexes: indexes.into_followed(),
        chores,
        pages,
        bound_tasks,
        at_start,
        at_stop,
        tasks,
        plugins,
    }
}
