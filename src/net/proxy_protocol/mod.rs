//! The PROXY protocol: a proxy in front of the server says in a header who the client is. Which proxies are believed,
//! and what becomes of the headers of others (CoreDNS `plugin/proxyproto` and `plugin/pkg/proxyproto`).

mod header;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use quick_cache::sync::Cache;

pub use header::{FoundHeader, MAX_HEADER, ProxyHeader, ProxyHeaderError, read};

/// The rules of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyRules {
    /// The networks of proxies that are believed; every address if it is empty and there is no other policy.
    pub allowed: Vec<IpNet>,
    /// The policy for other addresses; `None` is [`ProxyPolicy::Ignore`] if there are networks.
    pub default: Option<ProxyPolicy>,
    /// The time for which a header holds for later datagrams of the same proxy address; zero is never.
    pub session_time: Duration,
    /// The most proxy addresses whose headers hold for later datagrams.
    pub max_sessions: usize,
    /// The TLVs of headers are available as metadata.
    pub keeps_tlvs: bool,
}

impl ProxyRules {
    /// The default of `max_sessions`.
    pub const SESSIONS: usize = 10_240;
}

impl Default for ProxyRules {
    fn default() -> ProxyRules {
        ProxyRules {
            allowed: Vec::new(),
            default: None,
            session_time: Duration::ZERO,
            max_sessions: ProxyRules::SESSIONS,
            keeps_tlvs: false,
        }
    }
}

/// What becomes of headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyPolicy {
    /// The client is the one of the header.
    Use,
    /// The header is removed.
    Ignore,
    /// A connection or datagram with a header is dropped.
    Reject,
    /// A header is not looked for.
    Skip,
}

impl ProxyRules {
    /// Returns the policy for headers of this address.
    pub fn policy(&self, remote: IpAddr) -> ProxyPolicy {
        if self.allowed.is_empty() {
            return self.default.unwrap_or(ProxyPolicy::Use);
        }
        let remote = remote.to_canonical();
        if self.allowed.iter().any(|network| network.contains(&remote)) {
            return ProxyPolicy::Use;
        }
        self.default.unwrap_or(ProxyPolicy::Ignore)
    }
}

/// The TLVs of a header.
#[derive(Debug, PartialEq, Eq)]
pub struct Tlvs(pub Vec<u8>);

/// The client of a datagram or a connection, as its header names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxied {
    /// The address of the client.
    pub client: SocketAddr,
    /// The address that the client has sent to.
    pub server: SocketAddr,
    /// The TLVs, if they are wanted and valid.
    pub tlvs: Option<Arc<Tlvs>>,
}

/// A datagram after its header was removed.
#[derive(Debug, PartialEq, Eq)]
pub enum ProxiedDatagram {
    /// The DNS message starts here, and the client is the sender of the datagram or this one.
    Message(usize, Option<Proxied>),
    /// There is no message.
    Empty,
    /// The datagram is dropped, and the reason is logged.
    Invalid(DatagramError),
}

/// Why a datagram is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// The header is invalid.
    #[error(transparent)]
    Header(#[from] ProxyHeaderError),
    /// The header is cut off.
    #[error("the header is cut off")]
    Partial,
    /// The header has version 1, which is for streams.
    #[error("unsupported Proxy Protocol version 1 (only v2 supported for UDP)")]
    Version,
    /// The header is about a stream.
    #[error("PROXY Protocol header is not UDP type")]
    Stream,
    /// The policy refuses headers of this sender.
    #[error("connection rejected by Proxy Protocol connection policy")]
    Rejected,
}

/// The rules of a listener, with what they remember.
pub struct ProxyProtocol {
    rules: ProxyRules,
    /// The client of the last header of a proxy's address, for later datagrams. Written and read by workers.
    sessions: Option<Cache<SocketAddr, ProxySession>>,
}

#[derive(Clone)]
struct ProxySession {
    proxied: Proxied,
    ends: Instant,
}

impl ProxyProtocol {
    /// Creates the state of these rules.
    pub fn new(rules: ProxyRules) -> ProxyProtocol {
        let has_sessions = !rules.session_time.is_zero();
        let sessions = has_sessions.then(|| Cache::new(rules.max_sessions.max(1)));
        ProxyProtocol { rules, sessions }
    }

    /// Returns the rules.
    pub fn rules(&self) -> &ProxyRules {
        &self.rules
    }

    /// Returns what a header says, for a stream and for a datagram.
    pub fn proxied(&self, header: &ProxyHeader) -> Option<Proxied> {
        let (client, server) = header.addresses?;
        let tlvs = if self.rules.keeps_tlvs { header.valid_tlvs() } else { None };
        Some(Proxied { client, server, tlvs: tlvs.map(|tlvs| Arc::new(Tlvs(tlvs))) })
    }

    /// Looks for a header in a datagram.
    pub fn read_datagram(&self, bytes: &[u8], remote: SocketAddr, now: Instant) -> ProxiedDatagram {
        let policy = self.rules.policy(remote.ip());
        if policy == ProxyPolicy::Skip {
            return ProxiedDatagram::Message(0, None);
        }
        let (header, len) = match read(bytes) {
            Ok(FoundHeader::Whole(header, len)) => (header, len),
            Ok(FoundHeader::None | FoundHeader::Undecided(_)) => return self.without_header(policy, remote, now),
            Ok(FoundHeader::Partial(_)) => return ProxiedDatagram::Invalid(DatagramError::Partial),
            Err(error) => return ProxiedDatagram::Invalid(error.into()),
        };
        if header.version != 2 {
            return ProxiedDatagram::Invalid(DatagramError::Version);
        }
        if !header.is_datagram {
            return ProxiedDatagram::Invalid(DatagramError::Stream);
        }
        let proxied = match policy {
            ProxyPolicy::Use => self.proxied(&header),
            ProxyPolicy::Reject => return ProxiedDatagram::Invalid(DatagramError::Rejected),
            ProxyPolicy::Ignore | ProxyPolicy::Skip => return ProxiedDatagram::Message(len, None),
        };
        if let Some(sessions) = &self.sessions {
            if let Some(proxied) = proxied.clone() {
                sessions.insert(remote, ProxySession { proxied, ends: now + self.rules.session_time });
            }
            if len == bytes.len() {
                return ProxiedDatagram::Empty;
            }
        }
        ProxiedDatagram::Message(len, proxied)
    }

    /// Returns the client of a datagram without a header.
    fn without_header(&self, policy: ProxyPolicy, remote: SocketAddr, now: Instant) -> ProxiedDatagram {
        let sessions = self.sessions.as_ref().filter(|_| policy == ProxyPolicy::Use);
        let Some(session) = sessions.and_then(|sessions| sessions.get(&remote)) else {
            return ProxiedDatagram::Message(0, None);
        };
        if session.ends <= now {
            return ProxiedDatagram::Message(0, None);
        }
        let proxied = session.proxied.clone();
        if let Some(sessions) = sessions {
            sessions.insert(remote, ProxySession { ends: now + self.rules.session_time, ..session });
        }
        ProxiedDatagram::Message(0, Some(proxied))
    }
}

impl fmt::Debug for ProxyProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyProtocol").field("rules", &self.rules).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\0\x07\0\x35";
    const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x12\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\0\x07\0\x35";
    const OVER_TCP: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\0\x07\0\x35";
    const MESSAGE: &[u8] = b"message";

    fn rules(allowed: &[&str], default: Option<ProxyPolicy>) -> ProxyRules {
        let allowed = allowed.iter().map(|network| network.parse().expect("a network")).collect();
        ProxyRules { allowed, default, ..ProxyRules::default() }
    }

    /// Returns where the message starts and the client, or why there is none.
    fn show(datagram: ProxiedDatagram) -> String {
        match datagram {
            ProxiedDatagram::Message(at, proxied) => {
                format!("{at} {}", proxied.map_or("-".to_owned(), |proxied| proxied.client.to_string()))
            }
            ProxiedDatagram::Empty => "empty".to_owned(),
            ProxiedDatagram::Invalid(error) => error.to_string(),
        }
    }

    #[test]
    fn policies_decide_about_headers() {
        use ProxyPolicy::{Ignore, Reject, Skip, Use};
        let rejected = "connection rejected by Proxy Protocol connection policy";
        for (rules, header, none) in [
            (rules(&[], None), "28 192.0.2.1:7", "0 -"),
            (rules(&[], Some(Ignore)), "28 -", "0 -"),
            (rules(&[], Some(Reject)), rejected, "0 -"),
            (rules(&[], Some(Skip)), "0 -", "0 -"),
            (rules(&["10.0.0.0/8"], Some(Reject)), "28 192.0.2.1:7", "0 -"),
            (rules(&["10.0.0.1/32", "2001:db8::/32"], None), "28 -", "0 -"),
            (rules(&["10.0.0.1/32"], Some(Use)), "28 192.0.2.1:7", "0 -"),
            (rules(&["10.0.0.1/32"], Some(Skip)), "0 -", "0 -"),
        ] {
            let proxy = ProxyProtocol::new(rules);
            let remote = "[::ffff:10.0.0.2]:99".parse().expect("an address");
            let read = |bytes: &[u8]| show(proxy.read_datagram(bytes, remote, Instant::now()));
            assert_eq!(read(&[HEADER, MESSAGE].concat()), header, "{:?}", proxy.rules());
            assert_eq!(read(MESSAGE), none);
        }
    }

    #[test]
    fn invalid_headers_are_dropped() {
        for default in [ProxyPolicy::Use, ProxyPolicy::Ignore, ProxyPolicy::Reject] {
            let proxy = ProxyProtocol::new(rules(&[], Some(default)));
            let remote = "10.0.0.2:99".parse().expect("an address");
            let read = |bytes: &[u8]| show(proxy.read_datagram(bytes, remote, Instant::now()));
            assert_eq!(read(&HEADER[..20]), "the header is cut off");
            assert_eq!(read(OVER_TCP), "PROXY Protocol header is not UDP type");
            assert_eq!(read(b"PROXY TCP4 192.0.2.1 192.0.2.2 5 53\r\nmessage"), DatagramError::Version.to_string());
            assert_eq!(read(b"PROXY TCP4"), "the header is cut off");
            assert_eq!(read(b"PROX"), "0 -");
        }
    }

    #[test]
    fn a_header_holds_for_later_datagrams_for_a_time() {
        let second = Duration::from_secs(1);
        let rules = ProxyRules { session_time: 28 * second, max_sessions: 2, keeps_tlvs: true, ..rules(&[], None) };
        let proxy = ProxyProtocol::new(rules);
        let now = Instant::now();
        let remote = |port: u16| SocketAddr::from(([10, 0, 0, 2], port));
        let read = |bytes: &[u8], port, after| show(proxy.read_datagram(bytes, remote(port), now + after));
        assert_eq!(read(HEADER, 1, Duration::ZERO), "empty");
        assert_eq!(read(MESSAGE, 1, 20 * second), "0 192.0.2.1:7");
        // Each datagram prolongs it.
        assert_eq!(read(MESSAGE, 1, 47 * second), "0 192.0.2.1:7");
        assert_eq!(read(MESSAGE, 1, 76 * second), "0 -");
        assert_eq!(read(MESSAGE, 2, second), "0 -");
        assert_eq!(read(&[HEADER, MESSAGE].concat(), 2, 2 * second), "28 192.0.2.1:7");
        assert_eq!(read(MESSAGE, 2, 3 * second), "0 192.0.2.1:7");
        // The proxy's own datagrams.
        assert_eq!(read(&[LOCAL, MESSAGE].concat(), 3, 3 * second), "28 -");
        assert_eq!(read(LOCAL, 3, 3 * second), "empty");
        assert_eq!(read(MESSAGE, 3, 3 * second), "0 -");
        // The number of sessions has a limit.
        (10..100).for_each(|port| drop(read(HEADER, port, 4 * second)));
        let held = (10..100).filter(|&port| read(MESSAGE, port, 5 * second) != "0 -").count();
        assert!((1..=2).contains(&held), "{held}");
    }
}
