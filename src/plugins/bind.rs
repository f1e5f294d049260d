//! *bind*: the addresses and interfaces that a server block listens on. It adds no plugin to the chain.

use std::net::IpAddr;

use super::Context;
use super::build::Setting;
use crate::corefile::{Arguments, Diagnostic, Diagnostics, Directive, Span, Stage, suggest};
use crate::net::{Address, Interface};

/// The configuration of a server block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The stanzas, in the order of the file.
    pub stanzas: Vec<BindStanza>,
}

/// A `bind` stanza.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindStanza {
    /// The addresses and interfaces to listen on.
    pub addresses: Vec<AddressOrInterface>,
    /// The addresses and interfaces to leave out.
    pub except: Vec<AddressOrInterface>,
}

/// An address or the name of an interface, as written in the file.
#[derive(Clone, Debug)]
pub struct AddressOrInterface {
    /// The text.
    pub text: String,
    /// The position in the file, for errors.
    pub span: Span,
}

/// Compares the text only: after a reload, the same text may have another position.
impl PartialEq for AddressOrInterface {
    fn eq(&self, other: &AddressOrInterface) -> bool {
        self.text == other.text
    }
}

impl Eq for AddressOrInterface {}

/// Parses the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let mut config = Config::default();
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        let addresses = parse_words(&mut line);
        let mut except = Vec::new();
        for property in line.body() {
            let mut inner = line.enter(property);
            match inner.name() {
                "except" => except = parse_words(&mut inner),
                _ => inner.unknown(["except"]),
            }
            inner.finish();
        }
        line.finish();
        config.stanzas.push(BindStanza { addresses, except });
    }
    Some(config)
}

/// Parses the rest of a line; empty if there is an error.
fn parse_words(line: &mut Arguments<'_, '_>) -> Vec<AddressOrInterface> {
    let words = line.words("at least one address or interface name").unwrap_or_default();
    words.iter().map(|word| AddressOrInterface { text: word.text.clone(), span: word.span }).collect()
}

impl Setting for Config {
    fn addresses(&self, interfaces: &[Interface], diagnostics: &mut Diagnostics) -> Option<Vec<Address>> {
        Some(self.resolve(interfaces, diagnostics))
    }
}

impl Config {
    /// Returns the addresses to listen on, each once, with interfaces replaced by their addresses. Reports an error for
    /// a text that is neither an address nor an interface, and if no address remains.
    pub fn resolve(&self, interfaces: &[Interface], diagnostics: &mut Diagnostics) -> Vec<Address> {
        let mut all: Vec<Address> = Vec::new();
        // `parse` has reported a stanza without addresses.
        let mut is_valid = self.stanzas.iter().all(|stanza| !stanza.addresses.is_empty());
        for stanza in &self.stanzas {
            let mut resolve = |words: &[AddressOrInterface]| {
                let mut found = Vec::new();
                for word in words {
                    match resolve_word(&word.text, interfaces) {
                        Some(addresses) => found.extend(addresses),
                        None => {
                            let message = format!("not a valid IP address or interface name: \"{}\"", word.text);
                            let diagnostic = Diagnostic::error(Stage::Setup, Some(word.span), message).plugin("bind");
                            let names = interfaces.iter().map(|interface| interface.name.as_str());
                            let suggestion = suggest(&word.text, names);
                            let expected = "an address of this machine, or one of its interfaces";
                            diagnostics.push(diagnostic.expected(expected).suggestion(suggestion));
                            is_valid = false;
                        }
                    }
                }
                found
            };
            let wanted = resolve(&stanza.addresses);
            let except = resolve(&stanza.except);
            for address in wanted.into_iter().filter(|address| !except.contains(address)) {
                if !all.contains(&address) {
                    all.push(address);
                }
            }
        }
        if all.is_empty() && is_valid {
            let span = self.stanzas.first().and_then(|stanza| stanza.addresses.first()).map(|word| word.span);
            let diagnostic = Diagnostic::error(Stage::Setup, span, "no address to listen on").plugin("bind");
            let expected = "an address, or an interface that has one, that 'except' does not exclude";
            diagnostics.push(diagnostic.expected(expected));
        }
        all
    }
}

/// Returns the addresses of an interface, or the parsed address; `None` if the text is neither.
fn resolve_word(text: &str, interfaces: &[Interface]) -> Option<Vec<Address>> {
    if let Some(interface) = interfaces.iter().find(|interface| interface.name == text) {
        let scoped = |&ip: &IpAddr| {
            let is_link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
            Address { ip, scope: if is_link_local { interface.index } else { 0 } }
        };
        return Some(interface.addresses.iter().map(scoped).collect());
    }
    text.parse().ok().map(|ip| vec![Address { ip, scope: 0 }])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the addresses as `IP%SCOPE`, and the number of errors.
    fn resolve(addresses: &[&str], except: &[&str]) -> (Vec<String>, usize) {
        let words = |texts: &[&str]| {
            let word = |text: &&str| AddressOrInterface { text: (*text).to_owned(), span: Span::default() };
            texts.iter().map(word).collect()
        };
        let stanza = BindStanza { addresses: words(addresses), except: words(except) };
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("an address")).collect();
        let interfaces = [
            Interface { name: "lo".to_owned(), index: 1, addresses: ips(&["127.0.0.1", "::1"]) },
            Interface { name: "eth0".to_owned(), index: 2, addresses: ips(&["10.0.0.5", "fe80::1"]) },
            Interface { name: "bare0".to_owned(), index: 3, addresses: Vec::new() },
        ];
        let mut diagnostics = Diagnostics::default();
        let found = Config { stanzas: vec![stanza] }.resolve(&interfaces, &mut diagnostics);
        (found.iter().map(|address| format!("{}%{}", address.ip, address.scope)).collect(), diagnostics.iter().count())
    }

    #[test]
    fn interfaces_are_replaced_by_their_addresses() {
        assert_eq!(
            resolve(&["lo", "192.0.2.1"], &["::1"]),
            (vec!["127.0.0.1%0".to_owned(), "192.0.2.1%0".to_owned()], 0)
        );
        assert_eq!(resolve(&["eth0"], &[]).0, ["10.0.0.5%0", "fe80::1%2"]);
    }

    #[test]
    fn no_address_to_listen_on_is_an_error() {
        assert_eq!(resolve(&["bare0"], &[]), (vec![], 1));
        assert_eq!(resolve(&["127.0.0.1"], &["lo"]), (vec![], 1));
        assert_eq!(resolve(&["eth7"], &[]), (vec![], 1));
        assert_eq!(resolve(&["localhost"], &[]), (vec![], 1));
    }
}
