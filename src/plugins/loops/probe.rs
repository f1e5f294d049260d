//! The probes of *loop*: the server sends itself a query for a random name, and exits if an upstream sends it back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Finding, Watch};
use crate::telemetry::log::{Logger, Severity};
use crate::wire::{NameBuf, Type};

/// How long probes are sent after the start (CoreDNS plugin/loop).
const TIME: Duration = Duration::from_secs(30);
/// The timeout of a probe.
const PROBE: Duration = Duration::from_secs(6);
/// The interval at which a probe is checked.
const LOOK: Duration = Duration::from_millis(10);
/// The pause after a probe without a response.
const REST: Duration = Duration::from_secs(1);
/// The timeout of writing log lines before the exit.
const FLUSH: Duration = Duration::from_secs(1);

/// Sends probes to the server at `address`. Stops the process if there is a loop.
pub async fn probe(watch: Arc<Watch>, address: SocketAddr, logger: Logger) {
    let deadline = Instant::now() + TIME;
    while Instant::now() < deadline {
        match send_probe(&watch, reachable(address)).await {
            // There is a response, and the probe has not come back.
            Ok(Some(Finding::Nothing)) => break,
            Ok(Some(Finding::Suspicion)) => {}
            Ok(Some(Finding::Loop(client, name))) => {
                let (zone, text) = (&watch.zone, name.to_string());
                let line = format!(
                    "Loop ({} -> {}) detected for zone \"{zone}\", see https://coredns.io/plugins/loop#troubleshooting. \
                     Query: \"HINFO {text}\"; what 'forward' names leads back to this server: name another resolver \
                     there, or in the file that it names",
                    client.remote,
                    format_address(address)
                );
                logger.line(Severity::Fatal, Some("loop"), &line);
                logger.flush(FLUSH);
                std::process::exit(1);
            }
            // There is no response, or the probe could not be sent.
            Ok(None) | Err(_) => {
                watch.clear();
                sleep(REST).await;
            }
        }
    }
    watch.disarm();
}

/// Sends a probe, without a retry, so that a second query for its name is not ours. Returns what it has shown, or
/// `None` if there is no response.
async fn send_probe(watch: &Watch, address: SocketAddr) -> std::io::Result<Option<Finding>> {
    let mut random = [0; 18];
    getrandom::fill(&mut random).map_err(|_| std::io::ErrorKind::Other)?;
    let number = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| random[at + byte]));
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

/// Returns a query for HINFO.
fn packet(name: &NameBuf, id: [u8; 2]) -> Vec<u8> {
    let mut packet = [&id[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.as_name().as_wire()].concat();
    packet.extend(Type::HINFO.0.to_be_bytes());
    packet.extend([0, 1]);
    packet
}

/// Returns the address at which a client on this machine reaches a listener.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = if address.ip().is_unspecified() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { address.ip() };
    SocketAddr::new(ip, address.port())
}

/// Formats the address of a listener as CoreDNS does: without an unspecified IP address.
fn format_address(address: SocketAddr) -> String {
    if address.ip().is_unspecified() { format!(":{}", address.port()) } else { address.to_string() }
}
