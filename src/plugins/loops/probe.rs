//! The probes of *loop*: the server asks itself for a random name, and ends if that comes back from its own upstream.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Finding, Watch};
use crate::telemetry::log::{Logger, Severity};
use crate::wire::{NameBuf, Type};

/// How long loops are looked for (CoreDNS plugin/loop).
const TIME: Duration = Duration::from_secs(30);
/// How long one probe may take.
const PROBE: Duration = Duration::from_secs(6);
/// How often it is looked whether it has come back.
const LOOK: Duration = Duration::from_millis(10);
/// Between probes that have no answer.
const REST: Duration = Duration::from_secs(1);
/// How long lines may take to be written before the end.
const FLUSH: Duration = Duration::from_secs(1);

/// Looks for a loop through the server at `address`; ends the program if there is one.
pub async fn probe(watch: Arc<Watch>, address: SocketAddr, logger: Logger) {
    let deadline = Instant::now() + TIME;
    while Instant::now() < deadline {
        match one(&watch, reachable(address)).await {
            // It is answered, and has not come back.
            Ok(Some(Finding::Nothing)) => break,
            Ok(Some(Finding::Suspicion)) => {}
            Ok(Some(Finding::Loop(client, name))) => {
                let (zone, text) = (&watch.zone, name.to_string());
                let line = format!(
                    "Loop ({} -> {}) detected for zone \"{zone}\", see https://coredns.io/plugins/loop#troubleshooting. \
                     Query: \"HINFO {text}\"; what 'forward' names leads back to this server: name another resolver \
                     there, or in the file that it names",
                    client.remote,
                    shown(address)
                );
                logger.line(Severity::Fatal, Some("loop"), &line);
                logger.flush(FLUSH);
                std::process::exit(1);
            }
            // Nothing came, or it could not be sent.
            Ok(None) | Err(_) => {
                watch.clear();
                sleep(REST).await;
            }
        }
    }
    watch.disarm();
}

/// Sends one probe, once: what is seen twice was not sent twice. Gives what it has shown, or nothing where no answer has
/// come.
async fn one(watch: &Watch, address: SocketAddr) -> std::io::Result<Option<Finding>> {
    let mut random = [0; 18];
    getrandom::fill(&mut random).map_err(|_| std::io::ErrorKind::Other)?;
    let number = |at: usize| u64::from_ne_bytes(std::array::from_fn(|octet| random[at + octet]));
    let name = watch.arm([number(0), number(8)]);
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    socket.send(&packet(&name, [random[16], random[17]])).await?;
    let deadline = Instant::now() + PROBE;
    let mut answer = [0; 512];
    while Instant::now() < deadline {
        let answered = timeout_at(Instant::now() + LOOK, socket.recv(&mut answer)).await;
        let finding = watch.look();
        if finding != Finding::Nothing {
            return Ok(Some(finding));
        }
        if let Ok(received) = answered {
            received?;
            return Ok(Some(Finding::Nothing));
        }
    }
    Ok(None)
}

/// A query for HINFO.
fn packet(name: &NameBuf, id: [u8; 2]) -> Vec<u8> {
    let mut packet = [&id[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.as_name().as_wire()].concat();
    packet.extend(Type::HINFO.0.to_be_bytes());
    packet.extend([0, 1]);
    packet
}

/// A listening address as somebody on this machine reaches it.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = if address.ip().is_unspecified() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { address.ip() };
    SocketAddr::new(ip, address.port())
}

/// The same as CoreDNS shows it: without what is unspecified.
fn shown(address: SocketAddr) -> String {
    if address.ip().is_unspecified() { format!(":{}", address.port()) } else { address.to_string() }
}
