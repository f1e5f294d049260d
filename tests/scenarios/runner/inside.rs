//! The subject in this process: everything that the program builds from a Corefile, without sockets.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clusterdns::app::build::{Built, World, build};
use clusterdns::app::indexes::Followed;
use clusterdns::app::metrics;
use clusterdns::app::{VERSION, configuration};
use clusterdns::chain::pending::BoxFuture;
use clusterdns::chain::{Answer, Client, State, Surroundings, Transport};
use clusterdns::cluster::Event;
use clusterdns::cluster::model::{Kind, Object, ObjectKey};
use clusterdns::corefile::{Diagnostics, MemoryFiles, render_text};
use clusterdns::plugins::build::Resources;
use clusterdns::source::manifests::Snapshot;
use clusterdns::telemetry::log::{LogFormat, Logger};
use clusterdns::upstream::{Dispatcher, UpstreamRegistry};
use clusterdns::wire::{MAX_MESSAGE, MAX_UDP};
use serde_json::Value;

use super::format::Setup;
use super::outside::{Outside, Paths};

/// The port of keys without one.
const PORT: u16 = 53;
/// The time at which every scenario starts, in seconds since 1970.
const START: u32 = 1_800_000_000;

/// A server in this process.
pub struct Inside {
    built: Built,
    logger: Logger,
    /// The diagnostics of the Corefile.
    pub diagnostics: String,
    /// The Corefile has errors, so that there is nothing to query.
    pub broken: bool,
    folder: Folder,
    /// The objects of the cluster, by kind, namespace and name.
    cluster: BTreeMap<(String, String, String), Value>,
    /// The same as the indexes got it.
    snapshot: Snapshot,
    synced: bool,
    /// The upstreams.
    pub outside: Arc<Outside>,
    /// Background futures. They run after a response.
    background: Arc<Mutex<Vec<BoxFuture<()>>>>,
    runtime: tokio::runtime::Runtime,
    started: Instant,
    passed: Duration,
    state: State,
}

impl Inside {
    /// Builds the server.
    pub fn new(setup: &Setup) -> Result<Inside, String> {
        let folder = Folder::new();
        let mut files = MemoryFiles::default();
        for (name, text) in &setup.files {
            files.files.insert(folder.0.join(name), text.clone());
            files.files.insert(name.into(), text.clone());
            // Plugins that follow a file read it from disk.
            folder.write(name, text);
        }
        let mut diagnostics = Diagnostics::default();
        let corefile = setup.corefile.replace("$DIR", &folder.0.display().to_string());
        let configuration = configuration::read_text("Corefile", &corefile, PORT, &files, &mut diagnostics);
        let logger = Logger::unwritten(LogFormat::Text);
        let debug = Arc::new(AtomicBool::new(false));
        let (hostname, interfaces) = (setup.hostname.clone(), setup.interfaces.clone());
        let metrics = metrics::create();
        let outside = Arc::new(Outside::default());
        outside.say(setup.upstream.clone());
        let has_rewrite = setup.corefile.lines().any(|line| line.trim_start().starts_with("rewrite"));
        outside.shows_questions.store(has_rewrite, Ordering::Relaxed);
        let dispatcher = Dispatcher::default();
        dispatcher.set(Arc::new(Paths(outside.clone())));
        let background: Arc<Mutex<Vec<BoxFuture<()>>>> = Arc::default();
        let (clock, spawned) = (outside.clone(), background.clone());
        let surroundings = Surroundings {
            clock: Arc::new(move || clock.now()),
            spawner: Arc::new(move |future| spawned.lock().unwrap_or_else(PoisonError::into_inner).push(future)),
            ..Surroundings::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let resources = Resources {
            logger: logger.clone(),
            hostname,
            search_list: setup.search_list.clone(),
            version: VERSION,
            interfaces,
            debug,
            upstreams: Arc::new(UpstreamRegistry::new(runtime.handle().clone(), metrics.get())),
            metrics,
            dispatcher,
            lifecycle: Default::default(),
            carried_over: Default::default(),
        };
        let world = World { resources, surroundings, indexes: Default::default() };
        let built = build(&configuration, PORT, &world, &mut diagnostics);
        world.resources.debug.store(built.debug, Ordering::Relaxed);
        let text = render_text(&diagnostics, &configuration.corefile.sources);
        let mut inside = Inside {
            built,
            logger,
            diagnostics: hide_directory(&text, &folder.0.display().to_string()),
            broken: diagnostics.has_errors(),
            folder,
            cluster: BTreeMap::new(),
            snapshot: Snapshot::default(),
            synced: false,
            outside,
            background,
            runtime,
            started: Instant::now(),
            passed: Duration::ZERO,
            state: State::default(),
        };
        for text in &setup.objects {
            inside.add(text)?;
        }
        if !setup.unsynced {
            inside.sync()?;
        }
        Ok(inside)
    }

    /// Completes the first lists.
    pub fn sync(&mut self) -> Result<(), String> {
        self.synced = true;
        self.send_changes()?;
        self.relist();
        Ok(())
    }

    /// Lists everything again, with kinds and objects in reverse order.
    pub fn relist(&mut self) {
        let now = self.clock();
        for Followed { selection, writer, .. } in &mut self.built.indexes {
            let objects = objects(&self.snapshot, selection);
            for kind in selection.kinds().collect::<Vec<_>>().into_iter().rev() {
                writer.apply(Event::Begin(kind), now);
                for object in objects.iter().rev().filter(|object| object.kind() == kind) {
                    writer.apply(Event::Upsert(object.clone()), now);
                }
                writer.apply(Event::End(kind), now);
            }
        }
    }

    /// Creates or changes objects.
    pub fn apply(&mut self, text: &str) -> Result<(), String> {
        self.add(text)?;
        self.send_changes()
    }

    /// Deletes an object.
    pub fn delete(&mut self, kind: &str, name: &str) -> Result<(), String> {
        let (ns, name) = match name.split_once('/') {
            Some((ns, name)) => (ns, name),
            None if kind == "Namespace" => ("", name),
            None => ("default", name),
        };
        let key = (kind.to_owned(), ns.to_owned(), name.to_owned());
        self.cluster.remove(&key).ok_or(format!("there is no {kind} {ns}/{name}"))?;
        self.send_changes()
    }

    /// Advances the clock, and runs periodic work.
    pub fn pass(&mut self, time: Duration) {
        self.passed += time;
        let now = std::time::SystemTime::now() + time;
        for chore in self.built.chores.iter().filter(|chore| chore.every <= time) {
            (chore.run)(now);
        }
    }

    /// Writes a file beside the Corefile.
    pub fn write(&self, name: &str, text: &str) {
        self.folder.write(name, text);
    }

    /// Returns the warnings about the manifests.
    pub fn warnings(&self) -> Vec<String> {
        self.snapshot.warnings().iter().map(ToString::to_string).collect()
    }

    /// Returns the log lines since the last call. Durations are replaced by `_`.
    pub fn log(&self) -> Vec<String> {
        let text = self.logger.take();
        let duration = |word: &str| {
            let number = word.trim_end_matches(|c: char| c.is_alphabetic() || c == 'µ');
            let unit = &word[number.len()..];
            if ["s", "ms", "µs", "ns"].contains(&unit) && number.parse::<f64>().is_ok() { "_" } else { word }.to_owned()
        };
        let line = |line: &str| line.split(' ').map(duration).collect::<Vec<_>>().join(" ");
        text.lines().map(line).collect()
    }

    /// Sends a packet to the listener with a port and address.
    pub fn ask(
        &mut self, packet: &[u8], transport: Transport, from: Option<IpAddr>, port: u16, to: Option<IpAddr>,
    ) -> Result<Option<Vec<u8>>, String> {
        let wanted = |have: Option<IpAddr>| to.is_none() || have.is_none() || have == to;
        let mut listeners = self.built.listeners.iter();
        let listener = listeners
            .find(|listener| listener.address.port == port && wanted(listener.address.host.map(|address| address.ip)))
            .ok_or(format!("nothing listens on port {port}"))?;
        let local = listener.address.host.map(|address| address.ip).or(to).unwrap_or(IpAddr::from([10, 244, 0, 2]));
        let from = from.unwrap_or(IpAddr::from([10, 244, 9, 9]));
        let client = Client { remote: SocketAddr::new(from, 40_000), local: SocketAddr::new(local, port), transport };
        let mut out = vec![0; if transport == Transport::Udp { MAX_UDP } else { MAX_MESSAGE }];
        let now = self.started + self.passed;
        self.outside.set_now(now);
        let runtime = &self.runtime;
        let len = match listener.router.answer(packet, client, now, &mut self.state, &mut out) {
            Answer::Send(len) => len,
            Answer::Drop => return Ok(None),
            Answer::Pending(pending) => match runtime.block_on(pending.finish()) {
                Some(finished) => finished.encode(&mut out),
                None => return Ok(None),
            },
        };
        let background = std::mem::take(&mut *self.background.lock().unwrap_or_else(PoisonError::into_inner));
        for future in background {
            runtime.block_on(future);
        }
        out.truncate(len);
        Ok(Some(out))
    }

    /// Returns the port of the first listener.
    pub fn any_port(&self) -> u16 {
        self.built.listeners.first().map_or(PORT, |listener| listener.address.port)
    }

    /// Returns the time in seconds since 1970.
    fn clock(&self) -> u32 {
        START + self.passed.as_secs() as u32
    }

    /// Adds manifests to the cluster.
    fn add(&mut self, text: &str) -> Result<(), String> {
        let options = serde_saphyr::options! { budget: serde_saphyr::budget! { max_documents: 100_000, max_nodes: 10_000_000, max_events: 20_000_000 } };
        let documents: Vec<Value> =
            serde_saphyr::from_multiple_with_options(text, options).map_err(|error| format!("YAML: {error}"))?;
        let mut remaining = documents;
        while let Some(mut value) = remaining.pop() {
            if let Some(items) = value.get_mut("items").map(Value::take) {
                remaining.extend(items.as_array().cloned().unwrap_or_default());
                continue;
            }
            if value.is_null() {
                continue;
            }
            let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (kind, mut ns, name) = (text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
            if ns.is_empty() && kind != "Namespace" {
                ns = "default".to_owned();
            }
            self.cluster.insert((kind, ns, name), value);
        }
        Ok(())
    }

    /// Sends changes to the indexes, object by object as a watch does.
    fn send_changes(&mut self) -> Result<(), String> {
        let list =
            serde_json::json!({"apiVersion": "v1", "kind": "List", "items": self.cluster.values().collect::<Vec<_>>()});
        let next = Snapshot::of_text(Path::new("objects.json"), &list.to_string());
        let previous = std::mem::replace(&mut self.snapshot, next);
        if !self.synced {
            return Ok(());
        }
        let now = self.clock();
        for Followed { selection, writer, .. } in &mut self.built.indexes {
            let (old, new) = (objects(&previous, selection), objects(&self.snapshot, selection));
            for object in new.iter().filter(|object| !old.contains(object)) {
                writer.apply(Event::Upsert(object.clone()), now);
            }
            let name = |object: &Object| -> (Kind, ObjectKey) { (object.kind(), object.key().clone()) };
            let remaining: std::collections::HashSet<_> = new.iter().map(name).collect();
            for (kind, key) in old.iter().map(name).filter(|name| !remaining.contains(name)) {
                writer.apply(Event::Remove(kind, key), now);
            }
        }
        Ok(())
    }
}

/// Returns the objects of a snapshot that an index gets.
fn objects(snapshot: &Snapshot, selection: &clusterdns::source::Selection) -> Vec<Object> {
    let objects = snapshot.events(selection).filter_map(|event| match event {
        Event::Upsert(object) => Some(object),
        _ => None,
    });
    objects.collect()
}

/// A directory that is deleted with the scenario.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Folder(std::env::temp_dir().join(format!("clusterdns-scenario-{}-{count}", std::process::id())))
    }

    /// Writes a file, and creates the directory first.
    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(&self.0).expect("a temporary directory can be created");
        // With a new inode each time, so that a reader detects the change.
        let new = self.0.join("new");
        fs::write(&new, text).expect("a file can be written");
        fs::rename(new, self.0.join(name)).expect("a file can be renamed");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Replaces the path of the temporary directory by `$DIR`, and shortens the carets below it by the same length.
fn hide_directory(text: &str, directory: &str) -> String {
    let mut shown = String::new();
    let mut is_below = false;
    for line in text.split_inclusive('\n') {
        let carets = line.bytes().filter(|&byte| byte == b'^').count();
        let surplus = directory.len() - "$DIR".len();
        if is_below && line.trim_start().starts_with("| ") && carets > surplus {
            shown.push_str(&line.replacen(&"^".repeat(surplus), "", 1));
        } else {
            shown.push_str(&line.replace(directory, "$DIR"));
        }
        is_below = line.contains(directory);
    }
    shown
}
