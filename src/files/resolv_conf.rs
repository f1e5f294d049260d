//! Files in the format of `/etc/resolv.conf`.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::Path;

/// The maximum size of a resolv.conf in bytes. CoreDNS has no limit; this one is for a file of more than 10,000 lines.
pub const MAX_RESOLV_CONF: u64 = 1024 * 1024;

/// The name servers of a resolv.conf.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// The name servers, in the order of the file, with port 53.
    pub servers: Vec<SocketAddr>,
    /// Words of `nameserver` lines that are not addresses.
    pub ignored: Vec<String>,
    /// The words of the last `search` or `domain` line; of `domain` only the first one.
    pub search: Vec<String>,
}

impl ResolvConf {
    /// Reads and parses a file of at most [`MAX_RESOLV_CONF`] bytes.
    pub fn read(path: &Path) -> std::io::Result<ResolvConf> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(MAX_RESOLV_CONF + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_RESOLV_CONF {
            let message = format!("longer than {MAX_RESOLV_CONF} bytes");
            return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, message));
        }
        Ok(ResolvConf::parse(&bytes))
    }

    /// Parses the bytes of a file. They need not be UTF-8, since comments may have any encoding. A server is the second
    /// word of a line whose first word is `nameserver`; the rest of the line is ignored (miekg/dns
    /// `ClientConfigFromReader`, also for `search` and `domain`).
    pub fn parse(bytes: &[u8]) -> ResolvConf {
        let mut conf = ResolvConf::default();
        for line in String::from_utf8_lossy(bytes).lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => match words.next().map(|address| (address, parse_server(address))) {
                    Some((_, Some(server))) => conf.servers.push(server),
                    Some((address, None)) => conf.ignored.push(address.to_owned()),
                    None => {}
                },
                Some("search") => conf.search = words.map(str::to_owned).collect(),
                Some("domain") => conf.search = words.next().map(str::to_owned).into_iter().collect(),
                _ => {}
            }
        }
        conf
    }
}

/// Parses an address, which may have an interface after `%`, by name or by number.
fn parse_server(text: &str) -> Option<SocketAddr> {
    let (ip, scope) = text.split_once('%').map_or((text, None), |(ip, scope)| (ip, Some(scope)));
    match (ip.parse().ok()?, scope) {
        (IpAddr::V6(ip), Some(scope)) => {
            let index = scope.parse().ok().or_else(|| nix::net::if_::if_nametoindex(scope).ok()).unwrap_or(0);
            Some(SocketAddrV6::new(ip, 53, 0, index).into())
        }
        (ip, _) => Some(SocketAddr::new(ip, 53)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// N34: lines that miekg/dns accepts are accepted.
    #[test]
    fn a_resolv_conf_names_servers() {
        let text = b";generated\r\nsearch a.b\r\n# nameserver 9.9.9.9\nnameserver 10.0.0.1 # lab\n\
            nameserver\t10.0.0.2\r\n  nameserver 10.0.0.3\nnameserver 10.0.0.4;x\nNAMESERVER 10.0.0.5\nnameserver\n\
            options timeout:1 rotate\ndomain x\n# caf\xe9\nnameserver ::1\nnameserver invalid\nnameserver fe80::1%2";
        let path = std::env::temp_dir().join(format!("clusterdns-resolv-{}.conf", std::process::id()));
        std::fs::write(&path, text).expect("a file");
        let conf = ResolvConf::read(&path).expect("a file");
        let addresses: Vec<String> = conf.servers.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.1:53", "10.0.0.2:53", "10.0.0.3:53", "[::1]:53", "[fe80::1%2]:53"]);
        assert_eq!(conf.ignored, ["10.0.0.4;x", "invalid"]);
        assert_eq!(conf.search, ["x"]);
        assert_eq!(ResolvConf::parse(b"domain x\nsearch a.b c.\n").search, ["a.b", "c."]);
        assert_eq!(ResolvConf::parse(b"search a.b c.\ndomain\n").search, [""; 0]);
        // Comments have any encoding, and a file many lines. A longer one is not read in part.
        let mut long = b"# caf\xe9\n".repeat(10_000);
        long.extend(b"nameserver 10.0.0.2\n");
        std::fs::write(&path, &long).expect("a file");
        assert_eq!(ResolvConf::read(&path).expect("a file").servers, [SocketAddr::from(([10, 0, 0, 2], 53))]);
        long.resize(MAX_RESOLV_CONF as usize + 1, b'#');
        std::fs::write(&path, &long).expect("a file");
        assert_eq!(ResolvConf::read(&path).expect_err("too long").to_string(), "longer than 1048576 bytes");
        std::fs::remove_file(path).expect("removed");
    }
}
