//! What the program reads from the operating system: host name, interfaces, and the limit on file descriptors.

use std::net::IpAddr;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::files::ResolvConf;
use crate::net::Interface;
use crate::wire::NameBuf;

/// Returns the host name; in a Pod that is the Pod's name.
pub(super) fn hostname() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}

/// Returns the search list of `/etc/resolv.conf` in lower case; an empty list if the file cannot be read. Words that
/// are not names are left out.
pub(super) fn search_list() -> Vec<NameBuf> {
    let conf = ResolvConf::read(Path::new("/etc/resolv.conf")).unwrap_or_default();
    // The kubelet allows as many in a Pod.
    let names = conf.search.iter().filter_map(|word| NameBuf::from_text(word).ok()).take(32);
    names.map(|name| name.to_lower()).collect()
}

/// Returns the interfaces with their addresses; an empty list if they cannot be read.
pub(super) fn interfaces() -> Vec<Interface> {
    let mut interfaces: Vec<Interface> = Vec::new();
    let Ok(addresses) = nix::ifaddrs::getifaddrs() else { return interfaces };
    for entry in addresses {
        let at = interfaces.iter().position(|known| known.name == entry.interface_name).unwrap_or_else(|| {
            let index = nix::net::if_::if_nametoindex(entry.interface_name.as_str()).unwrap_or(0);
            interfaces.push(Interface { name: entry.interface_name.clone(), index, addresses: Vec::new() });
            interfaces.len() - 1
        });
        let Some(address) = entry.address else { continue };
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 = address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
        interfaces[at].addresses.extend(v4.or(v6));
    }
    interfaces
}

/// Raises the soft limit on file descriptors to the hard one, as Go's runtime does. The soft limit is low only for
/// programs that use `select`.
pub(super) fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit on descriptors");
    }
}
