//! The addresses that a listener may have, and addresses of servers as text.

use std::fmt;
use std::net::IpAddr;

/// An interface of this machine with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number, which is the scope of its link-local addresses.
    pub index: u32,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// An address to listen on, with the interface that a link-local address needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The number of the interface; 0 for none.
    pub scope: u32,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            0 => write!(f, "{}", self.ip),
            scope => write!(f, "{}%{scope}", self.ip),
        }
    }
}

/// Splits an address into the host, the port and the name after `%`. Returns `None` if the port is invalid.
pub fn split_address(text: &str) -> Option<(&str, Option<u16>, Option<&str>)> {
    // The name after the port, as in `1.1.1.1:853%name` and `[::1]:853%name`, which CoreDNS accepts.
    let mut address_name = None;
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        match rest.strip_prefix(':') {
            Some(port) => match port.split_once('%') {
                Some((port, name)) => {
                    address_name = Some(name);
                    (host, Some(port))
                }
                None => (host, Some(port)),
            },
            None if rest.is_empty() => (host, None),
            None => return None,
        }
    } else {
        // Text with more than one colon is an IPv6 address without brackets. The name of a certificate has no colon.
        let (address, name) = text.split_once('%').map_or((text, None), |(address, name)| (address, Some(name)));
        match name.unwrap_or(address).rsplit_once(':') {
            Some((_, port)) if name.is_some() || address.matches(':').nth(1).is_none() => {
                (&text[..text.len() - port.len() - 1], Some(port))
            }
            None if name.is_some() && address.matches(':').count() == 1 => {
                address_name = name;
                address.split_once(':').map(|(host, port)| (host, Some(port)))?
            }
            _ => (text, None),
        }
    };
    let port = match port {
        Some(port) => Some(port.parse().ok()?),
        None => None,
    };
    match host.split_once('%').or(address_name.map(|name| (host, name))) {
        Some((host, name)) => Some((host, port, Some(name).filter(|name| !name.is_empty()))),
        None => Some((host, port, None)),
    }
}
