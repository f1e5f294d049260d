//! Ports of loopback that are free, and stay so while nobody listens.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Mutex;

/// Below those that the kernel gives to outgoing connections (`ip_local_port_range`): one of these could take the port
/// while its server is down, or connect to itself there.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// A port that is free for both transports and was not given out before.
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

/// The address of a port.
pub fn on_loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
