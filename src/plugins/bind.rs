//! *bind*: the addresses or interfaces that a server block listens on. It makes no plugin.

use std::net::IpAddr;

use super::Context;
use super::build::Setting;
use crate::corefile::{Arguments, Diagnostic, Diagnostics, Directive, Span, Stage};
use crate::net::{Address, Interface};

/// What is bound, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Addresses and interfaces, each line's with its exceptions.
    pub lines: Vec<Line>,
}

/// One `bind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What to listen on.
    pub addresses: Vec<Place>,
    /// What not to.
    pub except: Vec<Place>,
}

/// An address or an interface, and where it stands in the file.
#[derive(Clone, Debug)]
pub struct Place {
    /// The text.
    pub text: String,
    /// Its place.
    pub span: Span,
}

/// Where a text stands is no part of what it says.
impl PartialEq for Place {
    fn eq(&self, other: &Place) -> bool {
        self.text == other.text
    }
}

impl Eq for Place {}

/// Reads the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let mut config = Config::default();
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        let addresses = places(&mut line, "at least one address or interface name");
        let mut except = Vec::new();
        for property in line.body() {
            let mut inner = line.enter(property);
            match inner.name() {
                "except" => except = places(&mut inner, "at least one address or interface name"),
                _ => inner.unknown(["except"]),
            }
            inner.finish();
        }
        line.finish();
        config.lines.push(Line { addresses, except });
    }
    Some(config)
}

fn places(line: &mut Arguments<'_, '_>, what: &str) -> Vec<Place> {
    let words = line.words(what).unwrap_or_default();
    words.iter().map(|word| Place { text: word.text.clone(), span: word.span }).collect()
}

impl Setting for Config {
    fn addresses(&self, interfaces: &[Interface], diagnostics: &mut Diagnostics) -> Option<Vec<Address>> {
        Some(self.resolve(interfaces, diagnostics))
    }
}

impl Config {
    /// The addresses, with interfaces looked up. A text that is neither is an error, and so is a `bind` that leaves
    /// nothing to listen on.
    pub fn resolve(&self, interfaces: &[Interface], diagnostics: &mut Diagnostics) -> Vec<Address> {
        let mut all: Vec<Address> = Vec::new();
        // A line without addresses is a mistake that its reader has told of.
        let mut complete = self.lines.iter().all(|line| !line.addresses.is_empty());
        for line in &self.lines {
            let mut look_up = |places: &[Place]| {
                let mut found = Vec::new();
                for place in places {
                    match addresses_of(&place.text, interfaces) {
                        Some(addresses) => found.extend(addresses),
                        None => {
                            let message = format!("not a valid IP address or interface name: \"{}\"", place.text);
                            let diagnostic = Diagnostic::error(Stage::Setup, Some(place.span), message).plugin("bind");
                            let names = interfaces.iter().map(|interface| interface.name.as_str());
                            let suggestion = crate::corefile::suggest(&place.text, names);
                            let expected = "an address of this machine, or one of its interfaces";
                            diagnostics.push(diagnostic.expected(expected).suggestion(suggestion));
                            complete = false;
                        }
                    }
                }
                found
            };
            let (wanted, except) = (look_up(&line.addresses), look_up(&line.except));
            for address in wanted.into_iter().filter(|address| !except.contains(address)) {
                if !all.contains(&address) {
                    all.push(address);
                }
            }
        }
        if all.is_empty() && complete {
            let span = self.lines.first().and_then(|line| line.addresses.first()).map(|place| place.span);
            let diagnostic = Diagnostic::error(Stage::Setup, span, "nothing is left to listen on").plugin("bind");
            diagnostics
                .push(diagnostic.expected("an address, or an interface that has one, and that 'except' does not name"));
        }
        all
    }
}

/// The addresses that a text stands for.
fn addresses_of(text: &str, interfaces: &[Interface]) -> Option<Vec<Address>> {
    if let Some(interface) = interfaces.iter().find(|interface| interface.name == text) {
        let scoped = |&ip: &IpAddr| {
            let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
            Address { ip, scope: if link_local { interface.index } else { 0 } }
        };
        return Some(interface.addresses.iter().map(scoped).collect());
    }
    text.parse().ok().map(|ip| vec![Address { ip, scope: 0 }])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(addresses: &[&str], except: &[&str]) -> (Vec<String>, usize) {
        let place = |text: &&str| Place { text: (*text).to_owned(), span: Span::default() };
        let line =
            Line { addresses: addresses.iter().map(place).collect(), except: except.iter().map(place).collect() };
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("an address")).collect();
        let interfaces = [
            Interface { name: "lo".to_owned(), index: 1, addresses: ips(&["127.0.0.1", "::1"]) },
            Interface { name: "eth0".to_owned(), index: 2, addresses: ips(&["10.0.0.5", "fe80::1"]) },
            Interface { name: "bare0".to_owned(), index: 3, addresses: Vec::new() },
        ];
        let mut diagnostics = Diagnostics::default();
        let found = Config { lines: vec![line] }.resolve(&interfaces, &mut diagnostics);
        (found.iter().map(|address| format!("{}%{}", address.ip, address.scope)).collect(), diagnostics.iter().count())
    }

    #[test]
    fn interfaces_become_their_addresses() {
        assert_eq!(
            resolve(&["lo", "192.0.2.1"], &["::1"]),
            (vec!["127.0.0.1%0".to_owned(), "192.0.2.1%0".to_owned()], 0)
        );
        assert_eq!(resolve(&["eth0"], &[]).0, ["10.0.0.5%0", "fe80::1%2"]);
    }

    #[test]
    fn nothing_to_listen_on_is_an_error() {
        assert_eq!(resolve(&["bare0"], &[]), (vec![], 1));
        assert_eq!(resolve(&["127.0.0.1"], &["lo"]), (vec![], 1));
        assert_eq!(resolve(&["eth7"], &[]), (vec![], 1));
        assert_eq!(resolve(&["localhost"], &[]), (vec![], 1));
    }
}
