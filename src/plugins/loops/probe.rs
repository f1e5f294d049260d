//! The probes of *loop*: the server sends itself a query for a random name, and exits if its own upstream sends that
//! query back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout_at};

use super::watch::{ProbeResult, Watch};
use crate::telemetry::log::{Logger, Severity};
use crate::wire::{NameBuf, Type};

/// How long after the start the server looks for a loop (CoreDNS plugin/loop).
const SEARCH_TIME: Duration = Duration::from_secs(30);
/// How long one probe waits for its response.
const PROBE_TIMEOUT: Duration = Duration::from_secs(6);
/// How often a probe checks whether the query has come back.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);
/// The delay after a probe without a response.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How long the exit waits for log lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Looks for a loop through the server at `address`, and exits the process if there is one.
pub(super) async fn look_for_loop(watch: Arc<Watch>, address: SocketAddr, logger: Logger) {
    let deadline = Instant::now() + SEARCH_TIME;
    while Instant::now() < deadline {
        match send_probe(&watch, local_address(address)).await {
            // There is a response, and the query has not come back.
            Ok(Some(ProbeResult::Nothing)) => break,
            Ok(Some(ProbeResult::Suspicion)) => {}
            Ok(Some(ProbeResult::Loop(client, name))) => {
                let zone = &watch.zone;
                let text = name.to_string();
                let line = format!(
                    "Loop ({} -> {}) detected for zone \"{zone}\", see https://coredns.io/plugins/loop#troubleshooting. \
                     Query: \"HINFO {text}\"; an upstream of 'forward' leads back to this server: configure another \
                     resolver there, or in the file that it names",
                    client.remote,
                    display_address(address)
                );
                logger.line(Severity::Fatal, Some("loop"), &line);
                logger.flush(FLUSH_TIMEOUT);
                std::process::exit(1);
            }
            // There is no response, or the query could not be sent.
            Ok(None) | Err(_) => {
                watch.clear();
                sleep(RETRY_DELAY).await;
            }
        }
    }
    watch.disarm();
}

/// Sends one probe, without retransmission, so that a query that arrives twice has been forwarded. Returns what the
/// probe has shown, or `None` without a response.
async fn send_probe(watch: &Watch, address: SocketAddr) -> std::io::Result<Option<ProbeResult>> {
    let mut random = [0; 18];
    getrandom::fill(&mut random).map_err(|_| std::io::ErrorKind::Other)?;
    let number = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| random[at + byte]));
    let name = watch.arm([number(0), number(8)]);
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    socket.send(&encode_query(&name, [random[16], random[17]])).await?;
    let deadline = Instant::now() + PROBE_TIMEOUT;
    let mut response = [0; 512];
    while Instant::now() < deadline {
        let received = timeout_at(Instant::now() + CHECK_INTERVAL, socket.recv(&mut response)).await;
        let result = watch.look();
        if result != ProbeResult::Nothing {
            return Ok(Some(result));
        }
        if let Ok(received) = received {
            received?;
            return Ok(Some(ProbeResult::Nothing));
        }
    }
    Ok(None)
}

/// Encodes a query for HINFO.
fn encode_query(name: &NameBuf, id: [u8; 2]) -> Vec<u8> {
    let mut packet = [&id[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.as_name().as_wire()].concat();
    packet.extend(Type::HINFO.0.to_be_bytes());
    packet.extend([0, 1]);
    packet
}

/// Returns the address at which a client on this machine reaches a listener.
fn local_address(address: SocketAddr) -> SocketAddr {
    let ip = if address.ip().is_unspecified() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { address.ip() };
    SocketAddr::new(ip, address.port())
}

/// Formats an address as CoreDNS does: without the IP address if it is unspecified.
fn display_address(address: SocketAddr) -> String {
    if address.ip().is_unspecified() { format!(":{}", address.port()) } else { address.to_string() }
}
