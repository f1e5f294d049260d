//! The addresses on which a configuration listens, and the certificates of those that are encrypted.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use super::configuration::Configuration;
use crate::chain;
use crate::corefile::{Diagnostic, Diagnostics, Scheme, Span, Stage};
use crate::net::{Address, Credentials, ProxyRules, TlsFiles};
use crate::plugins::build::{BlockOptions, ListenerLimits, TimeoutOptions};
use crate::serve::ListenerKind;

/// An address on which the server listens for queries, with its transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListenerAddress {
    /// The transport, as the scheme of a key of the Corefile.
    pub scheme: Scheme,
    /// The IP address; `None` for all addresses of the machine.
    pub host: Option<Address>,
    /// The port.
    pub port: u16,
}

impl ListenerAddress {
    /// Returns the transport.
    pub fn kind(self) -> ListenerKind {
        match self.scheme {
            Scheme::Dns => ListenerKind::Dns,
            Scheme::Tls => ListenerKind::Tls,
            Scheme::Https => ListenerKind::Https,
            Scheme::Quic => ListenerKind::Quic,
            Scheme::Https3 => ListenerKind::Https3,
            Scheme::Grpc => ListenerKind::Grpc,
        }
    }

    /// Returns the address to bind.
    pub fn socket_address(self) -> SocketAddr {
        match self.host {
            None => SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.port)),
            Some(host) => match host.ip {
                IpAddr::V6(ip) => SocketAddrV6::new(ip, self.port, 0, host.scope).into(),
                ip => SocketAddr::from((ip, self.port)),
            },
        }
    }

    /// Returns the name of the listener in metrics: `dns://:53`, `tls://[::1]:853`.
    pub fn server_name(self) -> String {
        let ListenerAddress { scheme, host, port } = self;
        let scheme = scheme.name();
        match host {
            None => format!("{scheme}://:{port}"),
            Some(host) if host.ip.is_ipv6() => format!("{scheme}://[{host}]:{port}"),
            Some(host) => format!("{scheme}://{host}:{port}"),
        }
    }

    /// Returns the line that is logged at the start for a zone on this listener.
    pub fn line(self, zone: &str, port: u16) -> String {
        let scheme = if self.scheme == Scheme::Dns { String::new() } else { format!("{}://", self.scheme.name()) };
        let on = self.host.map(|host| format!(" on {host}")).unwrap_or_default();
        format!("{scheme}{zone}:{port}{on}")
    }
}

/// A listener that is being built.
#[derive(Default)]
pub struct Socket {
    /// The address.
    pub address: ListenerAddress,
    /// The server blocks whose zones are served on it.
    pub blocks: Vec<chain::Block>,
    /// Some plugin of them answers classes other than IN.
    pub other_classes: bool,
    /// The timeouts of *timeouts*.
    pub timeouts: TimeoutOptions,
    /// The limits of the directive of its transport.
    pub limits: ListenerLimits,
    /// The rules of *proxyproto*.
    pub proxy: Option<ProxyRules>,
    /// The files of *tls* in the first block.
    pub files: Option<TlsFiles>,
}

impl Socket {
    /// Applies the options of a block, which replace those of earlier blocks.
    pub fn apply(&mut self, options: &BlockOptions) {
        self.other_classes |= options.answers_other_classes;
        if let Some(timeouts) = options.timeouts {
            self.timeouts = timeouts;
        }
        if let Some(limits) = options.limits.get(&self.address.scheme) {
            self.limits = *limits;
        }
        if let Some(proxy) = &options.proxy {
            self.proxy = Some(proxy.clone());
        }
    }
}

/// Reports invalid certificates of *tls*, and keys of encrypted transports without a certificate. With `opens_keylog`,
/// the file of *keylog* is created.
pub fn check_certificates(configuration: &Configuration, opens_keylog: bool, diagnostics: &mut Diagnostics) {
    let trees = &configuration.corefile.blocks;
    for (block, tree) in configuration.blocks.iter().zip(trees) {
        let files = block.options.tls.clone();
        let at_key = |scheme| tree.keys.iter().find(|key| key.scheme == scheme).map(|key| key.token.span);
        let Some(files) = files else {
            for scheme in [Scheme::Tls, Scheme::Https] {
                if let Some(span) = at_key(scheme) {
                    let message = format!("{}:// without 'tls' is not encrypted", scheme.name());
                    diagnostics.push(Diagnostic::warning(Stage::Setup, Some(span), message));
                }
            }
            for scheme in [Scheme::Quic, Scheme::Https3] {
                if let Some(span) = at_key(scheme) {
                    let message = format!("{}:// needs a certificate", scheme.name());
                    let diagnostic = Diagnostic::error(Stage::Setup, Some(span), message);
                    diagnostics.push(diagnostic.expected("the directive 'tls CERT KEY' in this block"));
                }
            }
            continue;
        };
        let keylog = files.keylog.clone().filter(|_| opens_keylog);
        let files = TlsFiles { keylog, ..files };
        if let Err(error) = Credentials::load(move || Ok(files.clone()), &[], "tls") {
            let span = tree.directives_named("tls").next().map(|found| found.span);
            diagnostics.push(Diagnostic::error(Stage::Setup, span, error.to_string()).plugin("tls"));
        }
    }
}

/// Returns the hosts of a block's listeners: the addresses of *bind*, or `None` for all of the machine.
pub fn hosts(addresses: Option<&[Address]>) -> Vec<Option<Address>> {
    addresses.map_or_else(|| vec![None], |addresses| addresses.iter().copied().map(Some).collect())
}

/// A listener of a block, and the files of its *tls*.
struct BlockListener<'a> {
    address: ListenerAddress,
    tls: Option<&'a TlsFiles>,
    /// The place of the key.
    span: Span,
}

/// Reports listeners that cannot be open together: two transports on one port, and blocks of one encrypted listener
/// with different certificates. `dns_port` is the value of `-dns.port`, `addresses` has those of each block.
pub fn check_listeners(
    configuration: &Configuration, dns_port: u16, addresses: &[Option<Vec<Address>>], diagnostics: &mut Diagnostics,
) {
    let corefile = &configuration.corefile;
    // By address and port. At most one of each transport.
    let mut listeners: HashMap<(Option<Address>, u16), Vec<BlockListener<'_>>> = HashMap::new();
    for ((block, tree), addresses) in configuration.blocks.iter().zip(&corefile.blocks).zip(addresses) {
        let hosts = hosts(addresses.as_deref());
        let tls = block.options.tls.as_ref();
        let mut of_block = HashSet::new();
        for (key, &host) in tree.keys.iter().flat_map(|key| hosts.iter().map(move |host| (key, host))) {
            let span = key.token.span;
            let address = ListenerAddress { scheme: key.scheme, host, port: key.port_or_default(dns_port) };
            if !of_block.insert(address) {
                continue;
            }
            let mut report = |message: String, expected: String| {
                diagnostics.push(Diagnostic::error(Stage::Setup, Some(span), message).expected(expected));
            };
            let known = listeners.entry((host, address.port)).or_default();
            if let Some(first) = known.iter().find(|other| other.address == address) {
                if key.scheme != Scheme::Dns && first.tls != tls {
                    let message =
                        format!("conflicting TLS configuration for shared listener {}", address.server_name());
                    let place = corefile.sources.place(first.span);
                    report(message, format!("the same 'tls' in this block and in the one at {place}"));
                }
                continue;
            }
            let ports = address.kind().ports();
            let has_same_port = |other: &&BlockListener<'_>| ports.overlap(other.address.kind().ports());
            if let Some(other) = known.iter().find(has_same_port).filter(|_| address.port != 0) {
                let (one, two) = (address.server_name(), other.address.server_name());
                let message = format!("cannot serve {one}: {two} has the same port");
                let place = corefile.sources.place(other.span);
                report(message, format!("a port other than that of the block at {place}"));
            }
            known.push(BlockListener { address, tls, span });
        }
    }
}

/// Loads the credentials of each encrypted listener. Reports errors of certificates.
pub fn credentials(
    configuration: &Configuration, sockets: &[Socket], diagnostics: &mut Diagnostics,
) -> Vec<Option<Arc<Credentials>>> {
    check_certificates(configuration, true, diagnostics);
    let load = |socket: &Socket| {
        let files = socket.files.clone().filter(|_| socket.address.scheme != Scheme::Dns)?;
        // `check_certificates` has reported the error.
        let credentials = Credentials::load(move || Ok(files.clone()), socket.address.kind().protocols(), "tls");
        credentials.ok().map(Arc::new)
    };
    sockets.iter().map(load).collect()
}
