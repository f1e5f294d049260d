//! The socket of a QUIC listener, which removes the headers of proxies from datagrams (*proxyproto*).
//!
//! QUIC has to send to the proxy, but each client behind it has connections of its own. So the address that QUIC sees
//! of a client is that of its proxy, as an IPv6 address with a number of the client as flow label:
//!
//! ```text
//! kernel ─ 10.0.0.9:4711, header of 192.0.2.1:7 ─► [::ffff:10.0.0.9]:4711, flow label A ─► quinn
//! kernel ◄─ 10.0.0.9:4711 ──────────────────────── [::ffff:10.0.0.9]:4711, flow label A ◄─ quinn
//! ```
//!
//! The kernel itself reports no flow labels, so that no address without a header looks like one with a header.

use std::collections::VecDeque;
use std::fmt;
use std::hash::BuildHasher as _;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use crate::net::{Proxied, ProxyProtocol, ProxyRules};
use crate::serve::Service;
use crate::serve::proxied_datagram::read_proxied;

/// The maximum number of bytes of a datagram with its header.
const MAX_DATAGRAM: usize = 4_096;

/// The socket of a QUIC listener. Without *proxyproto* it passes everything on.
pub(crate) struct ProxiedSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    /// The socket has IPv4 addresses, none of which is written as an IPv6 address.
    is_ipv4: bool,
    service: Arc<Service>,
    /// The clients of addresses with a flow label, needed until their connections are accepted. Written for datagrams
    /// with a header; read for new connections.
    clients: Cache<SocketAddr, Proxied>,
    numbers: RandomState,
    /// Datagrams without their headers, which QUIC has not read yet. Locked by the task that reads the socket only.
    received: Mutex<VecDeque<(RecvMeta, Box<[u8]>)>>,
}

/// The other side of a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionOrigin {
    /// A client, without a proxy or with one whose headers are ignored.
    Direct(SocketAddr),
    /// A client, as the header of its proxy names it.
    Proxied(Proxied),
}

impl ConnectionOrigin {
    /// Returns the IP address of the client.
    pub(crate) fn ip(&self) -> IpAddr {
        match self {
            ConnectionOrigin::Direct(remote) => remote.ip().to_canonical(),
            ConnectionOrigin::Proxied(proxied) => proxied.client.ip().to_canonical(),
        }
    }
}

impl ProxiedSocket {
    /// Creates the socket of a service.
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>, service: Arc<Service>) -> io::Result<ProxiedSocket> {
        Ok(ProxiedSocket {
            is_ipv4: socket.local_addr()?.is_ipv4(),
            socket,
            service,
            clients: Cache::new(ProxyRules::SESSIONS),
            numbers: RandomState::default(),
            received: Mutex::default(),
        })
    }

    /// Returns the other side of an address that QUIC sees, or `None` if its client has been forgotten, since there are
    /// too many.
    pub(super) fn origin(&self, remote: SocketAddr) -> Option<ConnectionOrigin> {
        if !is_labelled(remote) {
            return Some(ConnectionOrigin::Direct(remote));
        }
        self.clients.get(&remote).map(ConnectionOrigin::Proxied)
    }

    /// Returns the address for QUIC of a client behind a proxy, and remembers the client.
    fn label(&self, proxy: SocketAddr, proxied: Proxied) -> SocketAddr {
        let ip = match proxy.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let scope = if let SocketAddr::V6(proxy) = proxy { proxy.scope_id() } else { 0 };
        // The number is not 0, which means none.
        let number = self.numbers.hash_one((proxied.client, proxied.server)) as u32 | 1;
        let labelled = SocketAddr::V6(SocketAddrV6::new(ip, proxy.port(), number, scope));
        if self.clients.get(&labelled).as_ref() != Some(&proxied) {
            self.clients.insert(labelled, proxied);
        }
        labelled
    }

    /// Returns the address for the kernel.
    fn unlabel(&self, address: SocketAddr) -> SocketAddr {
        match address {
            SocketAddr::V6(labelled) if labelled.flowinfo() != 0 => {
                let ip = IpAddr::V6(*labelled.ip());
                match if self.is_ipv4 { ip.to_canonical() } else { ip } {
                    IpAddr::V4(ip) => SocketAddr::new(ip.into(), labelled.port()),
                    IpAddr::V6(ip) => SocketAddrV6::new(ip, labelled.port(), 0, labelled.scope_id()).into(),
                }
            }
            address => address,
        }
    }

    /// Removes the headers from the datagrams of a buffer.
    fn read(&self, proxy: &ProxyProtocol, bytes: &[u8], meta: RecvMeta, now: Instant) {
        let mut received = self.received.lock();
        for datagram in bytes.chunks(meta.stride.max(1)).filter(|datagram| datagram.len() <= MAX_DATAGRAM) {
            let Some((start, proxied)) = read_proxied(proxy, datagram, meta.addr, now) else { continue };
            let addr = proxied.map_or(meta.addr, |proxied| self.label(meta.addr, proxied));
            let bytes = &datagram[start..];
            received.push_back((RecvMeta { addr, len: bytes.len(), stride: bytes.len(), ..meta }, bytes.into()));
        }
    }

    /// Hands datagrams to QUIC. Returns their number.
    fn take(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let mut received = self.received.lock();
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some((of, bytes)) = received.pop_front() else { break };
            // A datagram that does not fit is lost, as without a header.
            let len = bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&bytes[..len]);
            *meta = RecvMeta { len, stride: len, ..of };
            count += 1;
        }
        count
    }
}

/// Returns whether an address is that of a client behind a proxy.
fn is_labelled(address: SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(address) if address.flowinfo() != 0)
}

impl AsyncUdpSocket for ProxiedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if !is_labelled(transmit.destination) {
            return self.socket.try_send(transmit);
        }
        let destination = self.unlabel(transmit.destination);
        self.socket.try_send(&Transmit { destination, ..transmit.clone() })
    }

    fn poll_recv(
        &self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let Some(proxy) = self.service.proxy() else { return self.socket.poll_recv(cx, bufs, meta) };
        // Ends when there is a datagram to hand over or none to read; the runtime limits the reads of a turn.
        loop {
            let count = self.take(bufs, meta);
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            let count = ready!(self.socket.poll_recv(cx, bufs, meta))?;
            let now = Instant::now();
            for (buf, meta) in bufs.iter().zip(meta.iter()).take(count) {
                self.read(&proxy, &buf[..meta.len.min(buf.len())], *meta, now);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

impl fmt::Debug for ProxiedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxiedSocket").field("socket", &self.socket).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Router;
    use crate::net::ProxyPolicy;
    use crate::serve::Settings;

    /// A socket from which buffers come, each with datagrams of one size. What is sent is noted.
    #[derive(Debug)]
    struct Fake {
        local: SocketAddr,
        buffers: Mutex<VecDeque<(SocketAddr, usize, Vec<u8>)>>,
        sent: Mutex<Vec<SocketAddr>>,
    }

    impl AsyncUdpSocket for Fake {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            unreachable!("no test waits")
        }

        fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
            self.sent.lock().push(transmit.destination);
            Ok(())
        }

        fn poll_recv(
            &self, _: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            let Some((addr, stride, bytes)) = self.buffers.lock().pop_front() else { return Poll::Pending };
            bufs[0][..bytes.len()].copy_from_slice(&bytes);
            meta[0] = RecvMeta { addr, len: bytes.len(), stride, ..RecvMeta::default() };
            Poll::Ready(Ok(1))
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(self.local)
        }
    }

    /// Returns a header for a client at 192.0.2.N:7.
    fn header(client: u8) -> Vec<u8> {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\xc0\0\x02\0\xc0\0\x02\x02\0\x07\0\x35".to_vec();
        bytes[19] = client;
        bytes
    }

    fn proxied(client: u8, message: &[u8]) -> Vec<u8> {
        [&header(client), message].concat()
    }

    fn socket(local: &str, rules: Option<ProxyRules>) -> (Arc<Fake>, ProxiedSocket) {
        let local = local.parse().expect("an address");
        let fake = Arc::new(Fake { local, buffers: Mutex::default(), sent: Mutex::default() });
        let service = Service::new(Arc::new(Router::default()), Settings::DEFAULT);
        service.set_proxy(rules.as_ref());
        (fake.clone(), ProxiedSocket::new(fake, service).expect("a socket"))
    }

    /// Receives everything, two datagrams at a time. Returns addresses and messages.
    fn receive(socket: &ProxiedSocket) -> Vec<(SocketAddr, String)> {
        let (mut one, mut two) = ([0; 5_000], [0; 5_000]);
        let mut received = Vec::new();
        let mut context = Context::from_waker(std::task::Waker::noop());
        loop {
            let mut bufs = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
            let mut meta = [RecvMeta::default(); 2];
            let Poll::Ready(count) = socket.poll_recv(&mut context, &mut bufs, &mut meta) else { return received };
            for (buf, meta) in bufs.iter().zip(meta).take(count.expect("no error")) {
                for message in buf[..meta.len].chunks(meta.stride) {
                    received.push((meta.addr, String::from_utf8_lossy(message).into_owned()));
                }
            }
        }
    }

    fn show(socket: &ProxiedSocket, received: &[(SocketAddr, String)]) -> Vec<String> {
        let one = |(address, message): &(SocketAddr, String)| match socket.origin(*address) {
            Some(ConnectionOrigin::Direct(remote)) => format!("{message} of {remote}"),
            Some(ConnectionOrigin::Proxied(proxied)) => format!("{message} of {} by proxy", proxied.client),
            None => format!("{message} of no client"),
        };
        received.iter().map(one).collect()
    }

    #[test]
    fn datagrams_have_the_client_of_their_header_and_responses_go_to_the_proxy() {
        for (local, proxy) in
            [("127.0.0.1:53", "10.0.0.9:4711"), ("[::]:53", "[::ffff:10.0.0.9]:4711"), ("[::]:53", "[fe80::1%3]:4711")]
        {
            let (fake, socket) = socket(local, Some(ProxyRules::default()));
            let proxy: SocketAddr = proxy.parse().expect("an address");
            // Datagrams of two clients of one proxy in one buffer, one whose header is cut off, and one without.
            let many = [proxied(1, b"a1"), proxied(2, b"b1"), proxied(1, b"a2")].concat();
            fake.buffers.lock().extend([
                (proxy, 30, many),
                (proxy, 20, header(1)[..20].to_vec()),
                (proxy, 5_000, [proxied(1, b""), vec![0; 4_900]].concat()),
                (proxy, 6, b"direct".to_vec()),
            ]);
            let received = receive(&socket);
            let expected = [
                "a1 of 192.0.2.1:7 by proxy",
                "b1 of 192.0.2.2:7 by proxy",
                "a2 of 192.0.2.1:7 by proxy",
                &format!("direct of {proxy}"),
            ];
            assert_eq!(show(&socket, &received), expected);
            assert_eq!(received[0].0, received[2].0, "a client has one address");
            for (destination, _) in &received {
                let transmit =
                    Transmit { destination: *destination, ecn: None, contents: b"x", segment_size: None, src_ip: None };
                socket.try_send(&transmit).expect("sent");
            }
            assert_eq!(*fake.sent.lock(), [proxy; 4]);
        }
    }

    #[test]
    fn a_header_of_another_address_names_no_client() {
        for (default, expected) in [
            (None, Some("m of 10.0.0.9:4711")),
            (Some(ProxyPolicy::Reject), None),
            (Some(ProxyPolicy::Use), Some("m of 192.0.2.1:7 by proxy")),
        ] {
            let allowed = vec!["192.0.2.0/24".parse().expect("a network")];
            let rules = ProxyRules { allowed, default, ..ProxyRules::default() };
            let (fake, socket) = socket("127.0.0.1:53", Some(rules));
            let proxy = "10.0.0.9:4711".parse().expect("an address");
            fake.buffers.lock().push_back((proxy, 29, proxied(1, b"m")));
            let received = receive(&socket);
            assert_eq!(show(&socket, &received), expected.into_iter().collect::<Vec<_>>(), "{default:?}");
        }
    }

    #[test]
    fn without_rules_nothing_changes() {
        let (fake, socket) = socket("127.0.0.1:53", None);
        let client = "10.0.0.9:4711".parse().expect("an address");
        fake.buffers.lock().push_back((client, 2, b"aabbc".to_vec()));
        let received: Vec<String> = receive(&socket).into_iter().map(|(_, message)| message).collect();
        assert_eq!(received, ["aa", "bb", "c"]);
    }

    #[test]
    fn the_number_of_clients_has_a_limit() {
        let (_, socket) = socket("127.0.0.1:53", Some(ProxyRules::default()));
        let proxy = "10.0.0.9:4711".parse().expect("an address");
        let of = |port: u16| Proxied {
            client: SocketAddr::from(([192, 0, 2, 1], port)),
            server: SocketAddr::from(([192, 0, 2, 2], 53)),
            tlvs: None,
        };
        let labelled: Vec<SocketAddr> = (0..40_000).map(|port| socket.label(proxy, of(port))).collect();
        let known = labelled.iter().filter(|address| socket.origin(**address).is_some()).count();
        assert!((1..=2 * ProxyRules::SESSIONS).contains(&known), "{known}");
    }
}
