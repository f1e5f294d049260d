//! The addresses of a host that is named as a destination, looked up once at start.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::files::ResolvConf;
use crate::wire::{Class, Message, NameBuf, Question, Rdata, Reply, Section, Type};

/// How long one server may take for one answer (CoreDNS plugin/forward `dnsLookup`).
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long all of them may take: a start or a reload waits.
const MOST: Duration = Duration::from_secs(10);
/// Where the servers of this machine stand.
const SYSTEM: &str = "/etc/resolv.conf";

/// The addresses of a host, whose name is absolute, from the first of these servers that knows any; from those of
/// `/etc/resolv.conf` where there are none.
pub(super) fn addresses(name: &str, resolvers: &[SocketAddr]) -> Result<Vec<IpAddr>, String> {
    let mut servers = resolvers.to_vec();
    if servers.is_empty() {
        let conf = ResolvConf::read(Path::new(SYSTEM)).map_err(|error| format!("cannot read {SYSTEM}: {error}"))?;
        servers.extend(conf.servers);
    }
    let name = NameBuf::from_text(name).map_err(|error| format!("'{name}': {error}"))?;
    let mut last = "no server is known".to_owned();
    let deadline = Instant::now() + MOST;
    for server in servers {
        if Instant::now() >= deadline {
            last.push_str(", and the time was up");
            break;
        }
        let mut found = Vec::new();
        for qtype in [Type::A, Type::AAAA] {
            match ask(server, &name, qtype) {
                Ok(addresses) => found.extend(addresses),
                Err(error) => last = format!("{server}: {error}"),
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(format!("failed to resolve \"{name}\": no addresses found: {last}"))
}

/// One question to one server.
fn ask(server: SocketAddr, name: &NameBuf, qtype: Type) -> std::io::Result<Vec<IpAddr>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    let mut packet = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    getrandom::fill(&mut packet[..2]).map_err(|_| std::io::ErrorKind::Other)?;
    packet.extend(name.as_name().as_wire());
    packet.extend(qtype.0.to_be_bytes());
    packet.extend(Class::IN.0.to_be_bytes());
    socket.send(&packet)?;
    let question = Question::new(name.as_name(), qtype, Class::IN);
    let deadline = Instant::now() + TIMEOUT;
    let mut answer = [0; 4_096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let len = socket.recv(&mut answer)?;
        let Some(message) = Message::parse(&answer[..len], &question).ok().filter(|_| answer[..2] == packet[..2])
        else {
            continue;
        };
        let mut reply = Reply::new();
        reply.read(&message).map_err(|_| std::io::ErrorKind::InvalidData)?;
        let addresses = reply.section(Section::Answer).filter_map(|record| match record.rdata {
            Rdata::A(octets) => Some(IpAddr::from(octets)),
            Rdata::Aaaa(octets) => Some(IpAddr::from(octets)),
            _ => None,
        });
        return Ok(addresses.collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_looked_up_at_the_resolvers() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let at = server.local_addr().expect("an address");
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((len, from)) = server.recv_from(&mut buffer) {
                let mut answer = buffer[..len].to_vec();
                answer[2] |= 0x80;
                // A of one address; no AAAA.
                if answer[len - 3] == 1 {
                    answer[7] = 1;
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 9, 8, 7]);
                }
                let _ = server.send_to(&answer, from);
            }
        });
        assert_eq!(addresses("dns.example.", &[at]), Ok(vec![IpAddr::from([10, 9, 8, 7])]));
        let closed = UdpSocket::bind("127.0.0.1:0").expect("a socket").local_addr().expect("an address");
        let error = addresses("dns.example", &[closed]).expect_err("nobody there");
        assert!(error.starts_with("failed to resolve \"dns.example.\": no addresses found: 127.0.0.1:"), "{error}");
    }
}
