//! *autopath*: walks the search list of a client on its behalf (CoreDNS `plugin/autopath`).
//!
//! ```text
//! github.com.shop.svc.cluster.local ─► is it below the first element of the client's search list?
//!     ─► github.com.shop.svc.cluster.local, github.com.svc.cluster.local, github.com.cluster.local … github.com.
//!        through the plugins after this one, up to the first name that exists
//! reply ◄─ the client's name is an alias (CNAME) of that name
//! ```
//!
//! A reply depends on the client, so it must not be stored for others: the plugin is before *cache*, which stores what
//! is about one name of the list, and it does nothing for internal look-ups of plugins behind a cache.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::build::{BlockBuilder, BuildError, Setting};
use super::path::rooted;
use super::{Context, names};
use crate::chain::pending::{BoxFuture, Continue};
use crate::chain::{
    Exchange, ExplainNotes, Explained, ExplainedRest, Plugin, Rest, RestReply, State, Step, TraceEnd, Wait, Work,
};
use crate::corefile::{Arguments, Diagnostic, Directive, Stage, Token};
use crate::files::{FollowedFile, Look, MAX_RESOLV_CONF, ResolvConf};
use crate::telemetry::metrics::{Metric, ServerCounter, ServerCounters, ServerMetric, table};
use crate::wire::name::MAX_LEN;
use crate::wire::{Class, Name, NameBuf, NameRef, Question, Rcode, Rdata, Record, Reply, Section, Type};

/// The plugins that know search lists of clients.
const SOURCES: [&str; 2] = ["kubernetes", "erratic"];
/// The maximum number of names that are tried. The kubelet allows 32 in a search list.
const MAX_NAMES: usize = 40;
/// The interval at which a file is checked.
const FILE_INTERVAL: Duration = Duration::from_secs(2);

/// The configuration of a server block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The zones of the names that are completed.
    pub zones: Vec<NameBuf>,
    /// Where the search list of a client comes from.
    pub source: Source,
}

/// Where the search list of a client comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file in the format of resolv.conf, for all clients.
    File(PathBuf),
    /// A plugin of the block, for each client.
    Plugin(&'static str),
}

/// Parses the directive. Later stanzas win; a plugin has precedence over a file, as in CoreDNS.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    const WHAT: &str = "'@kubernetes', or a file such as /etc/resolv.conf";
    let errors = context.diagnostics.has_errors();
    let mut config: Option<Config> = None;
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        if !line.more() {
            line.error_expected(&stanza.name, "no resolv-conf specified", WHAT);
        } else if let Some((zones, word)) = line.zones_and_word(WHAT) {
            let zones = names(zones.as_deref().unwrap_or(context.zones.names));
            if zones.is_empty() {
                line.warning(&stanza.name, "no valid zone: 'autopath' applies to no name");
            }
            let source = match word.text.strip_prefix('@') {
                Some(plugin) => parse_plugin(&mut line, word, plugin, context.block),
                None if SOURCES.contains(&word.text.as_str()) && !Path::new(&word.text).exists() => {
                    let message = format!("'{}' is read as a file, which does not exist", word.text);
                    let error = Diagnostic::error(Stage::Parse, Some(word.span), message);
                    line.push(error.expected(WHAT).suggestion(Some(format!("@{}", word.text))));
                    None
                }
                None => rooted(&mut line, None, word).map(Source::File),
            };
            if let Some(source) = source {
                let previous = config.take().map(|previous| previous.source);
                let plugin = previous.filter(|previous| matches!(previous, Source::Plugin(_)));
                let source = match source {
                    Source::File(_) => plugin.unwrap_or(source),
                    Source::Plugin(_) => source,
                };
                config = Some(Config { zones, source });
            }
        }
        line.finish();
    }
    config.filter(|_| errors == context.diagnostics.has_errors())
}

/// Parses the name of a plugin, and warns if no stanza of the block makes it useful.
fn parse_plugin(line: &mut Arguments<'_, '_>, word: &Token, name: &str, block: &[Directive]) -> Option<Source> {
    let Some(&known) = SOURCES.iter().find(|known| **known == name) else {
        line.error_expected(word, format!("{name} does not implement the AutoPather interface"), "'@kubernetes'");
        return None;
    };
    let mut stanzas = block.iter().filter(|directive| directive.name.text == known).peekable();
    let has_verified_pods = |stanza: &Directive| {
        let mut properties = stanza.body.iter().flatten();
        properties
            .any(|property| property.name.text == "pods" && property.args.iter().any(|word| word.text == "verified"))
    };
    if stanzas.peek().is_none() {
        let message = format!("'{}' has no effect without '{known}' in this server block", word.text);
        line.warning(word, message);
    } else if known == "kubernetes" && !stanzas.any(has_verified_pods) {
        line.warning(word, "'@kubernetes' has no effect without 'pods verified' in 'kubernetes'");
    }
    Some(Source::Plugin(known))
}

/// The metric of completed names.
pub enum AutopathMetric {}

impl ServerMetric for AutopathMetric {
    const METRIC: &'static Metric = &table::AUTOPATH_SUCCESS;
}

/// The counters of completed names.
pub type AutopathMetrics = ServerCounters<AutopathMetric>;

/// The search list of a file.
struct SearchFile {
    /// The list; written when the file has changed, read for every query.
    list: ArcSwap<Vec<NameBuf>>,
    /// Locked while the file is read.
    file: Mutex<FollowedFile>,
}

impl SearchFile {
    /// Reads a file.
    fn open(path: PathBuf) -> Result<SearchFile, BuildError> {
        let shown = format!("{:?}", path.display().to_string());
        let mut file = FollowedFile::new_polled(path, MAX_RESOLV_CONF);
        let list = match file.look(SystemTime::now()) {
            Ok(Look::Changed(bytes)) => search_list(&ResolvConf::parse(&bytes)),
            Ok(Look::Unchanged | Look::Unsettled) => Vec::new(),
            Err(error) => return Err(BuildError(format!("failed to parse {shown}: {error}"))),
        };
        Ok(SearchFile { list: ArcSwap::from_pointee(list), file: Mutex::new(file) })
    }

    /// Reads the file if it has changed. After an error the previous list stays in use. Returns whether the file is
    /// being written, so that the next call should come soon. Blocks on the file system: a timer calls it.
    fn refresh(&self, now: SystemTime) -> bool {
        let mut file = self.file.lock();
        match file.look(now) {
            Ok(Look::Unchanged) => false,
            Ok(Look::Unsettled) => true,
            Ok(Look::Changed(bytes)) => {
                self.list.store(Arc::new(search_list(&ResolvConf::parse(&bytes))));
                tracing::info!(plugin = "autopath", "reloaded {}", file.path().display());
                false
            }
            Err(error) => {
                let path = file.path().display();
                tracing::warn!(plugin = "autopath", %error, "cannot read {path}, its last search list stays in use");
                false
            }
        }
    }
}

/// Returns the search list of a file, with the root at its end. Words that are not names are left out.
fn search_list(conf: &ResolvConf) -> Vec<NameBuf> {
    let list = conf.search.iter().filter_map(|word| NameBuf::from_text(word).ok());
    list.map(|name| name.to_lower()).take(MAX_NAMES - 1).chain([Name::ROOT.to_owned()]).collect()
}

impl Setting for Config {
    fn check(&self) -> Vec<BuildError> {
        match &self.source {
            Source::File(path) => SearchFile::open(path.clone()).err().into_iter().collect(),
            Source::Plugin(_) => Vec::new(),
        }
    }

    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let list = match &self.source {
            Source::Plugin(plugin) => Lists::Plugin(plugin),
            Source::File(path) => {
                let file = Arc::new(SearchFile::open(path.clone())?);
                let followed = file.clone();
                block.follow_file(FILE_INTERVAL, move |now| followed.refresh(now));
                Lists::File(file)
            }
        };
        let (zones, all) = (self.zones.clone(), block.resources().metrics.get::<AutopathMetrics>());
        block.plugin_per_listener(move |listener| Autopath {
            zones: zones.clone(),
            lists: list.clone(),
            counter: all.of(&listener.labels.server),
        });
        Ok(())
    }
}

/// The search lists of clients.
#[derive(Clone)]
enum Lists {
    File(Arc<SearchFile>),
    Plugin(&'static str),
}

/// The plugin, for a server block on a socket.
pub struct Autopath {
    zones: Vec<NameBuf>,
    lists: Lists,
    counter: Arc<ServerCounter>,
}

impl Autopath {
    /// Returns the search list of the client, if the name of the question is below its first element.
    fn search_list(&self, exchange: &Exchange<'_>) -> Option<Vec<NameBuf>> {
        let name = exchange.question().name();
        let is_below = |zone: &NameBuf| name.is_within(zone.as_name());
        if exchange.is_shared() || !self.zones.iter().any(is_below) {
            return None;
        }
        let list = match &self.lists {
            Lists::Plugin(plugin) => exchange.search_list(plugin)?,
            Lists::File(file) => {
                let list = file.list.load();
                if !list.first().is_some_and(is_below) {
                    return None;
                }
                list.to_vec()
            }
        };
        // The first element itself has no name in front of it.
        let first = list.first()?.as_name();
        (name.as_wire().len() > first.as_wire().len()).then_some(list)
    }
}

impl Plugin for Autopath {
    fn name(&self) -> &'static str {
        "autopath"
    }

    fn explain(&self, exchange: &mut Exchange<'_>, notes: &mut ExplainNotes) -> Explained {
        let Some(list) = self.search_list(exchange) else { return Explained::Next };
        let shown: Vec<String> = list.iter().map(ToString::to_string).collect();
        let text = format!("if the name does not exist, tries the search list of the client: {}", shown.join(" "));
        notes.lines.push(text);
        let (names, rest) = (names_to_try(exchange, &list), exchange.rest());
        let question = (exchange.question().qtype, exchange.question().qclass);
        for (at, name) in names.iter().enumerate() {
            let (is_first, is_last) = (at == 0, at + 1 == names.len());
            let ExplainedRest { trace, state } = rest.explain(name.as_name(), exchange.now);
            let Some(mut state) = state else {
                match trace.end {
                    // A name without a dot is unlikely to exist at an upstream.
                    TraceEnd::Upstream if !is_last || name.as_name().labels().count() == 1 => {
                        notes.lines.push(format!("an upstream decides whether {name} exists; assumed: it does not"));
                    }
                    TraceEnd::Upstream if !is_first => {
                        notes.lines.push(format!("no name before {name} exists"));
                        let lines = trace.steps.into_iter().flat_map(|step| step.lines);
                        notes.lines.extend(lines.filter(|line| line.starts_with("upstream ")));
                        notes.denial = trace.denial;
                        notes.alias = Some(name.to_string());
                        return Explained::Upstream;
                    }
                    TraceEnd::Alias | TraceEnd::Waits if !is_first => {
                        notes.lines.push(format!("{name} depends on other look-ups"));
                        return Explained::Waits;
                    }
                    // Without a response, the next name is tried.
                    TraceEnd::Dropped => {}
                    // What the plugins after this one do with the client's name follows.
                    _ => return Explained::Next,
                }
                continue;
            };
            match judge(&state) {
                Judgement::Next => {}
                _ if is_first => return Explained::Next,
                judgement => {
                    notes.lines.push(format!("answers as for {name}, the first name that exists or fails"));
                    if judgement == Judgement::Exists {
                        state.reply = complete(&state.reply, name, question);
                    }
                    WalkEnd::Reply(state).finish(exchange.state);
                    return Explained::Answered;
                }
            }
        }
        Explained::Next
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let Some(list) = self.search_list(exchange) else { return Step::Next };
        let walk = Walk::new(exchange, &list, self.counter.clone());
        match walk.advance(exchange.now) {
            Progress::Ended(end) => match end.finish(exchange.state) {
                Continue::Drop => Step::Drop,
                Continue::Answered | Continue::Next => Step::Answered,
            },
            Progress::Waiting(walk, future) => {
                let future = move |mut state: State| -> BoxFuture<(State, Continue)> {
                    Box::pin(async move {
                        let outcome = walk.resume(future).await.finish(&mut state);
                        (state, outcome)
                    })
                };
                let future = Box::new(future);
                Step::Pending(Wait::Work(Work { future, overload: Rcode::SERVFAIL, plugin: "autopath" }))
            }
        }
    }
}

/// A search list that is being walked for a query.
struct Walk {
    rest: Rest,
    question: (Type, Class),
    /// The names that have not been tried, the next one at the end.
    names: Vec<NameBuf>,
    /// The name that is being tried; the first one is the name of the query.
    current: NameBuf,
    /// The result for the first name, once it is known.
    first: Option<WalkEnd>,
    counter: Arc<ServerCounter>,
}

/// What a reply means for the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    /// The name exists.
    Exists,
    /// The look-up fails, as those of the other names would, and the client must not learn that a name does not exist.
    Fails,
    /// The next name is tried.
    Next,
}

/// Decides what a reply means for the search (CoreDNS `AutoPath.ServeDNS`).
fn judge(state: &State) -> Judgement {
    match state {
        _ if state.failure.is_some() => Judgement::Fails,
        _ if !state.bare && state.reply.rcode != Rcode::NXDOMAIN => Judgement::Exists,
        _ => Judgement::Next,
    }
}

/// Returns the names of a search list whose first element the name of the query is below: first that name as the client
/// has sent it, and then each element behind the name in front of the first.
fn names_to_try(exchange: &Exchange<'_>, list: &[NameBuf]) -> Vec<NameBuf> {
    let sent = exchange.query.sent_name().as_wire();
    let first = list.first().map_or(1, |first| first.as_wire().len());
    let base = &sent[..sent.len() - first];
    let named = |element: &NameBuf| {
        let mut wire = base.to_vec();
        wire.extend_from_slice(element.as_wire());
        // Too long a name does not exist.
        (wire.len() <= MAX_LEN).then(|| Name::from_wire(&wire).ok().map(Name::to_owned))?
    };
    let others = list.iter().skip(1).take(MAX_NAMES - 1).filter_map(named);
    [exchange.query.sent_name().to_owned()].into_iter().chain(others).collect()
}

/// Returns a reply about a name as one about the name of the query, which is its alias.
fn complete(found: &Reply, name: &NameBuf, (qtype, qclass): (Type, Class)) -> Reply {
    let mut reply = found.detached(&Question::new(name.as_name(), qtype, qclass));
    if let Some(ttl) = found.section(Section::Answer).next().map(|record| record.ttl) {
        let rdata = Rdata::Name(reply.store_name(name.as_name()));
        let (owner, rtype, class) = (NameRef::QUESTION, Type::CNAME, Class::IN);
        let alias = Record { section: Section::Answer, owner, rtype, class, ttl, rdata };
        reply.records_mut().insert(0, alias);
    }
    reply
}

/// The result of a walk.
enum WalkEnd {
    /// The reply to the query.
    Reply(Box<State>),
    /// There is no response.
    Drop,
}

/// How far a walk has come.
enum Progress {
    Ended(WalkEnd),
    /// The current name is pending.
    Waiting(Box<Walk>, BoxFuture<Option<Box<State>>>),
}

impl Walk {
    /// Starts with a list whose first element the name of the query is below.
    fn new(exchange: &Exchange<'_>, list: &[NameBuf], counter: Arc<ServerCounter>) -> Box<Walk> {
        let mut names = names_to_try(exchange, list);
        names.reverse();
        let question = exchange.question();
        Box::new(Walk {
            rest: exchange.rest(),
            question: (question.qtype, question.qclass),
            names,
            current: Name::ROOT.to_owned(),
            first: None,
            counter,
        })
    }

    /// Tries names until one exists or is pending.
    fn advance(mut self: Box<Self>, now: Instant) -> Progress {
        while let Some(name) = self.names.pop() {
            self.current = name;
            let state = match self.rest.run(self.current.as_name(), now) {
                RestReply::Ready(state) => Some(state),
                RestReply::Dropped => None,
                RestReply::Pending(future) => return Progress::Waiting(self, future),
            };
            if let Some(end) = self.judge(state) {
                return Progress::Ended(end);
            }
        }
        // No name exists: the client continues its own search with this reply.
        Progress::Ended(self.first.unwrap_or(WalkEnd::Drop))
    }

    /// Waits for the current name, and continues.
    async fn resume(mut self: Box<Self>, mut future: BoxFuture<Option<Box<State>>>) -> WalkEnd {
        loop {
            let state = future.await;
            if let Some(end) = self.judge(state) {
                return end;
            }
            let now = self.rest.now();
            match self.advance(now) {
                Progress::Ended(end) => return end,
                Progress::Waiting(walk, next) => (self, future) = (walk, next),
            }
        }
    }

    /// Decides whether the walk ends with the current name, whose result this is.
    fn judge(&mut self, state: Option<Box<State>>) -> Option<WalkEnd> {
        let is_first = self.first.is_none();
        let Some(mut state) = state else {
            if is_first {
                self.first = Some(WalkEnd::Drop);
            }
            return None;
        };
        match judge(&state) {
            Judgement::Fails => Some(WalkEnd::Reply(state)),
            Judgement::Exists => {
                if !is_first {
                    state.reply = complete(&state.reply, &self.current, self.question);
                }
                self.counter.increment();
                Some(WalkEnd::Reply(state))
            }
            Judgement::Next => {
                if is_first {
                    self.first = Some(WalkEnd::Reply(state));
                }
                None
            }
        }
    }
}

impl WalkEnd {
    /// Moves the result into the state of the query.
    fn finish(self, into: &mut State) -> Continue {
        match self {
            WalkEnd::Drop => Continue::Drop,
            WalkEnd::Reply(from) => {
                into.take_reply(*from);
                Continue::Answered
            }
        }
    }
}
