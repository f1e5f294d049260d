//! Free ports of loopback, which stay free while nothing listens.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Mutex;

/// Below the ports of outgoing connections (`ip_local_port_range`): one of those could use the port while its server is
/// down, or connect to itself.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// Returns a port that is free for both transports and was not used before.
pub fn free() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().expect("never poisoned");
    let given = given.get_or_insert_default();
    loop {
        let port = fastrand::u16(RANGE);
        let is_free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if is_free && given.insert(port) {
            return port;
        }
    }
}

/// Returns the address of a port.
pub fn on_loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
