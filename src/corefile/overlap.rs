//! Detects server blocks that conflict: the same zone twice on the same socket.

use std::collections::HashMap;

use super::ast::Corefile;
use super::diagnostic::{Diagnostic, Diagnostics, Stage};
use super::key::{BlockKey, Scheme};
use super::source::Span;

/// Where a block listens; known once its *bind* has been parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    /// The addresses of *bind*; empty for every address.
    pub addresses: Vec<String>,
}

/// Scheme, zone, port and address. An empty address is every address.
type ZoneSocket = (Scheme, String, u16, String);

/// Reports what `core/dnsserver/address.go` rejects: a zone and port that are defined twice, and a block on every
/// address beside a block on specific addresses. `dns_port` is the value of `-dns.port`; `listens` has an entry for
/// each block, in order.
pub fn check_keys(
    corefile: &Corefile, dns_port: u16, listens: impl IntoIterator<Item = Listen>, diagnostics: &mut Diagnostics,
) {
    let mut defined: HashMap<ZoneSocket, Span> = HashMap::new();
    let mut listeners: Vec<KeyListener<'_>> = Vec::new();
    // The last address for a zone and port, to detect a block on every address beside it.
    let mut seen: HashMap<(Scheme, String, u16), (String, Span)> = HashMap::new();
    for (block, listen) in corefile.blocks.iter().zip(listens) {
        let Listen { mut addresses } = listen;
        // A *view* selects the queries, so that other blocks may have the same zone.
        let filtered = block.directives_named("view").next().is_some();
        if addresses.is_empty() {
            addresses.push(String::new());
        }
        for key in &block.keys {
            let port = key.port_or_default(dns_port);
            let listener = |address: &String| KeyListener { key, port, address: address.clone() };
            listeners.extend(addresses.iter().map(listener));
            for (zone, address) in key.zones.iter().flat_map(|zone| addresses.iter().map(move |at| (zone, at))) {
                let socket = (key.scheme, zone.clone(), port, address.clone());
                let unbound = (key.scheme, zone.clone(), port);
                let error = |message| Diagnostic::error(Stage::Setup, Some(key.token.span), message);
                if let Some(first) = defined.get(&socket) {
                    if filtered {
                        let message =
                            format!("the block before without 'view' gets every query of {}", display(&socket));
                        let warning = Diagnostic::warning(Stage::Setup, Some(key.token.span), message);
                        let first = corefile.sources.place(*first);
                        diagnostics.push(warning.expected(format!("this block before the one at {first}")));
                    } else {
                        let message = format!("cannot serve {} - it is already defined", display(&socket));
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
                    let (socket, other) = (display(&socket), display(&other));
                    let message = format!("cannot serve {socket} - zone overlap listener capacity with {other}");
                    diagnostics.push(error(message).expected(first_at(corefile, span)));
                } else if !filtered {
                    seen.insert(unbound, (address.clone(), key.token.span));
                    defined.insert(socket, key.token.span);
                }
            }
        }
    }
    check_shadows(corefile, &listeners, diagnostics);
}

/// A key at an address, which is empty for every address.
struct KeyListener<'a> {
    key: &'a BlockKey,
    port: u16,
    address: String,
}

/// Warns of an address that has blocks of its own where other blocks serve every address: queries to it never reach
/// those (CoreDNS documents the case as undefined).
fn check_shadows(corefile: &Corefile, listeners: &[KeyListener<'_>], diagnostics: &mut Diagnostics) {
    for KeyListener { key, port, address } in listeners.iter().filter(|listener| !listener.address.is_empty()) {
        // The same zone is an error that is reported already.
        let is_shadowed = |other: &&KeyListener<'_>| {
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

/// Describes where the first definition is.
fn first_at(corefile: &Corefile, span: Span) -> String {
    format!("a zone, port and address other than those at {}", corefile.sources.place(span))
}

/// Formats a zone and socket as CoreDNS does.
fn display((scheme, zone, port, address): &ZoneSocket) -> String {
    let on = if address.is_empty() { String::new() } else { format!(" on {address}") };
    format!("{}://{zone}:{port}{on}", scheme.name())
}
