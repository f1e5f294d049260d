//! The transports that a listener may have.

/// How queries come to a listener.
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
}

/// The protocols of the socket layer that a listener has a port of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// A port of UDP.
    pub udp: bool,
    /// A port of TCP.
    pub tcp: bool,
}

impl Ports {
    /// Whether both have a port of the same protocol.
    pub const fn overlap(self, other: Ports) -> bool {
        self.udp && other.udp || self.tcp && other.tcp
    }
}

impl ListenerKind {
    /// The protocols of the socket layer that it has a port of.
    pub const fn ports(self) -> Ports {
        match self {
            ListenerKind::Dns => Ports { udp: true, tcp: true },
            ListenerKind::Tls | ListenerKind::Https => Ports { udp: false, tcp: true },
            ListenerKind::Quic | ListenerKind::Https3 => Ports { udp: true, tcp: false },
        }
    }

    /// The names of its protocols in a handshake (RFC 7301). None where any is accepted.
    pub const fn protocols(self) -> &'static [&'static str] {
        match self {
            ListenerKind::Dns | ListenerKind::Tls => &[],
            ListenerKind::Https => &["h2", "http/1.1"],
            ListenerKind::Quic => &["doq"],
            ListenerKind::Https3 => &["h3"],
        }
    }
}
