//! Whether the blocks of a Corefile get in each other's way: the same zone on the same socket twice.

use std::collections::HashMap;

use super::ast::Corefile;
use super::diagnostic::{Diagnostic, Diagnostics, Stage};
use super::key::{Key, Scheme};
use super::source::Span;

/// Where a block listens and when; known only once its *bind* and *view* have been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    /// The addresses of *bind*; empty for all addresses.
    pub addresses: Vec<String>,
    /// A *view* chooses the queries, so other blocks may have the same zone.
    pub filtered: bool,
}

/// A zone on a socket. An empty address is every address.
type Place = (Scheme, String, u16, String);

/// Reports what `core/dnsserver/address.go` refuses: a zone and port defined twice, and a block that listens on every
/// address beside one that listens on some. `dns_port` is `-dns.port`; `listens` has one for each block, in their order.
pub fn check_keys(
    corefile: &Corefile, dns_port: u16, listens: impl IntoIterator<Item = Listen>, diagnostics: &mut Diagnostics,
) {
    let mut defined: HashMap<Place, Span> = HashMap::new();
    let mut listeners: Vec<Listener<'_>> = Vec::new();
    // The last bound address seen for a zone and port, to find an unbound one beside it.
    let mut seen: HashMap<(Scheme, String, u16), (String, Span)> = HashMap::new();
    for (block, listen) in corefile.blocks.iter().zip(listens) {
        let Listen { mut addresses, filtered } = listen;
        if addresses.is_empty() {
            addresses.push(String::new());
        }
        for key in &block.keys {
            let port = key.port_or_default(dns_port);
            let listener = |address: &String| Listener { key, port, address: address.clone() };
            listeners.extend(addresses.iter().map(listener));
            for (zone, address) in key.zones.iter().flat_map(|zone| addresses.iter().map(move |at| (zone, at))) {
                let place = (key.scheme, zone.clone(), port, address.clone());
                let unbound = (key.scheme, zone.clone(), port);
                let error = |message| Diagnostic::error(Stage::Setup, Some(key.token.span), message);
                if let Some(first) = defined.get(&place) {
                    if !filtered {
                        let message = format!("cannot serve {} - it is already defined", display(&place));
                        diagnostics.push(error(message).expected(first_at(corefile, *first)));
                    }
                    continue;
                }
                let everywhere = (key.scheme, zone.clone(), port, String::new());
                let overlap = match seen.get(&unbound) {
                    Some((other, span)) if address.is_empty() => {
                        Some(((key.scheme, zone.clone(), port, other.clone()), *span))
                    }
                    Some(_) => defined.get(&everywhere).map(|span| (everywhere.clone(), *span)),
                    None => None,
                };
                if let Some((other, span)) = overlap {
                    let (place, other) = (display(&place), display(&other));
                    let message = format!("cannot serve {place} - zone overlap listener capacity with {other}");
                    diagnostics.push(error(message).expected(first_at(corefile, span)));
                } else if !filtered {
                    seen.insert(unbound, (address.clone(), key.token.span));
                    defined.insert(place, key.token.span);
                }
            }
        }
    }
    check_shadows(corefile, &listeners, diagnostics);
}

/// A key at an address, which is empty for every address.
struct Listener<'a> {
    key: &'a Key,
    port: u16,
    address: String,
}

/// Warns of an address that has blocks of its own where other blocks serve every address: queries to it never reach those
/// (CoreDNS documents the case as undefined).
fn check_shadows(corefile: &Corefile, listeners: &[Listener<'_>], diagnostics: &mut Diagnostics) {
    for Listener { key, port, address } in listeners.iter().filter(|listener| !listener.address.is_empty()) {
        // The same zone is an error that is reported already.
        let is_shadowed = |other: &&Listener<'_>| {
            other.address.is_empty()
                && (other.key.scheme, other.port) == (key.scheme, *port)
                && !other.key.zones.iter().any(|zone| key.zones.contains(zone))
        };
        let Some(other) = listeners.iter().find(is_shadowed) else { continue };
        let other = corefile.sources.place(other.key.token.span);
        let message =
            format!("queries to {address} at port {port} never reach the block at {other}, which has no 'bind'");
        let warning = Diagnostic::warning(Stage::Setup, Some(key.token.span), message);
        diagnostics.push(warning.expected("'bind' in every block of a port, or in none"));
    }
}

/// Says where the other definition is.
fn first_at(corefile: &Corefile, span: Span) -> String {
    format!("a zone, port and address that is not the one at {}", corefile.sources.place(span))
}

/// A place as CoreDNS prints it.
fn display((scheme, zone, port, address): &Place) -> String {
    let on = if address.is_empty() { String::new() } else { format!(" on {address}") };
    format!("{}://{zone}:{port}{on}", scheme.name())
}
