//! Requests a page of this server from itself, to check that it responds.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The timeout; CoreDNS's.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The maximum number of bytes of a response that are read.
const LIMIT: u64 = 4 * 1024;

/// Requests a page; a response other than 200 is an error.
pub async fn probe(address: SocketAddr, path: &str) -> io::Result<()> {
    match tokio::time::timeout(TIMEOUT, request(address, path)).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no response within 3 seconds")),
    }
}

async fn request(address: SocketAddr, path: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream.take(LIMIT).read_to_end(&mut response).await?;
    if response.starts_with(b"HTTP/1.1 200 ") {
        return Ok(());
    }
    let line = response.split(|&byte| byte == b'\r').next().unwrap_or_default();
    Err(io::Error::other(format!("response '{}'", String::from_utf8_lossy(line))))
}
