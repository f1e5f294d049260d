//! The configuration of *hosts* (CoreDNS `plugin/hosts/setup.go`).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::table::parse_address;
use crate::chain::Fallthrough;
use crate::corefile::{Arguments, Diagnostic, Directive, Stage, Token, suggest};
use crate::plugins::path::rooted;
use crate::plugins::{Context, zones_or_block_or_none};
use crate::wire::NameBuf;

/// The names of the properties.
const PROPERTIES: [&str; 5] = ["fallthrough", "fallthrough_unsupported", "no_reverse", "ttl", "reload"];

/// The configuration of a stanza.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The hosts file.
    pub file: PathBuf,
    /// The zones of the plugin. Entries outside them are ignored, and so are queries, PTR excepted.
    pub zones: Vec<NameBuf>,
    /// The entries in the Corefile, as lines of a hosts file.
    pub inline: String,
    /// The TTL of answers in seconds: 1–65535.
    pub ttl: u32,
    /// PTR is answered.
    pub reverse: bool,
    /// The interval between checks of the file; zero disables them.
    pub reload: Duration,
    /// The names that fall through to the next plugin if they have no entry.
    pub fallthrough: Fallthrough,
    /// Queries of other types than A, AAAA and PTR fall through too, even for names with entries.
    pub fallthrough_unsupported: bool,
}

/// Parses the first stanza; returns `None` after an error.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let stanza = stanzas.first()?;
    let errors = context.diagnostics.has_errors();
    let root = context.root.clone();
    let block_zones = context.zones;
    let mut line = Arguments::of(stanza, context.diagnostics);
    let mut config = Config {
        file: PathBuf::from("/etc/hosts"),
        zones: Vec::new(),
        inline: String::new(),
        ttl: 3600,
        reverse: true,
        reload: Duration::from_secs(5),
        fallthrough: Fallthrough::Never,
        fallthrough_unsupported: false,
    };
    let mut failed = false;
    if let Some(file) = line.next_word() {
        config.file = rooted(&mut line, root.as_deref(), file)?;
        match check_file(&config.file) {
            Ok(None) => {}
            Ok(Some(warning)) => line.warning(file, warning),
            Err(error) => {
                line.error(file, format!("unable to access hosts file '{}': {error}", config.file.display()));
                failed = true;
            }
        }
    }
    config.zones = zones_or_block_or_none(&mut line, block_zones);
    let mut unsupported_at = None;
    for property in line.body() {
        let mut line = line.enter(property);
        failed |= config.parse_property(&mut line).is_none();
        if line.name() == "fallthrough_unsupported" {
            unsupported_at = Some(&property.name);
        }
        line.finish();
    }
    if let Some(token) = unsupported_at.filter(|_| config.fallthrough == Fallthrough::Never) {
        line.error(token, "fallthrough_unsupported requires fallthrough");
    }
    line.finish();
    // `finish` reports extra words without returning an error.
    (!failed && errors == context.diagnostics.has_errors()).then_some(config)
}

impl Config {
    /// Parses a property; returns `None` after an error.
    fn parse_property(&mut self, line: &mut Arguments<'_, '_>) -> Option<()> {
        match line.name() {
            "fallthrough" => self.fallthrough = crate::plugins::fallthrough(line, &self.zones),
            "fallthrough_unsupported" => self.fallthrough_unsupported = true,
            "no_reverse" => {
                self.reverse = false;
                // CoreDNS reads the following words as a property of their own, and so as an entry.
                if self.fallthrough == Fallthrough::Never
                    && let Some(word) = line.next_word()
                {
                    self.add_entry(word, line);
                }
            }
            "ttl" => {
                self.ttl = line.number(1..=65_535)?;
                // CoreDNS reads the first word only.
                line.rest();
            }
            "reload" => self.reload = line.duration()?,
            _ if self.fallthrough == Fallthrough::Never => self.add_entry(line.name_token(), line),
            _ => line.unknown(PROPERTIES),
        }
        Some(())
    }

    /// Adds an entry. Like in CoreDNS, any line before *fallthrough* that is not a property is an entry; a warning says
    /// so if it is none.
    fn add_entry(&mut self, first: &Token, line: &mut Arguments<'_, '_>) {
        let is_comment = first.text.starts_with('#');
        if parse_address(&first.text).is_none() && !is_comment {
            let message =
                format!("'{}' is not an IP address: the line is read as an entry and has no effect", first.text);
            let warning = Diagnostic::warning(Stage::Parse, Some(first.span), message);
            let names = PROPERTIES.join(", ");
            let warning = warning.expected(format!("an entry such as '10.0.0.1 example.org', or one of {names}"));
            line.push(warning.suggestion(suggest(&first.text, PROPERTIES)));
        } else if !line.more() && !is_comment {
            line.warning(first, format!("'{}' is followed by no name", first.text));
        }
        self.inline.push_str(&first.text);
        for word in line.rest() {
            self.inline.push(' ');
            self.inline.push_str(&word.text);
        }
        self.inline.push('\n');
    }
}

/// Returns a warning about a file that does not exist, since it may be created later, or is a directory. Anything else
/// that is wrong is an error.
fn check_file(file: &Path) -> io::Result<Option<String>> {
    match std::fs::metadata(file) {
        Ok(metadata) if metadata.is_dir() => Ok(Some(format!("hosts file '{}' is a directory", file.display()))),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Some(format!("hosts file '{}' does not exist", file.display())))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, n, read};

    #[test]
    fn defaults_are_coredns_s() {
        let config = config("hosts", parse);
        assert_eq!(config.file, Path::new("/etc/hosts"));
        assert_eq!(config.zones, [n("example."), n("example.org.")]);
        assert_eq!((config.ttl, config.reverse, config.reload), (3600, true, Duration::from_secs(5)));
        assert_eq!(config.fallthrough, Fallthrough::Never);
    }

    #[test]
    fn every_property_is_parsed() {
        let config = config(
            "hosts /dev/null A.example 10.0.0.0/24 {
                10.0.0.1 a.example b.example
                ttl +60 90
                no_reverse
                reload 0
                fallthrough_unsupported
                fallthrough a.example
                fallthrough
            }",
            parse,
        );
        assert_eq!(config.zones, [n("a.example."), n("0.0.10.in-addr.arpa.")]);
        assert_eq!(config.inline, "10.0.0.1 a.example b.example\n");
        assert_eq!((config.ttl, config.reverse, config.reload), (60, false, Duration::ZERO));
        assert_eq!(config.fallthrough, Fallthrough::Always);
        assert!(config.fallthrough_unsupported);
    }

    #[test]
    fn a_line_that_is_no_entry_gets_a_warning() {
        let (config, messages) = read("hosts {\n falthrough\n 10.0.0.1\n}", parse);
        assert_eq!(config.expect("accepted").inline, "falthrough\n10.0.0.1\n");
        let no_entry =
            "'falthrough' is not an IP address: the line is read as an entry and has no effect (fallthrough?)";
        assert_eq!(messages, [no_entry, "'10.0.0.1' is followed by no name"]);
        let (config, messages) = read("hosts /no/such/file", parse);
        assert!(config.is_some());
        assert_eq!(messages, ["hosts file '/no/such/file' does not exist"]);
    }

    #[test]
    fn what_coredns_refuses_is_refused() {
        for (body, message) in [
            ("ttl", "Wrong argument count or unexpected line ending after 'ttl'"),
            ("ttl 0", "invalid number '0'"),
            ("ttl 65536", "invalid number '65536'"),
            ("reload", "Wrong argument count or unexpected line ending after 'reload'"),
            ("reload 5s 6s", "Wrong argument count or unexpected line ending after '6s'"),
            ("reload 5", "time: missing unit in duration \"5\""),
            ("reload -5s", "negative duration '-5s'"),
            ("fallthrough_unsupported", "fallthrough_unsupported requires fallthrough"),
            ("fallthrough_unsupported x", "Wrong argument count or unexpected line ending after 'x'"),
            ("fallthrough\n 10.0.0.1 a.example", "unknown property '10.0.0.1'"),
        ] {
            let (config, messages) = read(&format!("hosts {{\n {body}\n}}"), parse);
            assert_eq!(config, None, "{body}");
            assert_eq!(messages[0], message, "{body}");
        }
        assert_eq!(read("hosts /dev/null/x", parse).0, None);
    }
}
