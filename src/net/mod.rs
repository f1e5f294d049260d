//! What sockets of all kinds share: messages for errors of binding, TLS credentials, the messages of gRPC, and the
//! header fields that name the span of a client.

mod address;
mod b3;
mod credentials;
mod descriptors;
pub mod grpc;
pub mod memory;
mod pinned;
mod proxy_protocol;
mod shares;
mod tls_client;
mod tls_error;

pub use address::{Address, Interface, split_address};
pub use b3::{ClientSpan, Sampling};
pub use credentials::{Clients, Credentials, CredentialsError, TlsFiles};
pub(crate) use descriptors::descriptor_limit;
pub use memory::{MemoryLimit, MemoryPermit};
pub use pinned::Pinned;
pub use proxy_protocol::{
    FoundHeader, MAX_HEADER, Proxied, ProxiedDatagram, ProxyHeader, ProxyHeaderError, ProxyPolicy, ProxyProtocol,
    ProxyRules, Tlvs, read as read_proxy_header,
};
pub(crate) use shares::{Shares, Ticket};
pub use tls_client::TlsClient;
pub use tls_error::{find_tls_error, tls_reason, tls_reason_of_text};

use std::io;

use nix::errno::Errno;

/// Describes why a socket cannot be opened, without an error number.
pub fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address already in use".into(),
        io::ErrorKind::PermissionDenied => {
            "permission denied (ports below 1024 need root or the capability NET_BIND_SERVICE)".into()
        }
        io::ErrorKind::AddrNotAvailable => "no interface has this address".into(),
        _ => error.to_string(),
    }
}

/// Returns whether an error means that IPv6 is disabled, in the kernel or on every interface.
pub fn has_no_ipv6(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL | Errno::EPROTONOSUPPORT))
}
