//! What holds for the files that a server reads besides its Corefile: hosts, weights, resolv.conf. Each parser is
//! compared with a simple one.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::net::{IpAddr, SocketAddr};

use clusterdns::files::ResolvConf;
use clusterdns::plugins::hosts::{Addresses, Table};
use clusterdns::plugins::loadbalance::Weights;
use clusterdns::wire::{Class, NameBuf, Question, Type};

/// The longest field of a hosts file that may be a name.
const MAX_FIELD: usize = 1024;

//--- hosts

/// Checks that a hosts file leads from each name to its addresses and back, in the order of the file, and that it does
/// not matter how the file arrives. The first byte chooses the zone and the size of the pieces.
pub fn check_hosts(data: &[u8]) {
    let Some((&first, text)) = data.split_first() else { return };
    let zone = name(if first & 1 == 0 { "." } else { "a" });
    let zones = [zone];
    let read = |capacity: usize| {
        let source = BufReader::with_capacity(capacity, text);
        Table::read(source, &zones, true).expect("memory can be read")
    };
    let (whole, whole_skipped) = read(text.len().max(1));
    let (pieces, pieces_skipped) = read(usize::from(first >> 1) + 1);
    let expected = Hosts::read(text, &zones[0]);
    for (table, skipped) in [(&whole, whole_skipped), (&pieces, pieces_skipped)] {
        assert!(!skipped.rest);
        assert_eq!(skipped.names, expected.skipped);
        assert_eq!(table.entries(), expected.entries);
        expected.names.iter().for_each(|(name, addresses)| check_addresses(table, &expected, name, addresses));
        for (address, names) in &expected.reverse {
            assert_eq!(table.names(*address), names, "{address}");
        }
    }
}

/// A hosts file, read line by line and field by field.
#[derive(Default)]
struct Hosts {
    names: BTreeMap<NameBuf, Vec<IpAddr>>,
    wildcards: BTreeMap<NameBuf, Vec<IpAddr>>,
    reverse: BTreeMap<IpAddr, Vec<NameBuf>>,
    entries: usize,
    skipped: usize,
}

impl Hosts {
    fn read(text: &[u8], zone: &NameBuf) -> Hosts {
        let mut hosts = Hosts::default();
        for line in text.split(|&byte| byte == b'\n') {
            let line = line.split(|&byte| byte == b'#').next().unwrap_or_default();
            let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c);
            let fields = line.split(is_space).filter(|field| !field.is_empty());
            let mut fields = fields.map(|field| std::str::from_utf8(field).ok().filter(|_| field.len() <= MAX_FIELD));
            let Some(address) = fields.next().flatten().and_then(address) else { continue };
            for field in fields {
                match field.and_then(|field| NameBuf::from_text(field).ok()) {
                    Some(name) if name.as_name().is_within(zone.as_name()) => hosts.add(name.to_lower(), address),
                    Some(_) => {}
                    None => hosts.skipped += 1,
                }
            }
        }
        hosts
    }

    fn add(&mut self, name: NameBuf, address: IpAddr) {
        self.entries += 1;
        if name.as_name().labels().next() == Some(b"*") {
            return self.wildcards.entry(name).or_default().push(address);
        }
        self.entries += 1;
        self.reverse.entry(address).or_default().push(name.clone());
        self.names.entry(name).or_default().push(address);
    }
}

/// Parses an address as Go's `net.ParseIP` does for the text before a `%`, and applies `net.IP.To4`.
fn address(text: &str) -> Option<IpAddr> {
    text.split('%').next()?.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

fn check_addresses(table: &Table, expected: &Hosts, name: &NameBuf, own: &[IpAddr]) {
    // A name of one label has none.
    let wildcard = name.as_name().parent().filter(|parent| !parent.is_root()).and_then(|parent| {
        let mut wire = vec![1, b'*'];
        wire.extend(parent.as_wire());
        let wildcard = clusterdns::wire::Name::from_wire(&wire).ok()?.to_owned();
        expected.wildcards.get(&wildcard)
    });
    for rtype in [Type::A, Type::AAAA] {
        let of_family = |addresses: &[IpAddr]| -> Vec<IpAddr> {
            addresses.iter().copied().filter(|address| address.is_ipv4() == (rtype == Type::A)).collect()
        };
        let own = of_family(own);
        // A wildcard replaces an address family that the name does not have.
        let expected = if own.is_empty() { of_family(wildcard.map_or(&[][..], Vec::as_slice)) } else { own };
        let question = Question::new(name.as_name(), rtype, Class::IN);
        let found = table.addresses(&question, rtype).map_or_else(Vec::new, |found| listed(found, rtype));
        assert_eq!(found, expected, "{name} {rtype}");
    }
}

fn listed(addresses: &Addresses, rtype: Type) -> Vec<IpAddr> {
    match rtype {
        Type::A => addresses.ipv4.iter().map(|&bytes| bytes.into()).collect(),
        _ => addresses.ipv6.iter().map(|&bytes| bytes.into()).collect(),
    }
}

fn name(text: &str) -> NameBuf {
    NameBuf::from_text(text).expect("a name")
}

//--- weights

/// Checks that a weight file is refused at a line of its own, or read: then its weights, written down, read the same.
pub fn check_weights(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let weights = match Weights::read(&text) {
        Ok(weights) => weights,
        Err(error) => {
            let message = error.to_string();
            let line = message.strip_prefix("line ").and_then(|rest| rest.split(':').next());
            let line = line.and_then(|line| line.parse::<usize>().ok()).expect("an error in a text has a line");
            assert!((1..=text.lines().count()).contains(&line), "{message}");
            // The text before that line is valid.
            let before: Vec<&str> = text.lines().take(line - 1).collect();
            assert!(Weights::read(&before.join("\n")).is_ok(), "{message}");
            return;
        }
    };
    let mut again = String::new();
    let names =
        text.lines().map(str::trim).filter(|line| !line.starts_with('#') && !line.contains(char::is_whitespace));
    let names: Vec<NameBuf> =
        names.filter_map(|line| NameBuf::from_text(line).ok()).map(|name| name.to_lower()).collect();
    let mut written: Vec<&NameBuf> = Vec::new();
    for name in &names {
        if written.contains(&name) {
            continue;
        }
        written.push(name);
        again += &format!("{}\n", escaped(name));
        for (address, weight) in weights.of(name.as_name()) {
            assert!(*weight > 0, "{name} {address}");
            again += &format!("{address} {weight}\n");
        }
    }
    let reread = Weights::read(&again).unwrap_or_else(|error| panic!("{error}: {again}"));
    for name in &names {
        assert_eq!(reread.of(name.as_name()), weights.of(name.as_name()), "{name}");
    }
}

/// A name of which every byte is escaped, so that it is no comment.
fn escaped(name: &NameBuf) -> String {
    let label = |label: &[u8]| label.iter().map(|byte| format!("\\{byte:03}")).collect::<String>() + ".";
    if name.as_name().is_root() { ".".to_owned() } else { name.as_name().labels().map(label).collect() }
}

//--- resolv.conf

/// Checks that the servers of a resolv.conf are those of its `nameserver` lines, and that a file of those alone names
/// the same.
pub fn check_resolv_conf(data: &[u8]) {
    let servers = ResolvConf::parse(data).servers;
    let text = String::from_utf8_lossy(data);
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let words = lines.filter(|words| words.len() > 1 && words[0] == "nameserver").map(|words| words[1].to_owned());
    let without_zone = |word: &str| word.split('%').next().and_then(|word| word.parse::<IpAddr>().ok());
    // A zone is of an IPv6 address; whether its interface exists does not matter.
    let expected: Vec<IpAddr> = words.filter_map(|word| without_zone(&word)).collect();
    let found: Vec<IpAddr> = servers.iter().map(|server| server.ip()).collect();
    assert_eq!(found, expected);
    assert!(servers.iter().all(|server| server.port() == 53));
    let again: String = expected.iter().map(|ip| format!("nameserver {ip}\n")).collect();
    let again = ResolvConf::parse(again.as_bytes());
    assert!(again.ignored.is_empty(), "{again:?}");
    let again: Vec<SocketAddr> = again.servers;
    assert_eq!(again.iter().map(SocketAddr::ip).collect::<Vec<_>>(), expected);
}
