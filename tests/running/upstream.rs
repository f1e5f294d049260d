//! Another server, that queries are forwarded to.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Mutex;

use clusterdns::wire::NameBuf;

/// Queries that have not been answered, and who asks.
type Held = Vec<(Vec<u8>, SocketAddr)>;

/// Another server: it answers each query, but for names that begin with "slow" only when it is told to.
pub struct Upstream {
    socket: UdpSocket,
    /// What it has not answered; nothing once it has been told to.
    held: Mutex<Option<Held>>,
}

impl Upstream {
    /// It runs until the test ends.
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

    /// Where it is asked.
    pub fn at(&self) -> SocketAddr {
        self.socket.local_addr().expect("an address")
    }

    /// No record is an answer, too. That it carries no OPT is no fault of a server.
    fn answer(&self, mut query: Vec<u8>, client: SocketAddr) {
        (query[2], query[3], query[11]) = (0x81, 0x80, 0);
        let question = 12 + query[12..].iter().position(|&octet| octet == 0).expect("a name") + 5;
        query.truncate(question);
        self.socket.send_to(&query, client).expect("sent");
    }

    /// How many names it has not answered; one may have been asked for again.
    pub fn holds(&self) -> usize {
        let held = self.held.lock().expect("not poisoned");
        let names = held.iter().flatten().map(|(query, _)| query[12..].to_ascii_lowercase());
        names.collect::<HashSet<_>>().len()
    }

    /// Answers them, and from now on all at once.
    pub fn let_go(&self) {
        let held = self.held.lock().expect("not poisoned").take();
        held.into_iter().flatten().for_each(|(query, client)| self.answer(query, client));
    }
}

/// A query for A.
pub fn query(id: u16, name: &str) -> Vec<u8> {
    let name = NameBuf::from_text(name).expect("a name");
    [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.as_wire(), &[0, 1, 0, 1]].concat()
}
