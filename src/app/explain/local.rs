//! A server that is built for one explanation: the Corefile with manifests or the objects of an API server. It opens no
//! sockets.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::ask::Ask;
use super::engine::{Engine, ObjectSource};
use crate::app::args::{Args, Conf};
use crate::app::build::{Built, World, build};
use crate::app::command::CommandWords;
use crate::app::follow::{RunningSource, SourceStarter};
use crate::app::indexes::KnownIndexes;
use crate::app::standard_io::read_stdin;
use crate::app::version::VERSION;
use crate::app::{configuration, machine, metrics};
use crate::chain::Surroundings;
use crate::cluster::CurrentIndex;
use crate::cluster::model::Kind;
use crate::corefile::{DiagnosticSeverity, Diagnostics, RealFiles, headline};
use crate::explain::{ObjectKind, ObjectQuery, Report};
use crate::plugins::build::{ApiAddress, CarriedOver, Resources};
use crate::telemetry::log::{LogFormat, Logger};
use crate::upstream::{Dispatcher, UpstreamRegistry};

/// How long the first lists of an API server may take.
const SYNC_TIMEOUT: Duration = Duration::from_secs(60);

/// The server.
pub(super) struct LocalServer {
    pub engine: Engine,
    pub runtime: Runtime,
    _source: RunningSource,
    _built: Vec<CurrentIndex>,
}

impl LocalServer {
    /// Builds the server that the flags describe. An error is a line for the user.
    pub(super) fn load(words: &CommandWords) -> Result<LocalServer, String> {
        let mut args =
            Args { manifests: words.all("manifests").iter().map(PathBuf::from).collect(), ..Args::default() };
        args.conf = words.last("conf").map(|file| match file {
            "stdin" => Conf::Stdin,
            file => Conf::File(file.into()),
        });
        if let Some(port) = words.last("dns.port") {
            args.port = port.parse().map_err(|_| format!("-dns.port: '{port}' is not a port, 0 to 65535"))?;
        }
        let kubeconfig = words.last("kubeconfig").map(PathBuf::from);
        if kubeconfig.is_some() && !args.manifests.is_empty() {
            return Err("-manifests and -kubeconfig exclude each other".to_owned());
        }
        let mut diagnostics = Diagnostics::default();
        let configuration = configuration::read_for_cluster(&args, &RealFiles, read_stdin, &mut diagnostics);
        let sources = &configuration.corefile.sources;
        let first = |diagnostics: &Diagnostics, of_machine: bool| {
            let errors = diagnostics.iter().filter(|found| found.severity == DiagnosticSeverity::Error);
            let mut errors = errors.filter(|found| !of_machine || found.plugin.is_none());
            errors.next().map(|found| headline(found, sources))
        };
        if let Some(error) = first(&diagnostics, false) {
            return Err(error);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start threads: {error}"))?;
        let metrics = metrics::create();
        let starter = SourceStarter::new(metrics.registry());
        let resources = Resources {
            logger: Logger::unwritten(LogFormat::Text),
            hostname: machine::hostname(),
            version: VERSION,
            interfaces: machine::interfaces(),
            search_list: machine::search_list(),
            debug: Arc::<AtomicBool>::default(),
            upstreams: Arc::new(UpstreamRegistry::new(runtime.handle().clone(), metrics.get())),
            metrics,
            dispatcher: Dispatcher::default(),
            lifecycle: Arc::default(),
            carried_over: CarriedOver::default(),
        };
        let world = World { resources, surroundings: Surroundings::default(), indexes: KnownIndexes::default() };
        // What only this machine lacks, such as an address or a certificate, does not matter here.
        let mut of_machine = Diagnostics::default();
        let built = build(&configuration, args.port, &world, &mut of_machine);
        if let Some(error) = first(&of_machine, true) {
            return Err(error);
        }
        let Built { listeners, mut indexes, used, .. } = built;
        let listeners = listeners.into_iter().map(|listener| (listener.address, listener.router));
        let engine = Engine::new(&configuration, listeners, &args.manifests, kubeconfig.as_deref());
        if let Some(file) = &kubeconfig {
            for followed in &mut indexes {
                followed.api.server = ApiAddress { kubeconfig: Some((file.clone(), None)), ..ApiAddress::default() };
            }
        }
        if let ObjectSource::Api(_) = engine.objects {
            // An API server that is away is one line, and not a wait.
            let query = ObjectQuery {
                kind: ObjectKind::Namespace,
                namespace: String::new(),
                name: None,
                labels: Vec::new(),
                limit: 1,
            };
            engine.reader(runtime.handle()).read(&query)?;
        }
        let source = starter.start(&args, indexes, sources, runtime.handle()).map_err(|error| one_line(&error))?;
        wait(&used)?;
        Ok(LocalServer { engine, runtime, _source: source, _built: used })
    }

    /// Explains a name.
    pub(super) fn explain(&self, ask: &Ask) -> Result<Report, String> {
        self.engine.explain(ask, self.runtime.handle())
    }
}

/// Returns the first line of an error.
fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}

/// Waits until all indexes are synced.
fn wait(used: &[CurrentIndex]) -> Result<(), String> {
    let start = Instant::now();
    loop {
        let missing: Vec<&str> =
            used.iter().flat_map(|index| index.get().unsynced().collect::<Vec<_>>()).map(Kind::name).collect();
        if missing.is_empty() {
            return Ok(());
        }
        if start.elapsed() > SYNC_TIMEOUT {
            return Err(format!("no full list of {} within {} s", missing.join(", "), SYNC_TIMEOUT.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
