//! The subject behind an address: sends queries to a server over the network.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use clusterdns::chain::Transport;

/// How long to wait for a response.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Sends a packet to a server, and returns the response, or `None` after the timeout.
pub fn ask(server: SocketAddr, packet: &[u8], transport: Transport) -> Result<Option<Vec<u8>>, String> {
    let answer = match transport {
        Transport::Udp => udp(server, packet),
        // Scenarios use these two transports.
        _ => tcp(server, packet),
    };
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) => match error.kind() {
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut | std::io::ErrorKind::UnexpectedEof => {
                Ok(None)
            }
            _ => Err(format!("{server}: {error}")),
        },
    }
}

fn udp(server: SocketAddr, packet: &[u8]) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.connect(server)?;
    socket.send(packet)?;
    let mut answer = vec![0; 65_535];
    let len = socket.recv(&mut answer)?;
    answer.truncate(len);
    Ok(answer)
}

fn tcp(server: SocketAddr, packet: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut message = (packet.len() as u16).to_be_bytes().to_vec();
    message.extend(packet);
    stream.write_all(&message)?;
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
