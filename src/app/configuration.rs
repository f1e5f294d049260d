//! From the command line to a configuration that has been read and checked; the world is not touched but to read files.

use std::path::Path;

use super::args::{Args, Conf};
use crate::corefile::{self, Corefile, Diagnostic, Diagnostics, Files, Scheme, Stage};
use crate::plugins::{self, Setting};
use crate::wire::NameBuf;

/// The name of [`DEFAULT_COREFILE`] as a source.
const BUILT_IN: &str = "built-in";
/// Served where there is no Corefile, or one without a server block, as CoreDNS does.
const DEFAULT_COREFILE: &str = ". {\n    whoami\n    log\n}\n";

/// A configuration.
#[derive(Debug, Default)]
pub struct Configuration {
    /// The tree, with the texts that diagnostics point into.
    pub corefile: Corefile,
    /// The server blocks, one for each of the tree's.
    pub blocks: Vec<Block>,
}

impl Configuration {
    /// Whether it is what is served without a Corefile, or with one that says nothing.
    pub fn is_built_in(&self) -> bool {
        self.corefile.sources.files().next().is_some_and(|file| self.corefile.sources.name(file) == BUILT_IN)
    }
}

/// A server block, read.
#[derive(Debug)]
pub struct Block {
    /// What it serves.
    pub keys: Vec<Key>,
    /// What its directives say, in the order in which plugins run.
    pub settings: Vec<Setting>,
}

/// A zone on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The zone.
    pub zone: NameBuf,
    /// The port.
    pub port: u16,
    /// How queries come to it.
    pub scheme: Scheme,
}

/// Reads the Corefile that the command line names. Mistakes are in `diagnostics`; what could be read is given all the
/// same.
pub fn read(
    args: &Args, files: &dyn Files, stdin: impl FnOnce() -> std::io::Result<String>, diagnostics: &mut Diagnostics,
) -> Configuration {
    let corefile = match &args.conf {
        Some(Conf::File(path)) => corefile::load(path, files, &plugins::known, diagnostics),
        Some(Conf::Stdin) => match stdin() {
            Ok(text) => corefile::parse_text("stdin", &text, files, &plugins::known, diagnostics),
            Err(error) => {
                let message = format!("cannot read the Corefile from standard input: {error}");
                diagnostics.push(Diagnostic::error(Stage::Setup, None, message));
                Corefile::default()
            }
        },
        // Only a file that was asked for must exist.
        None if files.read(Path::new("Corefile")).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) => {
            Corefile::default()
        }
        None => corefile::load(Path::new("Corefile"), files, &plugins::known, diagnostics),
    };
    configure(corefile, args.port, files, diagnostics)
}

/// Reads the Corefile of a text.
pub fn read_text(name: &str, text: &str, port: u16, files: &dyn Files, diagnostics: &mut Diagnostics) -> Configuration {
    let corefile = corefile::parse_text(name, text, files, &plugins::known, diagnostics);
    configure(corefile, port, files, diagnostics)
}

/// Reads the directives of every block.
fn configure(mut corefile: Corefile, port: u16, files: &dyn Files, diagnostics: &mut Diagnostics) -> Configuration {
    if corefile.blocks.is_empty() && !diagnostics.has_errors() {
        corefile = corefile::parse_text(BUILT_IN, DEFAULT_COREFILE, files, &plugins::known, diagnostics);
    }
    let mut blocks = Vec::new();
    for block in &corefile.blocks {
        let mut keys = Vec::new();
        for key in &block.keys {
            if key.scheme == Scheme::Grpc {
                let message = "grpc:// listeners are not built";
                let diagnostic = Diagnostic::error(Stage::Keys, Some(key.token.span), message);
                diagnostics.push(diagnostic.expected("dns://, tls://, https://, quic://, https3:// or no scheme"));
                continue;
            }
            for zone in &key.zones {
                match NameBuf::from_text(zone) {
                    Ok(zone) => keys.push(Key { zone, port: key.port_or_default(port), scheme: key.scheme }),
                    Err(error) => {
                        let message = format!("specified zone cannot be served: {error}");
                        let diagnostic = Diagnostic::error(Stage::Keys, Some(key.token.span), message);
                        diagnostics.push(diagnostic.expected("a zone of at most 253 characters"));
                    }
                }
            }
        }
        let settings = plugins::settings(block, diagnostics);
        blocks.push(Block { keys, settings });
    }
    diagnostics.sort();
    Configuration { corefile, blocks }
}
