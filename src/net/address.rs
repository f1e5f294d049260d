//! The addresses that a listener may have.

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
