//! *hosts*: answers A, AAAA and PTR from a hosts file and from entries in the Corefile.
//!
//! ```text
//! HostsFile::refresh, by a timer ─► Table ─┐
//! entries in the Corefile, once ──► Table ─┴─► A, AAAA, PTR
//! ```
//!
//! A hosts file has no SOA, so there is no NXDOMAIN: a name without an entry falls through if *fallthrough* covers it,
//! and otherwise gets SERVFAIL. A name that exists without a record of the type gets NOERROR and empty sections
//! (CoreDNS `plugin/hosts/hosts.go`).

mod config;
mod file;
mod table;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::chain::{Exchange, Fallthrough, Plugin, Step};
use crate::cluster::address::ReverseName;
use crate::plugins::build::{BlockBuilder, BuildError, Setting};
use crate::telemetry::metrics::{self, Collected, Family, Metric, MetricFamily};
use crate::wire::reply::{ErrorText, ExtendedError};
use crate::wire::{NameBuf, Question, Rcode, Rdata, Reply, Type};

pub use config::{Config, parse};
pub use file::HostsFile;
pub use table::{Addresses, Skipped, Table};

/// The extended error of a name without an entry (RFC 8914 4.1).
const NO_SUCH_HOST: ExtendedError = ExtendedError {
    code: 0,
    reason: "no-such-host",
    text: ErrorText::Fixed("the name has no entry, and there is no fallthrough for it"),
};

/// The plugin of a server block.
pub struct Hosts {
    zones: Vec<NameBuf>,
    ttl: u32,
    fallthrough: Fallthrough,
    fallthrough_unsupported: bool,
    reload: Duration,
    file: Arc<HostsFile>,
    inline: Table,
}

/// All instances of the plugin, for metrics.
#[derive(Default)]
pub struct AllHosts(Mutex<Vec<Weak<Hosts>>>);

impl AllHosts {
    /// Adds a plugin. It counts until it is dropped.
    pub fn add(&self, hosts: &Arc<Hosts>) {
        let mut all = self.0.lock();
        all.retain(|hosts| hosts.strong_count() > 0);
        all.push(Arc::downgrade(hosts));
    }
}

impl Collected for AllHosts {
    const METRICS: &'static [&'static Metric] = &[&metrics::table::HOSTS_ENTRIES, &metrics::table::HOSTS_RELOAD];

    fn families(&self) -> Vec<MetricFamily> {
        // If several blocks have the same file, the last block counts, as in CoreDNS.
        let mut files: BTreeMap<String, usize> = BTreeMap::new();
        let mut modified = None;
        for hosts in self.0.lock().iter().filter_map(Weak::upgrade) {
            // CoreDNS has no entries of a plugin whose file was never read, not even those of the Corefile.
            let Some(time) = hosts.file.modified() else { continue };
            files.insert(hosts.file.path().display().to_string(), hosts.entries());
            modified = modified.max(Some(time));
        }
        let mut entries = Family::new(&metrics::table::HOSTS_ENTRIES);
        files.iter().for_each(|(file, count)| entries.value(&[file], *count as f64));
        let mut reload = Family::new(&metrics::table::HOSTS_RELOAD);
        let since = modified.and_then(|time: SystemTime| time.duration_since(UNIX_EPOCH).ok());
        // The same rounding as in CoreDNS, to the last bit.
        reload.value(&[], since.unwrap_or_default().as_nanos() as f64 / 1e9);
        vec![entries.done(), reload.done()]
    }
}

impl Setting for Config {
    fn ended_zones(&self) -> Vec<NameBuf> {
        if self.fallthrough == Fallthrough::Never { self.zones.clone() } else { Vec::new() }
    }

    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let plugin = Arc::new(Hosts::new(self));
        let file = plugin.file().clone();
        block.follow_file(plugin.reload(), move |now| file.refresh(now));
        block.resources().metrics.get::<AllHosts>().add(&plugin);
        block.shared_plugin(plugin);
        Ok(())
    }
}

impl Hosts {
    /// Creates the plugin for a stanza, and reads the file.
    pub fn new(config: &Config) -> Hosts {
        let file = HostsFile::new(config.file.clone(), config.zones.clone(), config.reverse);
        file.refresh(SystemTime::now());
        let inline = Table::read(config.inline.as_bytes(), &config.zones, config.reverse);
        // Reading from memory cannot fail.
        let inline = inline.map(|(table, _)| table).unwrap_or_default();
        Hosts {
            zones: config.zones.clone(),
            ttl: config.ttl,
            fallthrough: config.fallthrough.clone(),
            fallthrough_unsupported: config.fallthrough_unsupported,
            reload: config.reload,
            file: Arc::new(file),
            inline,
        }
    }

    /// Returns the file, which has to be refreshed at the interval [`Hosts::reload`].
    pub fn file(&self) -> &Arc<HostsFile> {
        &self.file
    }

    /// Returns the interval between refreshes of the file; zero disables them.
    pub fn reload(&self) -> Duration {
        self.reload
    }

    /// Returns the number of entries of the file and the Corefile, as CoreDNS's `hosts_entries` counts them.
    pub fn entries(&self) -> usize {
        self.file.table().entries() + self.inline.entries()
    }

    /// Answers an address query: first with the addresses of the file, then with those of the Corefile. Returns whether
    /// there were any.
    fn answer_addresses(&self, reply: &mut Reply, file: &Table, question: &Question) -> bool {
        let rtype = question.qtype;
        let mut found = false;
        for addresses in [file, &self.inline].into_iter().filter_map(|table| table.addresses(question, rtype)) {
            found = true;
            if rtype == Type::A {
                addresses.ipv4.iter().for_each(|address| reply.answer(rtype, self.ttl, Rdata::A(*address)));
            } else {
                addresses.ipv6.iter().for_each(|address| reply.answer(rtype, self.ttl, Rdata::Aaaa(*address)));
            }
        }
        found
    }

    /// Answers a PTR query. Returns whether there was a name.
    fn answer_names(&self, reply: &mut Reply, file: &Table, question: &Question) -> bool {
        let Some(ReverseName::Address(address)) = ReverseName::parse(question) else { return false };
        let address = address.to_canonical();
        let names = file.names(address).iter().chain(self.inline.names(address));
        let mut found = false;
        for name in names {
            found = true;
            // An address may have more names than fit into a message, such as 0.0.0.0 in a block list.
            if reply.is_full() {
                break;
            }
            let target = reply.store_name(name.as_name());
            reply.answer(Type::PTR, self.ttl, Rdata::Name(target));
        }
        found
    }

    /// Returns whether the name has an address of any family.
    fn exists(&self, file: &Table, question: &Question) -> bool {
        [file, &self.inline]
            .into_iter()
            .any(|table| [Type::A, Type::AAAA].into_iter().any(|rtype| table.addresses(question, rtype).is_some()))
    }
}

impl Plugin for Hosts {
    fn name(&self) -> &'static str {
        "hosts"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let question = exchange.question();
        // PTR is answered for all names, so that reverse zones need not be configured.
        let is_in_zones = || self.zones.iter().any(|zone| question.name().is_within(zone.as_name()));
        if question.qtype != Type::PTR && !is_in_zones() {
            return Step::Next;
        }
        let file = self.file.table();
        let reply = exchange.reply();
        let found = match question.qtype {
            Type::A | Type::AAAA => self.answer_addresses(reply, &file, question),
            Type::PTR if self.answer_names(reply, &file, question) => true,
            // With and without `fallthrough`.
            Type::PTR => return Step::Next,
            _ if self.fallthrough_unsupported && self.fallthrough.covers(question) => return Step::Next,
            _ => false,
        };
        if !found && !self.exists(&file, question) {
            if self.fallthrough.covers(question) {
                return Step::Next;
            }
            let step = exchange.refuse(Rcode::SERVFAIL);
            exchange.reply().extended_error = Some(NO_SUCH_HOST);
            return step;
        }
        exchange.reply().authoritative = true;
        Step::Answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{Folder, ask, client, code, config, packet, send, until_settled};

    /// Checks the reply to a query. The next plugin answers with REFUSED.
    fn check(hosts: &Arc<Hosts>, name: &str, qtype: Type, expected: &str) {
        let got = ask(vec![hosts.clone(), code(Rcode::REFUSED, None)], name, qtype);
        assert_eq!(got, expected, "{name} {qtype}");
    }

    fn hosts(text: &str, body: &str) -> (Arc<Hosts>, Folder) {
        let folder = Folder::new("hosts");
        let path = folder.write("hosts", text);
        let lines = format!("hosts {} {{\n{body}\n}}", path.display());
        (Arc::new(Hosts::new(&config(&lines, parse))), folder)
    }

    const TEXT: &str =
        "10.0.0.9 a.example dup.example dup.example\nfd00::9 six.example *.w.example\n10.0.0.9 other.net\n";

    #[test]
    fn answers_are_those_of_coredns() {
        let (hosts, _folder) = hosts(TEXT, "10.0.0.1 a.example\n10.0.0.2 A.example\n10.0.0.9 inline.example");
        check(&hosts, "A.exAmple", Type::A, "NOERROR aa 10.0.0.9 10.0.0.1 10.0.0.2");
        check(&hosts, "dup.example", Type::A, "NOERROR aa 10.0.0.9 10.0.0.9");
        check(&hosts, "six.example", Type::AAAA, "NOERROR aa fd00::9");
        check(&hosts, "x.w.example", Type::AAAA, "NOERROR aa fd00::9");
        check(
            &hosts,
            "9.0.0.10.in-addr.arpa",
            Type::PTR,
            "NOERROR aa a.example. dup.example. dup.example. inline.example.",
        );
        check(&hosts, "2.0.0.10.in-addr.arpa", Type::PTR, "NOERROR aa a.example.");
        // The file has three IPv4, one IPv6, one wildcard and four reverse entries; the Corefile has three entries and
        // their three reverse entries.
        assert_eq!(hosts.entries(), 3 + 1 + 1 + 4 + 3 + 3);
    }

    /// F07.
    #[test]
    fn a_known_name_without_such_a_record_is_nodata_without_soa() {
        let (hosts, _folder) = hosts(TEXT, "fallthrough");
        for qtype in [Type::AAAA, Type::TXT, Type::HTTPS, Type::SOA, Type::ANY] {
            check(&hosts, "a.example", qtype, "NOERROR aa");
        }
        check(&hosts, "x.w.example", Type::A, "NOERROR aa");
    }

    /// The response says why.
    #[test]
    fn a_name_without_an_entry_has_a_reason() {
        let (hosts, _folder) = hosts(TEXT, "");
        let query = packet("no.example", Type::A, None);
        let state = send(vec![hosts], &query, client("10.0.0.1:1"), std::time::Instant::now());
        assert_eq!((state.reply.rcode, state.reason()), (Rcode::SERVFAIL, Some("no-such-host")));
    }

    /// F08.
    #[test]
    fn fallthrough_unsupported_passes_other_types_on() {
        let (hosts, _folder) = hosts(TEXT, "fallthrough_unsupported\nfallthrough example");
        check(&hosts, "a.example", Type::TXT, "REFUSED");
        check(&hosts, "a.example", Type::AAAA, "NOERROR aa");
        check(&hosts, "no.example", Type::TXT, "REFUSED");
        check(&hosts, "no.example.org", Type::TXT, "SERVFAIL");
    }

    #[test]
    fn an_unknown_name_gets_servfail_or_falls_through() {
        let (without, _folder) = hosts(TEXT, "");
        let (with, _folder) = hosts(TEXT, "fallthrough example.org");
        for qtype in [Type::A, Type::AAAA, Type::TXT] {
            check(&without, "no.example", qtype, "SERVFAIL");
            check(&with, "no.example", qtype, "SERVFAIL");
            check(&with, "no.example.org", qtype, "REFUSED");
        }
        for name in ["other.net", "8.0.0.10.in-addr.arpa", "10.in-addr.arpa", "x.9.0.0.10.in-addr.arpa"] {
            check(&without, name, Type::PTR, "REFUSED");
        }
        check(&without, "other.net", Type::A, "REFUSED");
        // PTR falls through for names in the zones too.
        check(&without, "a.example", Type::PTR, "REFUSED");
    }

    #[test]
    fn no_reverse_answers_no_ptr() {
        let (hosts, _folder) = hosts(TEXT, "no_reverse\n10.0.0.1 b.example");
        check(&hosts, "9.0.0.10.in-addr.arpa", Type::PTR, "REFUSED");
        check(&hosts, "1.0.0.10.in-addr.arpa", Type::PTR, "REFUSED");
        check(&hosts, "b.example", Type::A, "NOERROR aa 10.0.0.1");
    }

    #[test]
    fn a_changed_file_is_read_and_the_table_of_a_removed_one_stays() {
        let (hosts, folder) = hosts(TEXT, "");
        folder.write("hosts", "10.0.0.77 b.example\n");
        check(&hosts, "a.example", Type::A, "NOERROR aa 10.0.0.9");
        // It may be written again, so the next refresh should come soon.
        assert!(hosts.file().refresh(SystemTime::now()));
        check(&hosts, "a.example", Type::A, "NOERROR aa 10.0.0.9");
        let later = SystemTime::now() + Duration::from_secs(3);
        let refresh = || until_settled(|| hosts.file().refresh(later), |is_unsettled| !is_unsettled);
        refresh();
        check(&hosts, "a.example", Type::A, "SERVFAIL");
        check(&hosts, "b.example", Type::A, "NOERROR aa 10.0.0.77");
        drop(folder);
        refresh();
        check(&hosts, "b.example", Type::A, "NOERROR aa 10.0.0.77");
        assert_eq!(hosts.reload(), Duration::from_secs(5));
    }
}
