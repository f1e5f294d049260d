//! What listening sockets of every kind share: why there is none, in words that say what to do about it, and the
//! certificates of those that speak TLS.

mod credentials;

pub use credentials::{Clients, Credentials, CredentialsError, Files};

use std::io;

use nix::errno::Errno;

/// The reason, without an error number.
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

/// Whether IPv6 is switched off in the kernel or on every interface.
pub fn has_no_ipv6(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL | Errno::EPROTONOSUPPORT))
}
