//! The records of etcd in SkyDNS's form: a JSON object for each, and keys for names (CoreDNS `plugin/etcd/msg`).

use std::net::IpAddr;

use serde_json::Value;

use crate::wire::{Name, NameBuf};

/// The TTL of a record without one, in seconds.
const DEFAULT_TTL: u32 = 300;
/// The priority of a record without one.
const DEFAULT_PRIORITY: i64 = 10;

/// A record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SkyService {
    /// An address, or a name.
    pub(super) host: String,
    pub(super) port: i64,
    pub(super) priority: i64,
    pub(super) weight: i64,
    pub(super) text: String,
    /// The record is an MX record, too.
    pub(super) mail: bool,
    /// In seconds.
    pub(super) ttl: u32,
    /// The number of labels that are removed from the left of a target.
    pub(super) target_strip: i64,
    pub(super) group: String,
    /// The key in etcd.
    pub(super) key: String,
}

/// What the host of a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostKind {
    Address(IpAddr),
    /// A name.
    Name,
    /// The record has a text, and no address.
    Text,
}

impl SkyService {
    /// Parses the value of a key. As in Go, the letter case of names of fields is ignored, and so are other fields.
    pub(super) fn parse(key: &str, value: &[u8]) -> Result<SkyService, String> {
        let mut service = SkyService { key: key.to_owned(), ..SkyService::default() };
        // As in Go, bytes that are not UTF-8 are replaced.
        let parsed =
            serde_json::from_str(&String::from_utf8_lossy(value)).map_err(|error| format!("{key}: {error}"))?;
        let fields = match parsed {
            Value::Object(fields) => fields,
            Value::Null => return Ok(service),
            _ => return Err(format!("{key}: the value is not a JSON object")),
        };
        for (name, value) in fields {
            let is_valid = match name.to_ascii_lowercase().as_str() {
                _ if value.is_null() => true,
                "host" => set(&mut service.host, text(value)),
                "port" => set(&mut service.port, value.as_i64()),
                "priority" => set(&mut service.priority, value.as_i64()),
                "weight" => set(&mut service.weight, value.as_i64()),
                "text" => set(&mut service.text, text(value)),
                "mail" => set(&mut service.mail, value.as_bool()),
                "ttl" => set(&mut service.ttl, value.as_u64().and_then(|ttl| u32::try_from(ttl).ok())),
                "targetstrip" => set(&mut service.target_strip, value.as_i64()),
                "group" => set(&mut service.group, text(value)),
                _ => true,
            };
            if !is_valid {
                return Err(format!("{key}: the field '{name}' has another type"));
            }
        }
        if service.priority == 0 {
            service.priority = DEFAULT_PRIORITY;
        }
        Ok(service)
    }

    /// Returns the kind of the host.
    pub(super) fn kind(&self) -> HostKind {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => HostKind::Address(ip.to_canonical()),
            Err(_) if self.text.is_empty() => HostKind::Name,
            Err(_) => HostKind::Text,
        }
    }

    /// Returns whether the host is an address.
    pub(super) fn is_address(&self) -> bool {
        matches!(self.kind(), HostKind::Address(_))
    }

    /// Sets the TTL to the smaller one of its own and that of its lease, where it has them.
    pub(super) fn limit_ttl(&mut self, lease: Option<u32>) {
        self.ttl = match (lease.filter(|&ttl| ttl > 0), self.ttl) {
            (None, 0) => DEFAULT_TTL,
            (None, own) => own,
            (Some(lease), 0) => lease,
            (Some(lease), own) => lease.min(own),
        };
    }

    /// Returns the host as a name.
    pub(super) fn name(&self) -> Result<NameBuf, String> {
        name(&self.host, &self.key)
    }

    /// Returns the host without the labels that are to be removed; all of it, if nothing else would be left.
    pub(super) fn target(&self) -> Result<NameBuf, String> {
        Ok(strip(self.name()?, self.target_strip))
    }

    /// Returns the target of a record whose host is an address: the name of its key, complete and stripped.
    pub(super) fn key_target(&self) -> Result<(NameBuf, NameBuf), String> {
        let full = key_name(&self.key)?;
        Ok((full.clone(), strip(full, self.target_strip)))
    }

    /// Returns the data of its TXT record: strings of at most 255 bytes. As in miekg/dns, a backslash escapes a byte.
    pub(super) fn txt(&self) -> Vec<u8> {
        let text = self.text.as_bytes();
        let mut strings: Vec<&[u8]> = text.chunks(255).collect();
        if text.len().is_multiple_of(255) {
            strings.push(&[]);
        }
        let mut data = Vec::with_capacity(text.len() + strings.len());
        for string in strings {
            let at = data.len();
            data.push(0);
            unescape(string, &mut data);
            data[at] = (data.len() - at - 1) as u8;
        }
        data
    }
}

/// Sets a field, and returns whether there is a value.
fn set<T>(field: &mut T, value: Option<T>) -> bool {
    match value {
        Some(value) => {
            *field = value;
            true
        }
        None => false,
    }
}

fn text(value: Value) -> Option<String> {
    if let Value::String(text) = value { Some(text) } else { None }
}

/// Adds a text whose backslashes escape a byte, or three decimal digits of one.
fn unescape(mut text: &[u8], data: &mut Vec<u8>) {
    while let [first, rest @ ..] = text {
        text = rest;
        if *first != b'\\' {
            data.push(*first);
            continue;
        }
        let digits = rest.first_chunk::<3>().filter(|digits| digits.iter().all(u8::is_ascii_digit));
        if let Some(digits) = digits {
            let number = digits.iter().fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0'));
            data.push(number as u8);
            text = &rest[3..];
        } else if let [next, after @ ..] = rest {
            data.push(*next);
            text = after;
        }
    }
}

/// Parses a name.
fn name(text: &str, key: &str) -> Result<NameBuf, String> {
    NameBuf::from_text(text).map_err(|error| format!("{key}: \"{}\" is not a name: {error}", text.escape_default()))
}

/// Removes labels from the left of a name, unless nothing would be left.
fn strip(name: NameBuf, labels: i64) -> NameBuf {
    let Some(count) = usize::try_from(labels).ok().filter(|&count| count > 0) else { return name };
    if count >= name.as_name().labels().count() {
        return name;
    }
    let mut stripped = name.as_name();
    for _ in 0..count {
        match stripped.parent() {
            Some(parent) => stripped = parent,
            None => return name,
        }
    }
    stripped.to_owned()
}

/// Returns the name of a key. As in CoreDNS, the first part of the key is not of the name.
fn key_name(key: &str) -> Result<NameBuf, String> {
    let trimmed = key.strip_suffix('/').unwrap_or(key);
    let mut labels: Vec<&str> = trimmed.split('/').skip(2).collect();
    labels.reverse();
    if labels.is_empty() {
        return Err(format!("{key}: the key has no name"));
    }
    name(&labels.join("."), key)
}

/// The place of a name in etcd.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KeyPath {
    /// The key; with a wildcard, up to the part before the first one.
    pub(super) key: String,
    /// The parts of the key that records have to have, if there is a wildcard.
    pattern: Option<Vec<String>>,
}

impl KeyPath {
    /// Returns the place of a name below the prefix. `*` and `any` are wildcards.
    pub(super) fn new(prefix: &[String], name: Name<'_>) -> KeyPath {
        let mut labels = labels(name);
        labels.reverse();
        let parts: Vec<String> = prefix.iter().cloned().chain(labels).collect();
        let wildcard = parts[prefix.len()..].iter().position(|part| is_wildcard(part));
        let end = wildcard.map_or(parts.len(), |at| prefix.len() + at);
        let key = parts[..end].iter().fold(String::new(), |key, part| key + "/" + part);
        let pattern = wildcard.map(|_| std::iter::once(String::new()).chain(parts).collect());
        KeyPath { key, pattern }
    }

    /// Returns whether a key has the parts that the name requires, or more. A server may send other keys than those
    /// that were requested.
    pub(super) fn covers(&self, key: &str) -> bool {
        let Some(pattern) = &self.pattern else {
            return key.strip_prefix(&self.key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        };
        let mut parts = key.split('/');
        pattern.iter().all(|wanted| parts.next().is_some_and(|part| is_wildcard(wanted) || part == wanted))
    }
}

fn is_wildcard(part: &str) -> bool {
    matches!(part, "*" | "any")
}

/// Returns the labels of a name in presentation form. A slash separates parts of a key, of which none is empty.
fn labels(name: Name<'_>) -> Vec<String> {
    let mut labels = Vec::new();
    let mut rest = Some(name);
    while let Some(name) = rest.filter(|name| !name.is_root()) {
        let text = name.to_string();
        rest = name.parent();
        let tail = rest.filter(|parent| !parent.is_root()).map_or(0, |parent| parent.to_string().len());
        let label = &text[..text.len() - tail - 1];
        labels.extend(label.split('/').rev().filter(|part| !part.is_empty()).map(str::to_owned));
    }
    labels
}

/// Returns the records of the group of the shortest key that has one, and those without a group. If records with the
/// shortest key disagree, all are returned (CoreDNS `msg.Group`).
pub(super) fn of_one_group(services: Vec<SkyService>) -> Vec<SkyService> {
    let slashes = |service: &SkyService| service.key.matches('/').count();
    let Some(first) = services.first() else { return services };
    let (mut group, mut shortest) = (first.group.clone(), slashes(first));
    // The numbers of slashes, as far as CoreDNS counts them.
    let mut lengths = vec![0; services.len()];
    for (length, service) in lengths.iter_mut().zip(&services) {
        *length = slashes(service);
        if *length < shortest {
            if service.group.is_empty() {
                break;
            }
            shortest = *length;
            group.clone_from(&service.group);
        }
    }
    let disagrees = |(service, &length): (&SkyService, &usize)| {
        !service.group.is_empty() && length == shortest && service.group != group
    };
    if group.is_empty() || services.iter().zip(&lengths).any(disagrees) {
        return services;
    }
    services.into_iter().filter(|service| service.group.is_empty() || service.group == group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(text: &str) -> NameBuf {
        NameBuf::from_text(text).expect("a name")
    }

    fn service(key: &str, value: &str) -> SkyService {
        SkyService::parse(key, value.as_bytes()).expect("a record")
    }

    #[test]
    fn values_are_parsed_as_by_go() {
        let full = service(
            "/k",
            r#"{"Host":"a","PORT":1,"priority":2,"weight":3,"text":"t","mail":true,"ttl":4,"targetstrip":5,"group":"g","x":[]}"#,
        );
        let expected = SkyService {
            host: "a".into(),
            port: 1,
            priority: 2,
            weight: 3,
            text: "t".into(),
            mail: true,
            ttl: 4,
            target_strip: 5,
            group: "g".into(),
            key: "/k".into(),
        };
        assert_eq!(full, expected);
        assert_eq!(service("/k", r#"{"host":null}"#).priority, DEFAULT_PRIORITY);
        assert_eq!(service("/k", "null").host, "");
        for value in [
            "",
            "{",
            "1",
            "[]",
            "\"a\"",
            r#"{"host":1}"#,
            r#"{"port":1.5}"#,
            r#"{"ttl":-1}"#,
            r#"{"ttl":4294967296}"#,
            r#"{"mail":1}"#,
            "{} {}",
        ] {
            assert!(SkyService::parse("/k", value.as_bytes()).expect_err(value).starts_with("/k: "));
        }
        let deep = "[".repeat(100_000);
        assert!(SkyService::parse("/k", deep.as_bytes()).is_err());
        assert_eq!(SkyService::parse("/k", b"{\"text\":\"\xff\"}").expect("a record").text, "\u{fffd}");
    }

    #[test]
    fn names_have_keys_and_keys_have_names() {
        let prefix = ["skydns".to_owned()];
        let path = |name: &str| KeyPath::new(&prefix, n(name).as_name());
        for (name, key, covered, others) in [
            ("a.skydns.local.", "/skydns/local/skydns/a", "/skydns/local/skydns/a/x", "/skydns/local/skydns/ab"),
            (".", "/skydns", "/skydns/x", ""),
            ("*.a.local.", "/skydns/local/a", "/skydns/local/a/x/y", "/skydns/local/a"),
            ("x.any.local.", "/skydns/local", "/skydns/local/y/x/1", "/skydns/local/y/z"),
            ("a\\/b.local.", "/skydns/local/a/b", "/skydns/local/a/b", "/other/local/a/b"),
            ("a\\.b.local.", "/skydns/local/a\\.b", "/skydns/local/a\\.b", ""),
        ] {
            let path = path(name);
            assert_eq!(path.key, key, "{name}");
            assert!(path.covers(covered) && (others.is_empty() || !path.covers(others)), "{name}");
        }
        assert_eq!(key_name("/skydns/local/test/a").expect("a name"), n("a.test.local."));
        assert_eq!(key_name("/skydns/local/test/a/").expect("a name"), n("a.test.local."));
        assert_eq!(key_name("/a/b/local").expect("a name"), n("local.b."));
        for key in ["", "/", "/skydns", "/skydns/a//b", &format!("/skydns/{}", "a".repeat(64))] {
            assert!(key_name(key).is_err(), "{key}");
        }
        for (strip, target) in
            [(0, "a.b.c."), (1, "b.c."), (2, "c."), (3, "a.b.c."), (-1, "a.b.c."), (i64::MAX, "a.b.c.")]
        {
            assert_eq!(super::strip(n("a.b.c."), strip), n(target), "{strip}");
        }
    }

    #[test]
    fn texts_are_split_and_unescaped() {
        let data = |text: &str| SkyService { text: text.to_owned(), ..SkyService::default() }.txt();
        assert_eq!(data("ab"), [2, b'a', b'b']);
        assert_eq!(data(r#"\"\065\\"#), [3, b'"', b'A', b'\\']);
        assert_eq!(data(r"a\"), [1, b'a']);
        let long = data(&"x".repeat(300));
        assert_eq!((long.len(), long[0], long[256]), (302, 255, 45));
        assert_eq!(data(&"x".repeat(255))[255..], [b'x', 0]);
    }

    #[test]
    fn groups_are_those_of_coredns() {
        let groups = |records: &[(&str, &str)]| -> Vec<String> {
            let services = records.iter().map(|(key, group)| SkyService {
                key: (*key).to_owned(),
                group: (*group).to_owned(),
                ..SkyService::default()
            });
            of_one_group(services.collect()).into_iter().map(|service| service.key).collect()
        };
        let two = [("/a/1", "g1"), ("/a/2", "g2")];
        assert_eq!(groups(&two), ["/a/1", "/a/2"], "they disagree");
        assert_eq!(
            groups(&[("/a/1", "g1"), ("/a/2", "g1"), ("/a/b/3", "g2"), ("/a/b/4", "")]),
            ["/a/1", "/a/2", "/a/b/4"]
        );
        assert_eq!(groups(&[("/a/b/1", "g2"), ("/a/2", "g1")]), ["/a/2"]);
        assert_eq!(groups(&[("/a/1", ""), ("/a/2", "g1")]), ["/a/1", "/a/2"], "the first has none");
        assert_eq!(groups(&[]), [""; 0]);
    }

    #[test]
    fn the_smaller_ttl_counts() {
        for (lease, own, expected) in
            [(None, 0, 300), (None, 5, 5), (Some(40), 0, 40), (Some(40), 5, 5), (Some(3), 5, 3)]
        {
            let mut service = SkyService { ttl: own, ..SkyService::default() };
            service.limit_ttl(lease);
            assert_eq!(service.ttl, expected);
        }
    }
}
