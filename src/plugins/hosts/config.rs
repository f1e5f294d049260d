//! The lines of *hosts* (CoreDNS `plugin/hosts/setup.go`).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::table::parse_address;
use crate::chain::Fallthrough;
use crate::corefile::{Arguments, Diagnostic, Directive, Stage, Token, suggest};
use crate::plugins::path::rooted;
use crate::plugins::{Context, zones_or_block_or_none};
use crate::wire::NameBuf;

/// The properties.
const PROPERTIES: [&str; 5] = ["fallthrough", "fallthrough_unsupported", "no_reverse", "ttl", "reload"];

/// What a stanza says.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The hosts file.
    pub file: PathBuf,
    /// Names outside of these are neither read nor answered.
    pub zones: Vec<NameBuf>,
    /// The entries that stand in the Corefile, as lines.
    pub inline: String,
    /// Seconds that an answer may be kept: 1–65535.
    pub ttl: u32,
    /// PTR is answered.
    pub reverse: bool,
    /// How often the file is looked at; zero is never.
    pub reload: Duration,
    /// Which names that are not in the table go on.
    pub fallthrough: Fallthrough,
    /// Other types than A, AAAA and PTR go on too, even for names in the table.
    pub fallthrough_unsupported: bool,
}

/// Reads the stanza.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let stanza = stanzas.first()?;
    let errors = context.diagnostics.has_errors();
    let (root, block_zones) = (context.root.clone(), context.zones);
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
        match missing(&config.file) {
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
        failed |= config.property(&mut line).is_none();
        if line.name() == "fallthrough_unsupported" {
            unsupported_at = Some(&property.name);
        }
        line.finish();
    }
    if let Some(token) = unsupported_at.filter(|_| config.fallthrough == Fallthrough::Never) {
        line.error(token, "fallthrough_unsupported requires fallthrough");
    }
    line.finish();
    // Words too many are reported by `finish`, which gives nothing back.
    (!failed && errors == context.diagnostics.has_errors()).then_some(config)
}

impl Config {
    /// Reads one line in the braces; `None` after an error.
    fn property(&mut self, line: &mut Arguments<'_, '_>) -> Option<()> {
        match line.name() {
            "fallthrough" => self.fallthrough = crate::plugins::fallthrough(line, &self.zones),
            "fallthrough_unsupported" => self.fallthrough_unsupported = true,
            "no_reverse" => {
                self.reverse = false;
                // CoreDNS takes words behind it for a property of their own, which makes them an entry.
                if self.fallthrough == Fallthrough::Never
                    && let Some(word) = line.next_word()
                {
                    self.entry(word, line);
                }
            }
            "ttl" => {
                self.ttl = line.number(1..=65_535)?;
                // CoreDNS looks at the first word only.
                line.rest();
            }
            "reload" => self.reload = line.duration()?,
            _ if self.fallthrough == Fallthrough::Never => self.entry(line.name_token(), line),
            _ => line.unknown(PROPERTIES),
        }
        Some(())
    }

    /// Adds an entry: what is no property before *fallthrough* is one, whatever it says.
    fn entry(&mut self, first: &Token, line: &mut Arguments<'_, '_>) {
        let is_comment = first.text.starts_with('#');
        if parse_address(&first.text).is_none() && !is_comment {
            let message =
                format!("'{}' is no IP address: the line is taken for an entry and has no effect", first.text);
            let warning = Diagnostic::warning(Stage::Parse, Some(first.span), message);
            let names = PROPERTIES.join(", ");
            let warning = warning.expected(format!("an entry such as '10.0.0.1 example.org', or one of {names}"));
            line.push(warning.suggestion(suggest(&first.text, PROPERTIES)));
        } else if !line.more() && !is_comment {
            line.warning(first, format!("'{}' has no names behind it", first.text));
        }
        self.inline.push_str(&first.text);
        for word in line.rest() {
            self.inline.push(' ');
            self.inline.push_str(&word.text);
        }
        self.inline.push('\n');
    }
}

/// A file that does not exist yet may come; what is wrong beyond that is an error.
fn missing(file: &Path) -> io::Result<Option<String>> {
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
    fn every_property_is_read() {
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
        let (config, said) = read("hosts {\n falthrough\n 10.0.0.1\n}", parse);
        assert_eq!(config.expect("accepted").inline, "falthrough\n10.0.0.1\n");
        let no_entry = "'falthrough' is no IP address: the line is taken for an entry and has no effect (fallthrough?)";
        assert_eq!(said, [no_entry, "'10.0.0.1' has no names behind it"]);
        let (config, said) = read("hosts /no/such/file", parse);
        assert!(config.is_some());
        assert_eq!(said, ["hosts file '/no/such/file' does not exist"]);
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
            let (config, said) = read(&format!("hosts {{\n {body}\n}}"), parse);
            assert_eq!(config, None, "{body}");
            assert_eq!(said[0], message, "{body}");
        }
        assert_eq!(read("hosts /dev/null/x", parse).0, None);
    }
}
