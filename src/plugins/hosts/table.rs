//! A hosts file as a table: `ADDRESS NAME...` a line, `#` starts a comment, what is no such line is passed over.

use std::collections::HashMap;
use std::io::{self, BufRead};
use std::net::IpAddr;

use smallvec::SmallVec;

use crate::wire::{Name, NameBuf, Question, Type};

/// The longest field that is looked at, in octets. A name has 255 at most, in its escaped text four times as many.
const MAX_FIELD: usize = 1024;
/// The most names that a table holds: some hundred megabytes. The largest published block lists have half of that.
const MAX_ENTRIES: usize = 2_000_000;
/// The most octets that are read of a file.
const MAX_FILE: usize = 64 * 1024 * 1024;

/// The addresses of one name, in the order of the file. One that stands there twice is answered twice, as CoreDNS does.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4.
    pub ipv4: SmallVec<[[u8; 4]; 2]>,
    /// IPv6.
    pub ipv6: SmallVec<[[u8; 16]; 1]>,
}

impl Addresses {
    fn add(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.ipv4.push(address.octets()),
            IpAddr::V6(address) => self.ipv6.push(address.octets()),
        }
    }

    /// Whether there is one of the family that this type asks for.
    fn has(&self, rtype: Type) -> bool {
        if rtype == Type::A { !self.ipv4.is_empty() } else { !self.ipv6.is_empty() }
    }
}

/// Names in lower-case wire form.
type Names = HashMap<Box<[u8]>, Addresses, foldhash::fast::RandomState>;

/// What a file, or the lines in the Corefile, say.
#[derive(Debug, Default)]
pub struct Table {
    /// Names that are written out.
    names: Names,
    /// What stands behind the `*.` of a wildcard. It covers one label.
    wildcards: Names,
    /// The names of an address.
    reverse: HashMap<IpAddr, SmallVec<[NameBuf; 1]>, foldhash::fast::RandomState>,
    /// How many there are of all three.
    entries: usize,
}

/// What was left away, for one line of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Fields that are no name, or too long for one.
    pub names: usize,
    /// The file or the table was too large: the rest of the file is not in the table.
    pub rest: bool,
}

impl Table {
    /// Reads a table of the names that are in `zones`; addresses lead back to them if `reverse`.
    pub fn read(source: impl BufRead, zones: &[NameBuf], reverse: bool) -> io::Result<(Table, Skipped)> {
        let mut reader =
            Reader { zones, reverse, table: Table::default(), skipped: Skipped::default(), line: Line::default() };
        reader.read(source)?;
        Ok((reader.table, reader.skipped))
    }

    /// How many entries it has, counted as CoreDNS counts them for its metric.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// The addresses of a name for A or AAAA: its own, or where it has none of that family those of the wildcard.
    pub fn addresses(&self, question: &Question, rtype: Type) -> Option<&Addresses> {
        let own = self.names.get(question.name().as_wire()).filter(|addresses| addresses.has(rtype));
        if own.is_some() || self.wildcards.is_empty() || question.labels() < 2 {
            return own;
        }
        let parent = question.suffix(question.labels() - 1);
        self.wildcards.get(parent.as_wire()).filter(|addresses| addresses.has(rtype))
    }

    /// The names of an address.
    pub fn names(&self, address: IpAddr) -> &[NameBuf] {
        self.reverse.get(&address).map_or(&[], SmallVec::as_slice)
    }

    fn add(&mut self, name: &NameBuf, address: IpAddr, reverse: bool) {
        let mut labels = name.as_name().labels();
        self.entries += 1;
        if labels.next() == Some(&b"*"[..]) {
            let parent = name.as_name().parent().unwrap_or(Name::ROOT);
            self.wildcards.entry(parent.as_wire().into()).or_default().add(address);
            return;
        }
        self.names.entry(name.as_wire().into()).or_default().add(address);
        if reverse {
            self.entries += 1;
            self.reverse.entry(address).or_default().push(name.clone());
        }
    }
}

/// Reads octet by octet, so that a line may have any length and never more than a field of it is held.
struct Reader<'a> {
    zones: &'a [NameBuf],
    reverse: bool,
    table: Table,
    skipped: Skipped,
    line: Line,
}

/// Where in a line the reader is.
#[derive(Default)]
struct Line {
    /// The field being read.
    field: Vec<u8>,
    /// The field has outgrown `MAX_FIELD`.
    too_long: bool,
    /// The first field is read; this is its address, if it was one.
    address: Option<Option<IpAddr>>,
    /// The rest of the line is a comment.
    comment: bool,
}

impl Reader<'_> {
    fn read(&mut self, mut source: impl BufRead) -> io::Result<()> {
        let mut left = MAX_FILE;
        loop {
            let octets = source.fill_buf()?;
            if octets.is_empty() {
                self.end_field();
                return Ok(());
            }
            // What follows the last whole field is half a name, so that it is left.
            if left == 0 || self.skipped.rest {
                self.skipped.rest = true;
                return Ok(());
            }
            let len = octets.len().min(left);
            left -= len;
            for &octet in &octets[..len] {
                self.octet(octet);
            }
            source.consume(len);
        }
    }

    fn octet(&mut self, octet: u8) {
        match octet {
            b'\n' => {
                self.end_field();
                (self.line.address, self.line.comment) = (None, false);
            }
            _ if self.line.comment => {}
            b'#' => {
                self.end_field();
                self.line.comment = true;
            }
            b' ' | b'\t' | b'\r' | 0x0b | 0x0c => self.end_field(),
            _ if self.line.field.len() < MAX_FIELD => self.line.field.push(octet),
            _ => self.line.too_long = true,
        }
    }

    fn end_field(&mut self) {
        if self.line.field.is_empty() {
            return;
        }
        let text = std::str::from_utf8(&self.line.field).ok().filter(|_| !self.line.too_long);
        match (self.line.address, text) {
            (None, text) => self.line.address = Some(text.and_then(parse_address)),
            (Some(None), _) => {}
            (Some(Some(_)), None) => self.skipped.names += 1,
            (Some(Some(address)), Some(text)) => match NameBuf::from_text(text) {
                Err(_) => self.skipped.names += 1,
                Ok(_) if self.table.entries >= MAX_ENTRIES => self.skipped.rest = true,
                Ok(name) => {
                    let name = name.to_lower();
                    if self.zones.iter().any(|zone| name.as_name().is_within(zone.as_name())) {
                        self.table.add(&name, address, self.reverse);
                    }
                }
            },
        }
        self.line.field.clear();
        self.line.too_long = false;
    }
}

/// An address; an IPv6 zone behind `%` is dropped, and an IPv4 address in IPv6 form is one (Go's `net.IP.To4`).
pub(super) fn parse_address(text: &str) -> Option<IpAddr> {
    let (address, _) = text.split_once('%').unwrap_or((text, ""));
    address.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::n;
    use crate::wire::Class;

    fn table(text: &str) -> Table {
        Table::read(text.as_bytes(), &[n(".")], true).expect("a table").0
    }

    fn found(table: &Table, name: &str, rtype: Type) -> Vec<String> {
        let question = Question::new(n(name).as_name(), rtype, Class::IN);
        let Some(addresses) = table.addresses(&question, rtype) else { return Vec::new() };
        match rtype {
            Type::A => addresses.ipv4.iter().map(|a| std::net::Ipv4Addr::from(*a).to_string()).collect(),
            _ => addresses.ipv6.iter().map(|a| std::net::Ipv6Addr::from(*a).to_string()).collect(),
        }
    }

    #[test]
    fn lines_become_names_and_addresses() {
        let table = table(
            "\n# c\n10.0.0.1 A.x b.x#c d.x\n  10.0.0.2\tb.x. # e\r\nno a.x\n10.0.0.3\nfe80::1%eth0 a.x\n::ffff:10.0.0.4 m.x",
        );
        assert_eq!(found(&table, "a.x", Type::A), ["10.0.0.1"]);
        assert_eq!(found(&table, "a.x", Type::AAAA), ["fe80::1"]);
        assert_eq!(found(&table, "b.x", Type::A), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(found(&table, "d.x", Type::A), [""; 0]);
        assert_eq!(found(&table, "m.x", Type::A), ["10.0.0.4"]);
        assert_eq!(table.names("10.0.0.1".parse().expect("an address")), [n("a.x"), n("b.x")]);
        assert_eq!(table.entries(), 10);
    }

    #[test]
    fn a_wildcard_covers_one_label_of_a_family_that_the_name_lacks() {
        let table = table("10.0.0.5 *.w.x *.\nfd00::5 *.w.x\n10.0.0.6 a.w.x\n");
        assert_eq!(found(&table, "b.w.x", Type::A), ["10.0.0.5"]);
        assert_eq!(found(&table, "*.w.x", Type::A), ["10.0.0.5"]);
        assert_eq!(found(&table, "a.w.x", Type::A), ["10.0.0.6"]);
        assert_eq!(found(&table, "a.w.x", Type::AAAA), ["fd00::5"]);
        assert_eq!(found(&table, "w.x", Type::A), [""; 0]);
        assert_eq!(found(&table, "c.b.w.x", Type::A), [""; 0]);
        assert_eq!(found(&table, "b", Type::A), [""; 0]);
        assert_eq!(table.names("10.0.0.5".parse().expect("an address")), []);
    }

    #[test]
    fn only_names_of_the_zones_are_kept() {
        let text = "10.0.0.1 a.x b.y\n";
        let (table, _) = Table::read(text.as_bytes(), &[n("Y.")], false).expect("a table");
        assert_eq!(found(&table, "a.x", Type::A), [""; 0]);
        assert_eq!(found(&table, "b.y", Type::A), ["10.0.0.1"]);
        assert_eq!(table.entries(), 1);
    }

    #[test]
    fn what_is_too_long_is_skipped_and_counted() {
        let long = "a".repeat(MAX_FIELD + 1);
        let text = format!("10.0.0.1 {long} a..b \u{7f} {} ok.x\n{long} b.x\n10.0.0.2 \u{fffd} c.x", "y".repeat(64));
        let source = io::BufReader::with_capacity(7, text.as_bytes());
        let (table, skipped) = Table::read(source, &[n(".")], true).expect("a table");
        assert_eq!(skipped, Skipped { names: 3, rest: false });
        assert_eq!(found(&table, "ok.x", Type::A), ["10.0.0.1"]);
        assert_eq!(found(&table, "b.x", Type::A), [""; 0]);
        assert_eq!(found(&table, "c.x", Type::A), ["10.0.0.2"]);
        let (_, skipped) = Table::read(&b"10.0.0.1 \xff a.x"[..], &[n(".")], true).expect("a table");
        assert_eq!(skipped.names, 1);
    }

    proptest::proptest! {
        #[test]
        fn it_does_not_matter_how_a_file_is_cut(
            text in r"([ \t\n#*.a-c%:\x00é]|10\.0\.0\.1 |fd00::1 |\*\.b){0,60}", capacity in 1usize..9,
        ) {
            let whole = Table::read(text.as_bytes(), &[n(".")], true).expect("a table");
            let cut = Table::read(io::BufReader::with_capacity(capacity, text.as_bytes()), &[n(".")], true).expect("a table");
            assert_eq!(whole.1, cut.1);
            assert_eq!(format!("{:?}", (sorted(&whole.0.names), whole.0.entries)), format!("{:?}", (sorted(&cut.0.names), cut.0.entries)));
        }
    }

    fn sorted(names: &Names) -> std::collections::BTreeMap<&[u8], &Addresses> {
        names.iter().map(|(name, addresses)| (&**name, addresses)).collect()
    }
}
