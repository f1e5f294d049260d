//! Looks up the addresses of a host that is a destination, once, when the plugin is created.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::files::ResolvConf;
use crate::wire::name::NameError;
use crate::wire::{Class, Message, NameBuf, Question, Rcode, Rdata, Reply, Section, Type};

/// The timeout of one query (CoreDNS `plugin/forward` `dnsLookup`).
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// No query is sent after this time: a start or a reload waits for the addresses.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(10);
/// The file with the resolvers of this machine.
const SYSTEM: &str = "/etc/resolv.conf";

/// Why the addresses of a host are unknown.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    #[error("cannot read {path}: {source}")]
    Resolvers { path: &'static str, source: io::Error },
    #[error("'{name}': {source}")]
    Name { name: String, source: NameError },
    #[error("failed to resolve \"{name}\": no addresses found: {reason}")]
    NotFound { name: NameBuf, reason: String },
}

/// Returns the addresses of a host from the first resolver that has any. Without resolvers, those of
/// `/etc/resolv.conf` are queried. The name is absolute.
pub(super) fn addresses(name: &str, resolvers: &[SocketAddr]) -> Result<Vec<IpAddr>, ResolveError> {
    let mut servers = resolvers.to_vec();
    if servers.is_empty() {
        let conf = ResolvConf::read(Path::new(SYSTEM));
        let conf = conf.map_err(|source| ResolveError::Resolvers { path: SYSTEM, source })?;
        servers.extend(conf.servers);
    }
    let name = NameBuf::from_text(name).map_err(|source| ResolveError::Name { name: name.to_owned(), source })?;
    let mut reason = "no resolver is known".to_owned();
    let deadline = Instant::now() + TOTAL_TIMEOUT;
    for server in servers {
        if Instant::now() >= deadline {
            reason.push_str(", and the other resolvers were not queried: timeout");
            break;
        }
        let mut found = Vec::new();
        reason = format!("{server} has neither A nor AAAA records");
        for qtype in [Type::A, Type::AAAA] {
            match query(server, &name, qtype) {
                Ok((Rcode::NOERROR, addresses)) => found.extend(addresses),
                Ok((rcode, _)) => reason = format!("{server} answers {rcode}"),
                Err(error) => reason = format!("{server}: {}", crate::net::reason(&error)),
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(ResolveError::NotFound { name, reason })
}

/// Sends a query to a server, and returns the code and the addresses of the response.
fn query(server: SocketAddr, name: &NameBuf, qtype: Type) -> io::Result<(Rcode, Vec<IpAddr>)> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    let mut packet = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    getrandom::fill(&mut packet[..2]).map_err(|_| io::ErrorKind::Other)?;
    packet.extend(name.as_name().as_wire());
    packet.extend(qtype.0.to_be_bytes());
    packet.extend(Class::IN.0.to_be_bytes());
    socket.send(&packet)?;
    let question = Question::new(name.as_name(), qtype, Class::IN);
    let deadline = Instant::now() + QUERY_TIMEOUT;
    let mut response = [0; 4_096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let len = match socket.recv(&mut response) {
            // What Linux calls a timeout of a read.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            received => received?,
        };
        // A datagram that is no response to this query is ignored.
        let message = Message::parse(&response[..len], &question).ok();
        let Some(message) = message.filter(|_| response[..2] == packet[..2]) else { continue };
        let mut reply = Reply::new();
        reply.read(&message).map_err(|_| io::ErrorKind::InvalidData)?;
        let addresses = reply.section(Section::Answer).filter_map(|record| match record.rdata {
            Rdata::A(address) => Some(IpAddr::from(address)),
            Rdata::Aaaa(address) => Some(IpAddr::from(address)),
            _ => None,
        });
        return Ok((message.rcode(), addresses.collect()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts a resolver. A name that begins with "x" does not exist, A of one with "f" fails, one with "d" has an
    /// address for A; everything else is empty.
    fn resolver() -> SocketAddr {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let at = server.local_addr().expect("an address");
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((len, from)) = server.recv_from(&mut buffer) {
                let mut answer = buffer[..len].to_vec();
                answer[2] |= 0x80;
                let is_v4 = answer[len - 3] == 1;
                match answer[13] {
                    b'x' => answer[3] = 3,
                    b'f' if is_v4 => answer[3] = 2,
                    b'd' if is_v4 => {
                        answer[7] = 1;
                        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 9, 8, 7]);
                    }
                    _ => {}
                }
                let _ = server.send_to(&answer, from);
            }
        });
        at
    }

    #[test]
    fn a_host_is_looked_up_at_the_resolvers() {
        let at = resolver();
        let found = addresses("dns.example.", &[at]).expect("an address");
        assert_eq!(found, [IpAddr::from([10, 9, 8, 7])]);
        let closed = UdpSocket::bind("127.0.0.1:0").expect("a socket").local_addr().expect("an address");
        let error = addresses("dns.example", &[closed]).expect_err("no server").to_string();
        assert!(error.starts_with("failed to resolve \"dns.example.\": no addresses found: 127.0.0.1:"), "{error}");
    }

    #[test]
    fn an_error_names_what_the_resolver_answers() {
        let at = resolver();
        let error = |name: &str, at| addresses(name, &[at]).expect_err("no address").to_string();
        assert!(error("x.example", at).ends_with(&format!(": {at} answers NXDOMAIN")), "{}", error("x.example", at));
        assert!(error("fails.example", at).ends_with(&format!(": {at} answers SERVFAIL")), "not of AAAA");
        let empty = error("empty.example", at);
        assert!(empty.ends_with(&format!(": {at} has neither A nor AAAA records")), "{empty}");
        let unanswering = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let at = unanswering.local_addr().expect("an address");
        assert!(error("a.example", at).ends_with(&format!(": {at}: timed out")), "{}", error("a.example", at));
    }
}
