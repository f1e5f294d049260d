//! Detects server blocks that conflict: the same zone twice on the same socket.

use std::collections::HashMap;

use super::ast::Corefile;
use super::diagnostic::{Diagnostic, Diagnostics, Stage};
use super::key::Scheme;
use super::source::Span;

/// Where a block listens, and for which queries; known once its *bind* and *view* have been parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    /// The addresses of *bind*; empty for every address.
    pub addresses: Vec<String>,
    /// A *view* selects the queries, so that other blocks may have the same zone.
    pub filtered: bool,
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
    // The last address for a zone and port, to detect a block on every address beside it.
    let mut seen: HashMap<(Scheme, String, u16), (String, Span)> = HashMap::new();
    for (block, listen) in corefile.blocks.iter().zip(listens) {
        let Listen { mut addresses, filtered } = listen;
        if addresses.is_empty() {
            addresses.push(String::new());
        }
        for key in &block.keys {
            let port = key.port_or_default(dns_port);
            for (zone, address) in key.zones.iter().flat_map(|zone| addresses.iter().map(move |at| (zone, at))) {
                let socket = (key.scheme, zone.clone(), port, address.clone());
                let unbound = (key.scheme, zone.clone(), port);
                let error = |message| Diagnostic::error(Stage::Setup, Some(key.token.span), message);
                if let Some(first) = defined.get(&socket) {
                    if !filtered {
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
}

/// Describes where the first definition is.
fn first_at(corefile: &Corefile, span: Span) -> String {
    let position = corefile.sources.position(span);
    let name = corefile.sources.name(span.file);
    format!("a zone, port and address other than those at {name}:{}:{}", position.line, position.column)
}

/// Formats a zone and socket as CoreDNS does.
fn display((scheme, zone, port, address): &ZoneSocket) -> String {
    let on = if address.is_empty() { String::new() } else { format!(" on {address}") };
    format!("{}://{zone}:{port}{on}", scheme.name())
}
