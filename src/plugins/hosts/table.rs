//! Parses a hosts file into a table. A line is `ADDRESS NAME...`, `#` starts a comment, and other lines are ignored.

use std::collections::HashMap;
use std::io::{self, BufRead};
use std::net::IpAddr;

use smallvec::SmallVec;

use crate::wire::{Name, NameBuf, Question, Type};

/// The maximum length of a field in bytes; a longer one is ignored. A name has at most 255 bytes, and its escaped text
/// four times as many.
const MAX_FIELD: usize = 1024;
/// The maximum number of entries of a table, which take some hundred megabytes. The largest published block lists have
/// half as many.
const MAX_ENTRIES: usize = 2_000_000;
/// The maximum number of bytes of a file that are parsed. The rest is ignored.
const MAX_FILE: usize = 64 * 1024 * 1024;

/// The addresses of a name, in the order of the file. As in CoreDNS, a duplicate in the file is a duplicate in answers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The IPv4 addresses.
    pub ipv4: SmallVec<[[u8; 4]; 2]>,
    /// The IPv6 addresses.
    pub ipv6: SmallVec<[[u8; 16]; 1]>,
}

impl Addresses {
    fn add(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.ipv4.push(address.octets()),
            IpAddr::V6(address) => self.ipv6.push(address.octets()),
        }
    }

    /// Returns whether there is an address of the family of this type, A or AAAA.
    fn has(&self, rtype: Type) -> bool {
        if rtype == Type::A { !self.ipv4.is_empty() } else { !self.ipv6.is_empty() }
    }
}

/// Addresses by name in lower-case wire form.
type Names = HashMap<Box<[u8]>, Addresses, foldhash::fast::RandomState>;

/// The entries of a hosts file or of a stanza.
#[derive(Debug, Default)]
pub struct Table {
    /// The addresses of names, wildcards excepted.
    names: Names,
    /// The addresses of wildcards, by the name after `*.`. A wildcard covers names with one more label.
    wildcards: Names,
    /// The names of addresses.
    reverse: HashMap<IpAddr, SmallVec<[NameBuf; 1]>, foldhash::fast::RandomState>,
    /// The number of addresses and names in the three maps.
    entries: usize,
}

/// The parts of a file that were ignored, for a line in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// The number of fields that are not a name, or longer than `MAX_FIELD`.
    pub names: usize,
    /// The file or the table was too large: the rest of the file is not in the table.
    pub rest: bool,
}

impl Table {
    /// Parses the entries for names in `zones`. With `reverse`, addresses have these names too.
    ///
    /// # Errors
    ///
    /// Returns an error only if the source does: invalid text is ignored.
    pub fn read(source: impl BufRead, zones: &[NameBuf], reverse: bool) -> io::Result<(Table, Skipped)> {
        let mut reader = TableReader {
            zones,
            reverse,
            table: Table::default(),
            skipped: Skipped::default(),
            line: Default::default(),
        };
        reader.read(source)?;
        Ok((reader.table, reader.skipped))
    }

    /// Returns the number of entries, as CoreDNS's metric counts them.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Returns the addresses of a name for A or AAAA: its own ones, or those of the wildcard if it has none of the
    /// family.
    pub fn addresses(&self, question: &Question, rtype: Type) -> Option<&Addresses> {
        let own = self.names.get(question.name().as_wire()).filter(|addresses| addresses.has(rtype));
        if own.is_some() || self.wildcards.is_empty() || question.labels() < 2 {
            return own;
        }
        let parent = question.suffix(question.labels() - 1);
        self.wildcards.get(parent.as_wire()).filter(|addresses| addresses.has(rtype))
    }

    /// Returns the names of an address, in the order of the file.
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

/// Reads a file byte by byte. A line may have any length; only its current field is in memory.
struct TableReader<'a> {
    zones: &'a [NameBuf],
    reverse: bool,
    table: Table,
    skipped: Skipped,
    line: LineState,
}

/// The position of the reader in a line.
#[derive(Default)]
struct LineState {
    /// The bytes of the current field, at most `MAX_FIELD`.
    field: Vec<u8>,
    /// The field is longer than `MAX_FIELD`.
    is_too_long: bool,
    /// After the first field: its address, or `Some(None)` if it is not an address.
    address: Option<Option<IpAddr>>,
    /// The rest of the line is a comment.
    is_comment: bool,
}

impl TableReader<'_> {
    fn read(&mut self, mut source: impl BufRead) -> io::Result<()> {
        let mut left = MAX_FILE;
        loop {
            let bytes = source.fill_buf()?;
            if bytes.is_empty() {
                self.finish_field();
                return Ok(());
            }
            // The current field is ignored, since it may be the beginning of a name.
            if left == 0 || self.skipped.rest {
                self.skipped.rest = true;
                return Ok(());
            }
            let len = bytes.len().min(left);
            left -= len;
            for &byte in &bytes[..len] {
                self.push(byte);
            }
            source.consume(len);
        }
    }

    fn push(&mut self, byte: u8) {
        match byte {
            b'\n' => {
                self.finish_field();
                self.line.address = None;
                self.line.is_comment = false;
            }
            _ if self.line.is_comment => {}
            b'#' => {
                self.finish_field();
                self.line.is_comment = true;
            }
            b' ' | b'\t' | b'\r' | 0x0b | 0x0c => self.finish_field(),
            _ if self.line.field.len() < MAX_FIELD => self.line.field.push(byte),
            _ => self.line.is_too_long = true,
        }
    }

    fn finish_field(&mut self) {
        if self.line.field.is_empty() {
            return;
        }
        let text = std::str::from_utf8(&self.line.field).ok().filter(|_| !self.line.is_too_long);
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
        self.line.is_too_long = false;
    }
}

/// Parses an address. The zone of an IPv6 address after `%` is ignored, and an IPv4-mapped address is an IPv4 address
/// (Go's `net.IP.To4`).
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

    fn addresses(table: &Table, name: &str, rtype: Type) -> Vec<String> {
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
        assert_eq!(addresses(&table, "a.x", Type::A), ["10.0.0.1"]);
        assert_eq!(addresses(&table, "a.x", Type::AAAA), ["fe80::1"]);
        assert_eq!(addresses(&table, "b.x", Type::A), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(addresses(&table, "d.x", Type::A), [""; 0]);
        assert_eq!(addresses(&table, "m.x", Type::A), ["10.0.0.4"]);
        assert_eq!(table.names("10.0.0.1".parse().expect("an address")), [n("a.x"), n("b.x")]);
        assert_eq!(table.entries(), 10);
    }

    #[test]
    fn a_wildcard_covers_one_label_of_a_family_that_the_name_lacks() {
        let table = table("10.0.0.5 *.w.x *.\nfd00::5 *.w.x\n10.0.0.6 a.w.x\n");
        assert_eq!(addresses(&table, "b.w.x", Type::A), ["10.0.0.5"]);
        assert_eq!(addresses(&table, "*.w.x", Type::A), ["10.0.0.5"]);
        assert_eq!(addresses(&table, "a.w.x", Type::A), ["10.0.0.6"]);
        assert_eq!(addresses(&table, "a.w.x", Type::AAAA), ["fd00::5"]);
        assert_eq!(addresses(&table, "w.x", Type::A), [""; 0]);
        assert_eq!(addresses(&table, "c.b.w.x", Type::A), [""; 0]);
        assert_eq!(addresses(&table, "b", Type::A), [""; 0]);
        assert_eq!(table.names("10.0.0.5".parse().expect("an address")), []);
    }

    #[test]
    fn names_outside_the_zones_are_ignored() {
        let text = "10.0.0.1 a.x b.y\n";
        let (table, _) = Table::read(text.as_bytes(), &[n("Y.")], false).expect("a table");
        assert_eq!(addresses(&table, "a.x", Type::A), [""; 0]);
        assert_eq!(addresses(&table, "b.y", Type::A), ["10.0.0.1"]);
        assert_eq!(table.entries(), 1);
    }

    #[test]
    fn fields_that_are_too_long_are_ignored_and_counted() {
        let long = "a".repeat(MAX_FIELD + 1);
        let text = format!("10.0.0.1 {long} a..b \u{7f} {} ok.x\n{long} b.x\n10.0.0.2 \u{fffd} c.x", "y".repeat(64));
        let source = io::BufReader::with_capacity(7, text.as_bytes());
        let (table, skipped) = Table::read(source, &[n(".")], true).expect("a table");
        assert_eq!(skipped, Skipped { names: 3, rest: false });
        assert_eq!(addresses(&table, "ok.x", Type::A), ["10.0.0.1"]);
        assert_eq!(addresses(&table, "b.x", Type::A), [""; 0]);
        assert_eq!(addresses(&table, "c.x", Type::A), ["10.0.0.2"]);
        let (_, skipped) = Table::read(&b"10.0.0.1 \xff a.x"[..], &[n(".")], true).expect("a table");
        assert_eq!(skipped.names, 1);
    }

    proptest::proptest! {
        #[test]
        fn the_table_does_not_depend_on_the_size_of_reads(
            text in r"([ \t\n#*.a-c%:\x00é]|10\.0\.0\.1 |fd00::1 |\*\.b){0,60}", capacity in 1usize..9,
        ) {
            let (whole, skipped) = Table::read(text.as_bytes(), &[n(".")], true).expect("a table");
            let source = io::BufReader::with_capacity(capacity, text.as_bytes());
            let (parts, skipped_in_parts) = Table::read(source, &[n(".")], true).expect("a table");
            assert_eq!(skipped, skipped_in_parts);
            assert_eq!(sorted(&whole.names), sorted(&parts.names));
            assert_eq!(whole.entries, parts.entries);
        }
    }

    fn sorted(names: &Names) -> std::collections::BTreeMap<&[u8], &Addresses> {
        names.iter().map(|(name, addresses)| (&**name, addresses)).collect()
    }
}
