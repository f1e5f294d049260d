//! The builder of a server block: its directives register plugins, pages and periodic work here.

use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{ConfigurationState, IndexRequest, LiveZone, Resources, ServerBlock};
use crate::admin::Page;
use crate::chain::pending::BoxFuture;
use crate::chain::{Chain, Observer, Plugin, UpstreamTap};
use crate::cluster::CurrentIndex;
use crate::net::Address;
use crate::plugins::page_address::PageAddress;
use crate::telemetry::metrics::BlockLabels;
use crate::wire::NameBuf;

/// The shortest interval at which a file is checked, whatever `reload` says.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// What a block is built from.
#[derive(Clone, Copy)]
pub struct BlockContext<'a> {
    /// The block.
    pub block: &'a ServerBlock,
    /// The addresses that it listens on, if a directive restricts them.
    pub addresses: Option<&'a [Address]>,
    /// The resources of the process.
    pub resources: &'a Resources,
    /// The state that the blocks of the configuration share.
    pub state: &'a ConfigurationState,
    /// Returns the index for a request of the configuration.
    pub index: &'a dyn Fn(&IndexRequest) -> CurrentIndex,
}

/// Collects what the directives of a block contribute.
pub struct BlockBuilder<'a> {
    /// The block, and what it shares with other blocks.
    context: BlockContext<'a>,
    /// The directive that is being built.
    directive: &'static str,
    built: BuiltBlock,
    hooks: Vec<CompleteHook>,
    /// Observers of attempts at upstreams.
    upstream_taps: Vec<Arc<dyn UpstreamTap>>,
}

/// Called with all plugins of a block that its listeners share.
type CompleteHook = Box<dyn FnOnce(&[Arc<dyn Plugin>])>;
/// Makes a plugin of another one, which has a number.
type PluginWrapper = Box<dyn Fn(usize, Arc<dyn Plugin>) -> Arc<dyn Plugin> + Send + Sync>;
/// Creates a plugin for a listener.
type PluginFactory = Box<dyn Fn(&ListenerInfo<'_>) -> Arc<dyn Plugin>>;
/// Work at the start or at the stop, on a thread that answers no queries. It may block for the time that it gets.
pub type Hook = Arc<dyn Fn(Duration) + Send + Sync>;
/// Creates an observer of a listener, which is named like `dns://:53`.
type ObserverFactory = Box<dyn Fn(&str) -> Arc<dyn Observer>>;
/// Work that starts when the first plain DNS listener of a block is bound, with its address.
pub type BoundTask = Box<dyn FnOnce(SocketAddr) -> BoxFuture<()> + Send>;
/// Work that starts when the configuration is applied.
pub type ApplyTask = Box<dyn FnOnce() -> BoxFuture<()> + Send>;
/// Work that runs while a page is served, with the page's address.
pub type PageTask = Arc<dyn Fn(SocketAddr) -> BoxFuture<()> + Send + Sync>;

/// A plugin, or how each listener gets one of its own.
enum Slot {
    Shared(Arc<dyn Plugin>),
    PerListener(PluginFactory),
}

/// A listener of a block, for the plugins that each listener has for itself.
pub struct ListenerInfo<'a> {
    /// Its labels in metrics.
    pub labels: &'a BlockLabels,
    /// The zones of the block on this listener.
    pub zones: &'a [NameBuf],
    /// The name of the next plugin; empty for the last one.
    pub next: &'static str,
}

/// Periodic work.
pub struct Chore {
    /// The interval.
    pub every: Duration,
    /// Called with the time of day; may block. Returns whether it has to run again soon.
    pub run: Box<dyn Fn(SystemTime) -> bool + Send + Sync>,
    /// Called once at the end.
    pub stop: Option<Box<dyn Fn() + Send + Sync>>,
}

/// A page for operators.
pub struct PageRequest {
    /// The directive, for messages.
    pub directive: &'static str,
    /// The address on which the page is served; pages of several blocks may share it.
    pub address: PageAddress,
    /// The path.
    pub path: &'static str,
    /// The content.
    pub page: Page,
    /// A web configuration of the Prometheus exporter toolkit.
    pub tls: Option<PathBuf>,
    /// Work that runs while the page is served.
    pub task: Option<PageTask>,
    /// The pages of the same listener that CoreDNS does not have, by path.
    pub added: Vec<(&'static str, Page)>,
}

impl PageRequest {
    /// Creates a request for a page without TLS and without work beside it.
    pub fn new(directive: &'static str, address: PageAddress, path: &'static str, page: Page) -> PageRequest {
        PageRequest { directive, address, path, page, tls: None, task: None, added: Vec::new() }
    }
}

/// What the directives of a block have registered.
#[derive(Default)]
pub struct BuiltBlock {
    slots: Vec<Slot>,
    /// Wraps the plugins from this index on.
    wrapper: Option<(usize, PluginWrapper)>,
    metadata: Option<Vec<NameBuf>>,
    /// Periodic work.
    pub chores: Vec<Chore>,
    /// Pages for operators.
    pub pages: Vec<PageRequest>,
    /// Work that starts when a listener is bound.
    pub bound_tasks: Vec<BoundTask>,
    /// Work that starts when the configuration is applied.
    pub tasks: Vec<ApplyTask>,
    /// Work when the configuration is in use, one after the other.
    pub at_start: Vec<Hook>,
    /// Work when the process is about to stop, one after the other.
    pub at_stop: Vec<Hook>,
    /// The plugins of the block are reported as active.
    pub reports_plugins: bool,
    /// Creates the observer of every listener of the configuration.
    pub observer: Option<ObserverFactory>,
}

impl<'a> BlockBuilder<'a> {
    /// Creates a builder.
    pub fn new(context: BlockContext<'a>) -> BlockBuilder<'a> {
        BlockBuilder {
            context,
            directive: "",
            built: BuiltBlock::default(),
            hooks: Vec::new(),
            upstream_taps: Vec::new(),
        }
    }

    /// Builds every directive. Errors are given to `report`, with the name of the directive.
    pub fn build(mut self, mut report: impl FnMut(&'static str, String)) -> BuiltBlock {
        for directive in &self.context.block.directives {
            self.directive = directive.name;
            if let Err(error) = directive.build(&mut self) {
                report(directive.name, error.to_string());
            }
        }
        let shared = |slot: &Slot| if let Slot::Shared(plugin) = slot { Some(plugin.clone()) } else { None };
        let plugins: Vec<Arc<dyn Plugin>> = self.built.slots.iter().filter_map(shared).collect();
        self.hooks.into_iter().for_each(|hook| hook(&plugins));
        self.built
    }

    /// Returns the resources of the process.
    pub fn resources(&self) -> &'a Resources {
        self.context.resources
    }

    /// Returns the first zone of the block; the root if it has none.
    pub fn first_zone(&self) -> NameBuf {
        let key = self.context.block.keys.first();
        key.map_or_else(|| crate::wire::Name::ROOT.to_owned(), |key| key.zone.clone())
    }

    /// Returns the zones of the block in which some plugin answers live.
    pub fn live_zones(&self) -> Vec<LiveZone> {
        self.context.block.directives.iter().flat_map(|directive| directive.live_zones()).collect()
    }

    /// Returns the addresses of the server that clients may use: those that the block listens on, or all of the
    /// machine.
    pub fn server_addresses(&self) -> Vec<IpAddr> {
        let mut own: Vec<IpAddr> = match self.context.addresses {
            Some(bound) => bound.iter().map(|address| address.ip).collect(),
            None => self.resources().interfaces.iter().flat_map(|interface| interface.addresses.clone()).collect(),
        };
        own.retain(|address| !address.is_loopback() && !address.is_unspecified());
        own
    }

    /// Returns the index for a request, which must be the directive's [`super::Setting::index_request`].
    pub fn index(&self, request: &IndexRequest) -> CurrentIndex {
        (self.context.index)(request)
    }

    /// Returns the state that all blocks of the configuration share.
    pub fn configuration_state<T: Any + Default + Send + Sync>(&self) -> Arc<T> {
        self.context.state.get()
    }

    /// Returns the part of this directive that an equal block of the configuration before has, or creates it.
    pub fn carry_over<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        self.resources().carried_over.get_or_make(self.context.block, self.directive, make)
    }

    /// Adds a plugin behind those that are there.
    pub fn plugin(&mut self, plugin: impl Plugin + 'static) {
        self.shared_plugin(Arc::new(plugin));
    }

    /// Adds a plugin that something else uses too.
    pub fn shared_plugin(&mut self, plugin: Arc<dyn Plugin>) {
        self.built.slots.push(Slot::Shared(plugin));
    }

    /// Adds a plugin of which each listener has one of its own.
    pub fn plugin_per_listener<P: Plugin + 'static>(&mut self, make: impl Fn(&ListenerInfo<'_>) -> P + 'static) {
        self.built.slots.push(Slot::PerListener(Box::new(move |listener| Arc::new(make(listener)))));
    }

    /// Enables metadata for names in these zones.
    pub fn enable_metadata(&mut self, zones: Vec<NameBuf>) {
        self.built.metadata = Some(zones);
    }

    /// Adds periodic work.
    pub fn chore(&mut self, chore: Chore) {
        self.built.chores.push(chore);
    }

    /// Adds the periodic check of a file; never if `every` is zero.
    pub fn follow_file(&mut self, every: Duration, run: impl Fn(SystemTime) -> bool + Send + Sync + 'static) {
        if !every.is_zero() {
            self.chore(Chore { every: every.max(SHORTEST_INTERVAL), run: Box::new(run), stop: None });
        }
    }

    /// Adds a page for operators.
    pub fn page(&mut self, page: PageRequest) {
        self.built.pages.push(page);
    }

    /// Starts work when the configuration is applied. It has to end by itself.
    pub fn task(&mut self, task: impl FnOnce() -> BoxFuture<()> + Send + 'static) {
        self.built.tasks.push(Box::new(task));
    }

    /// Has every plugin that is added after this call replaced by what `wrap` makes of it, which also gets a number of
    /// the plugin that no other one of the block has.
    pub fn wrap_later_plugins(
        &mut self, wrap: impl Fn(usize, Arc<dyn Plugin>) -> Arc<dyn Plugin> + Send + Sync + 'static,
    ) {
        self.built.wrapper = Some((self.built.slots.len(), Box::new(wrap)));
    }

    /// Returns the first address that the block listens on, if a directive restricts them.
    pub fn first_address(&self) -> Option<SocketAddr> {
        let port = self.context.block.keys.first()?.port;
        self.context.addresses?.first().map(|address| SocketAddr::new(address.ip, port))
    }

    /// Adds an observer of attempts at upstreams for the queries of the block.
    pub fn tap_upstreams(&mut self, tap: Arc<dyn UpstreamTap>) {
        self.upstream_taps.push(tap);
    }

    /// Returns the observers that directives before this one have added.
    pub fn upstream_taps(&self) -> Vec<Arc<dyn UpstreamTap>> {
        self.upstream_taps.clone()
    }

    /// Starts work when the first plain DNS listener of the block is bound.
    pub fn when_bound(&mut self, task: impl FnOnce(SocketAddr) -> BoxFuture<()> + Send + 'static) {
        self.built.bound_tasks.push(Box::new(task));
    }

    /// Runs work when the configuration is in use, at start and after a reload.
    pub fn at_start(&mut self, hook: Hook) {
        self.built.at_start.push(hook);
    }

    /// Runs work when the process is about to stop, while queries are still answered.
    pub fn at_stop(&mut self, hook: Hook) {
        self.built.at_stop.push(hook);
    }

    /// Calls `hook` with the plugins of the block that its listeners share, once all are built.
    pub fn when_complete(&mut self, hook: impl FnOnce(&[Arc<dyn Plugin>]) + 'static) {
        self.hooks.push(Box::new(hook));
    }

    /// Reports the plugins of the block as active, and observes every listener of the configuration.
    pub fn observe(&mut self, make: impl Fn(&str) -> Arc<dyn Observer> + 'static) {
        self.built.reports_plugins = true;
        self.built.observer = Some(Box::new(make));
    }
}

impl BuiltBlock {
    /// Creates the chain of a listener.
    pub fn chain(&self, labels: &BlockLabels, zones: &[NameBuf]) -> Chain {
        let mut plugins: Vec<Arc<dyn Plugin>> = Vec::with_capacity(self.slots.len());
        // The last first, so that each knows the next.
        for (number, slot) in self.slots.iter().enumerate().rev() {
            let next = plugins.last().map_or("", |plugin| plugin.name());
            let plugin = match slot {
                Slot::Shared(plugin) => plugin.clone(),
                Slot::PerListener(make) => make(&ListenerInfo { labels, zones, next }),
            };
            plugins.push(match &self.wrapper {
                Some((from, wrap)) if number >= *from => wrap(number, plugin),
                _ => plugin,
            });
        }
        plugins.reverse();
        let chain = Chain::new(plugins);
        match &self.metadata {
            Some(zones) => chain.with_metadata(zones.clone()),
            None => chain,
        }
    }
}
