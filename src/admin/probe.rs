//! A request of this server to itself: whether a page of its own answers, and how long that takes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take; CoreDNS's.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How many octets of an answer are read.
const LIMIT: u64 = 4 * 1024;

/// Asks for a page; an answer other than 200 is an error.
pub async fn probe(address: SocketAddr, path: &str) -> io::Result<()> {
    match tokio::time::timeout(TIMEOUT, ask(address, path)).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within 3 seconds")),
    }
}

async fn ask(address: SocketAddr, path: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LIMIT).read_to_end(&mut answer).await?;
    if answer.starts_with(b"HTTP/1.1 200 ") {
        return Ok(());
    }
    let line = answer.split(|&octet| octet == b'\r').next().unwrap_or_default();
    Err(io::Error::other(format!("answer '{}'", String::from_utf8_lossy(line))))
}
