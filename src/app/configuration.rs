//! Reads the Corefile that the command line names, and parses its directives into settings.
//!
//! It reads files and does nothing else: it opens no sockets and contacts no server.

use std::path::Path;

use super::args::{Args, Conf};
use crate::corefile::{self, Corefile, Diagnostic, Diagnostics, Files, Stage};
use crate::files::ResolvConf;
use crate::plugins;
use crate::plugins::build::{ServerBlock, ZoneKey};
use crate::wire::NameBuf;

/// The name of [`DEFAULT_COREFILE`] as a source.
const BUILT_IN: &str = "built-in";
/// Served where there is no Corefile, or one without a server block, as CoreDNS does.
const DEFAULT_COREFILE: &str = ". {\n    whoami\n    log\n}\n";

/// What is expected in a Corefile without a server block.
pub(super) const BLOCK_EXPECTED: &str = "a server block: a line such as '.:53 {', a directive on each line, and '}'";

/// The file that lists this machine's resolvers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Returns the Corefile that is used instead if the command line names manifests: it serves the cluster that they
/// describe, and forwards external names if this machine has resolvers. It opens no pages: on a machine where the
/// server is only tried, their ports are often in use.
fn manifests_corefile(resolvers: &Path) -> String {
    let mut fallthrough = String::new();
    let mut forward = String::new();
    if ResolvConf::read(resolvers).is_ok_and(|conf| !conf.servers.is_empty()) {
        fallthrough.push_str("        fallthrough in-addr.arpa ip6.arpa\n");
        forward = format!("    forward . {}\n    loop\n", resolvers.display());
    }
    format!(
        ". {{\n    errors\n    kubernetes cluster.local in-addr.arpa ip6.arpa {{\n        pods insecure\n{fallthrough}    }}\n\
         {forward}    cache 30\n    loadbalance\n}}\n"
    )
}

/// A Corefile with the settings of its server blocks.
#[derive(Debug, Default)]
pub struct Configuration {
    /// The syntax tree, with the texts that diagnostics refer to.
    pub corefile: Corefile,
    /// The server blocks, one for each block of the tree.
    pub blocks: Vec<ServerBlock>,
}

impl Configuration {
    /// Returns whether this is a built-in Corefile, which is used where there is no Corefile or one without a block.
    pub fn is_built_in(&self) -> bool {
        self.corefile.sources.files().next().is_some_and(|file| self.corefile.sources.name(file) == BUILT_IN)
    }

    /// Returns a warning if the built-in Corefile is used that knows no cluster.
    pub fn without_cluster(&self, args: &Args) -> Option<String> {
        (self.is_built_in() && self.built_in_for_manifests().is_none()).then(|| {
            format!(
                "{} has no server block: 'whoami' and 'log' are served on port {}, and no name of a cluster",
                args.conf_name(),
                args.port
            )
        })
    }

    /// Returns the text on one line, if it is the built-in Corefile that serves manifests.
    pub fn built_in_for_manifests(&self) -> Option<String> {
        let file = self.corefile.sources.files().next().filter(|_| self.is_built_in())?;
        let text = self.corefile.sources.text(file);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        (text != DEFAULT_COREFILE).then(|| lines.join("; ").replace("{;", "{"))
    }
}

/// Reads the Corefile that the command line names. Errors are in `diagnostics`; the parts that could be read are
/// returned anyway.
pub fn read(
    args: &Args, files: &dyn Files, stdin: impl FnOnce() -> std::io::Result<String>, diagnostics: &mut Diagnostics,
) -> Configuration {
    if !args.manifests.is_empty() {
        return read_for_cluster(args, files, stdin, diagnostics);
    }
    read_or(DEFAULT_COREFILE, args, files, stdin, diagnostics)
}

/// Like [`read`], but without a server block the cluster is served, as with manifests.
pub fn read_for_cluster(
    args: &Args, files: &dyn Files, stdin: impl FnOnce() -> std::io::Result<String>, diagnostics: &mut Diagnostics,
) -> Configuration {
    read_or(&manifests_corefile(Path::new(RESOLV_CONF)), args, files, stdin, diagnostics)
}

/// Reads the Corefile, or uses `built_in` if it has no block.
fn read_or(
    built_in: &str, args: &Args, files: &dyn Files, stdin: impl FnOnce() -> std::io::Result<String>,
    diagnostics: &mut Diagnostics,
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
        // Only a file that the command line names must exist.
        None if files.read(Path::new("Corefile")).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) => {
            Corefile::default()
        }
        None => corefile::load(Path::new("Corefile"), files, &plugins::known, diagnostics),
    };
    configure(corefile, args.port, built_in, files, diagnostics)
}

/// Reads a Corefile from a text.
pub fn read_text(name: &str, text: &str, port: u16, files: &dyn Files, diagnostics: &mut Diagnostics) -> Configuration {
    let corefile = corefile::parse_text(name, text, files, &plugins::known, diagnostics);
    configure(corefile, port, DEFAULT_COREFILE, files, diagnostics)
}

/// Parses the directives of every block, or of the built-in text if there is no block.
fn configure(
    mut corefile: Corefile, port: u16, built_in: &str, files: &dyn Files, diagnostics: &mut Diagnostics,
) -> Configuration {
    if corefile.blocks.is_empty() && !diagnostics.has_errors() {
        corefile = corefile::parse_text(BUILT_IN, built_in, files, &plugins::known, diagnostics);
    }
    let mut blocks = Vec::new();
    for block in &corefile.blocks {
        let mut keys = Vec::new();
        for key in &block.keys {
            for zone in &key.zones {
                match NameBuf::from_text(zone) {
                    Ok(zone) => keys.push(ZoneKey { zone, port: key.port_or_default(port), scheme: key.scheme }),
                    Err(error) => {
                        let message = format!("specified zone cannot be served: {error}");
                        let diagnostic = Diagnostic::error(Stage::Keys, Some(key.token.span), message);
                        diagnostics.push(diagnostic.expected("a zone of at most 253 characters"));
                    }
                }
            }
        }
        let directives = plugins::read_directives(block, &corefile.sources, diagnostics);
        blocks.push(ServerBlock::new(keys, directives));
    }
    diagnostics.sort();
    Configuration { corefile, blocks }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corefile::MemoryFiles;

    #[test]
    fn the_built_in_corefile_of_manifests_is_valid() {
        let nowhere = manifests_corefile(Path::new("/nowhere/resolv.conf"));
        assert!(!nowhere.contains("forward") && !nowhere.contains("fallthrough"), "{nowhere}");
        let folder = std::env::temp_dir().join(format!("clusterdns-built-in-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let file = folder.join("resolv.conf");
        std::fs::write(&file, "nameserver 192.0.2.1\n").expect("a file");
        for text in [nowhere, manifests_corefile(&file)] {
            let mut diagnostics = Diagnostics::default();
            let files = MemoryFiles::default();
            let configuration = configure(Corefile::default(), 53, &text, &files, &mut diagnostics);
            assert_eq!(diagnostics.iter().count(), 0, "{diagnostics:?}\n{text}");
            let names: Vec<_> = configuration.blocks[0].directives.iter().map(|directive| directive.name).collect();
            assert!(names.contains(&"kubernetes"), "{text}");
            let line = configuration.built_in_for_manifests().expect("it is built in");
            assert!(line.starts_with(". { errors; kubernetes cluster.local") && !line.contains('\n'), "{line}");
        }
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
