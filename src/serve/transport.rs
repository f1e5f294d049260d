//! The transports that a listener may have.

/// The transport of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    /// Over UDP and TCP.
    #[default]
    Dns,
    /// Over TLS (RFC 7858).
    Tls,
    /// Over HTTPS (RFC 8484).
    Https,
    /// Over QUIC (RFC 9250).
    Quic,
    /// Over HTTP/3.
    Https3,
    /// Over gRPC, with or without TLS.
    Grpc,
}

/// The protocols of the socket layer for which a listener has a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The listener has a UDP port.
    pub udp: bool,
    /// The listener has a TCP port.
    pub tcp: bool,
}

impl Ports {
    /// Returns whether both have a port of the same protocol.
    pub const fn overlap(self, other: Ports) -> bool {
        self.udp && other.udp || self.tcp && other.tcp
    }
}

impl ListenerKind {
    /// Returns the protocols of the socket layer for which the listener has a port.
    pub const fn ports(self) -> Ports {
        match self {
            ListenerKind::Dns => Ports { udp: true, tcp: true },
            ListenerKind::Tls | ListenerKind::Https | ListenerKind::Grpc => Ports { udp: false, tcp: true },
            ListenerKind::Quic | ListenerKind::Https3 => Ports { udp: true, tcp: false },
        }
    }

    /// Returns the names of the protocols in a TLS handshake (RFC 7301); empty if any is accepted.
    pub const fn protocols(self) -> &'static [&'static str] {
        match self {
            ListenerKind::Dns | ListenerKind::Tls => &[],
            ListenerKind::Https => &["h2", "http/1.1"],
            ListenerKind::Quic => &["doq"],
            ListenerKind::Https3 => &["h3"],
            ListenerKind::Grpc => &["h2"],
        }
    }
}
