//! Where queries come in: the places of a configuration, and the certificates of those that are encrypted.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use super::configuration::Configuration;
use crate::chain;
use crate::corefile::{Diagnostic, Diagnostics, Scheme, Stage};
use crate::net::{Address, Credentials, TlsFiles};
use crate::plugins::build::{BlockOptions, ListenerLimits, TimeoutOptions};
use crate::serve::ListenerKind;

/// Where queries come in, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// How.
    pub scheme: Scheme,
    /// The address; every address where `None`.
    pub address: Option<Address>,
    /// The port.
    pub port: u16,
}

impl Place {
    /// The transport.
    pub fn kind(self) -> ListenerKind {
        match self.scheme {
            // There are no listeners of gRPC.
            Scheme::Dns | Scheme::Grpc => ListenerKind::Dns,
            Scheme::Tls => ListenerKind::Tls,
            Scheme::Https => ListenerKind::Https,
            Scheme::Quic => ListenerKind::Quic,
            Scheme::Https3 => ListenerKind::Https3,
        }
    }

    /// The socket's address.
    pub fn socket_address(self) -> SocketAddr {
        match self.address {
            None => SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.port)),
            Some(address) => match address.ip {
                IpAddr::V6(ip) => SocketAddrV6::new(ip, self.port, 0, address.scope).into(),
                ip => SocketAddr::from((ip, self.port)),
            },
        }
    }

    /// Returns the name of the listener in metrics: `dns://:53`, `tls://[::1]:853`.
    pub fn server_name(self) -> String {
        let Place { scheme, address, port } = self;
        let scheme = scheme.name();
        match address {
            None => format!("{scheme}://:{port}"),
            Some(address) if address.ip.is_ipv6() => format!("{scheme}://[{address}]:{port}"),
            Some(address) => format!("{scheme}://{address}:{port}"),
        }
    }

    /// A zone that is served here, as start-up lines have it.
    pub fn line(self, zone: &str, port: u16) -> String {
        let scheme = if self.scheme == Scheme::Dns { String::new() } else { format!("{}://", self.scheme.name()) };
        let on = self.address.map(|bound| format!(" on {bound}")).unwrap_or_default();
        format!("{scheme}{zone}:{port}{on}")
    }
}

/// A socket in the making.
#[derive(Default)]
pub struct Socket {
    /// Where it is.
    pub place: Place,
    /// The blocks that are served there.
    pub blocks: Vec<chain::Block>,
    /// Some plugin of them wants other classes than IN.
    pub other_classes: bool,
    /// What *timeouts* says.
    pub timeouts: TimeoutOptions,
    /// What the directive of its transport says.
    pub limits: ListenerLimits,
    /// What *tls* says of the first block.
    pub files: Option<TlsFiles>,
}

impl Socket {
    /// Applies the options of a block; those of the last block that has them count.
    pub fn apply(&mut self, options: &BlockOptions) {
        self.other_classes |= options.answers_other_classes;
        if let Some(timeouts) = options.timeouts {
            self.timeouts = timeouts;
        }
        if let Some(limits) = options.limits.get(&self.place.scheme) {
            self.limits = *limits;
        }
    }
}

/// Reports what is wrong with certificates, wherever *tls* stands, and keys that need some. The file of *keylog* is
/// made where it `opens_keylog`.
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

/// The credentials of each socket that is to have some.
pub fn credentials(
    configuration: &Configuration, sockets: &[Socket], diagnostics: &mut Diagnostics,
) -> Vec<Option<Arc<Credentials>>> {
    check_certificates(configuration, true, diagnostics);
    for (number, socket) in sockets.iter().enumerate() {
        let Place { address, port, .. } = socket.place;
        let ports = socket.place.kind().ports();
        let in_the_way = |other: &&Socket| {
            let is_same = other.place.address == address && other.place.port == port && port != 0;
            is_same && ports.overlap(other.place.kind().ports())
        };
        if let Some(other) = sockets[..number].iter().find(in_the_way) {
            let (one, other) = (socket.place.server_name(), other.place.server_name());
            let message = format!("cannot serve {one}: {other} has the same port");
            diagnostics.push(Diagnostic::error(Stage::Setup, None, message));
        }
    }
    let load = |socket: &Socket| {
        let files = socket.files.clone().filter(|_| socket.place.scheme != Scheme::Dns)?;
        // What is wrong with them has been told above.
        let credentials = Credentials::load(move || Ok(files.clone()), socket.place.kind().protocols(), "tls");
        credentials.ok().map(Arc::new)
    };
    sockets.iter().map(load).collect()
}
