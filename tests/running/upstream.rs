//! A fake upstream that can withhold its responses.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Mutex;

use clusterdns::wire::NameBuf;

/// Queries that have not been answered, with the addresses of the clients.
type Held = Vec<(Vec<u8>, SocketAddr)>;

/// A fake upstream: it answers each query at once, except names that begin with "slow", which wait for
/// [`Upstream::release`].
pub struct Upstream {
    socket: UdpSocket,
    /// The unanswered queries; `None` after [`Upstream::release`].
    held: Mutex<Option<Held>>,
}

impl Upstream {
    /// Starts it on a free port; it runs until the test process ends.
    pub fn start() -> &'static Upstream {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let upstream: &Upstream = Box::leak(Box::new(Upstream { socket, held: Mutex::new(Some(Vec::new())) }));
        std::thread::spawn(|| {
            let mut packet = [0; 512];
            while let Ok((len, client)) = upstream.socket.recv_from(&mut packet) {
                let query = packet[..len].to_vec();
                match &mut *upstream.held.lock().expect("not poisoned") {
                    Some(held) if query[13..].starts_with(b"slow") => held.push((query, client)),
                    _ => upstream.answer(query, client),
                }
            }
        });
        upstream
    }

    /// Returns its address.
    pub fn at(&self) -> SocketAddr {
        self.socket.local_addr().expect("an address")
    }

    /// Responds without records and without OPT, which is valid.
    fn answer(&self, mut query: Vec<u8>, client: SocketAddr) {
        (query[2], query[3], query[11]) = (0x81, 0x80, 0);
        let question = 12 + query[12..].iter().position(|&byte| byte == 0).expect("a name") + 5;
        query.truncate(question);
        self.socket.send_to(&query, client).expect("sent");
    }

    /// Returns the number of distinct names without a response; a name may have been queried several times.
    pub fn held_names(&self) -> usize {
        let held = self.held.lock().expect("not poisoned");
        let names = held.iter().flatten().map(|(query, _)| query[12..].to_ascii_lowercase());
        names.collect::<HashSet<_>>().len()
    }

    /// Responds to the held queries, and to all later ones at once.
    pub fn release(&self) {
        let held = self.held.lock().expect("not poisoned").take();
        held.into_iter().flatten().for_each(|(query, client)| self.answer(query, client));
    }
}

/// Encodes a query for A.
pub fn query(id: u16, name: &str) -> Vec<u8> {
    let name = NameBuf::from_text(name).expect("a name");
    [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.as_wire(), &[0, 1, 0, 1]].concat()
}
