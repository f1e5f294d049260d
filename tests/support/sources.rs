//! What holds for everything in responses of an API server and in manifests: parsing is deterministic, and an index is
//! empty after an empty list.

use std::collections::BTreeMap;
use std::path::Path;

use clusterdns::cluster::entry::EndpointFields;
use clusterdns::cluster::model::Kind;
use clusterdns::cluster::{Event, Index, IndexWriter, Options};
use clusterdns::source::Selection;
use clusterdns::source::manifests::Snapshot;
use clusterdns::source::watch::Refusal;
use clusterdns::source::watch::decode::{ObjectChange, WatchEvent, decode_event, decode_page};
use clusterdns::source::watch::lines::{BufferFull, LineBuffer};
use serde_json::value::RawValue;

use super::Choices;
use super::cluster::NOW;

const FIELDS: EndpointFields = EndpointFields { pods: true, zones: true };
/// The maximum length of an API server's message in bytes, including the sign of truncation.
const MAX_WORDS: usize = 600 + 3;

//--- The API server

/// Checks the body of a watch. The first four bytes choose the kind, the sizes of the buffer and of the pieces, and
/// whether the rest is the object of one event.
pub fn check_watch(data: &[u8]) {
    let Some((settings, bytes)) = data.split_at_checked(4) else { return };
    let mut choices = Choices::new(settings);
    let kind = choices.pick(&Kind::ALL);
    let most = choices.below(256) * 32 + 1;
    let piece = choices.below(256) + 1;
    let body = match choices.below(4) {
        0 => bytes.to_vec(),
        what => {
            let what = ["ADDED", "MODIFIED", "DELETED"][what - 1];
            let line = bytes.iter().map(|&byte| if byte == b'\n' { b' ' } else { byte });
            let head = format!(r#"{{"type":"{what}","object":"#).into_bytes();
            head.into_iter().chain(line).chain(*b"}\n").collect()
        }
    };
    check_lines(&body, most, piece);
    let (_, mut writer) = Index::new(&Options { kinds: vec![kind], endpoint_fields: FIELDS });
    for line in body.split_inclusive(|&byte| byte == b'\n') {
        let refusal = Refusal::parse(line, (500, "words"));
        assert!(!refusal.message.is_empty() && refusal.message.len() <= MAX_WORDS);
        let decoded = decode_event(kind, FIELDS, line);
        let whole = check_page(kind, line);
        match decoded {
            Ok(WatchEvent::Change { change, .. }) => {
                let (what, object) = parts(line).expect("an event has a type and an object");
                if what != "DELETED" {
                    check_listed(kind, object, &change);
                }
                apply(&mut writer, kind, change);
            }
            Ok(WatchEvent::Refused(refusal)) => assert!(refusal.message.len() <= MAX_WORDS),
            Ok(WatchEvent::Bookmark { .. }) => {}
            Err(not_json) => assert!(not_json.0.len() <= MAX_WORDS),
        }
        whole.into_iter().for_each(|change| apply(&mut writer, kind, change));
    }
    writer.apply(Event::Begin(kind), NOW);
    writer.apply(Event::End(kind), NOW);
    assert!(writer.index().is_empty(), "left after an empty list: {:?}", writer.index());
}

/// Checks that lines do not depend on the pieces in which they arrive, and that the buffer has its limit.
fn check_lines(body: &[u8], most: usize, piece: usize) {
    let mut expected = body.split_inclusive(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    let mut buffer = LineBuffer::new(most);
    let mut held = 0;
    for piece in body.chunks(piece) {
        let pushed = buffer.push(piece);
        assert_eq!(pushed, if held + piece.len() > most { Err(BufferFull) } else { Ok(()) });
        if pushed.is_err() {
            return;
        }
        held += piece.len();
        while let Some(line) = buffer.next_line() {
            assert_eq!(Some(line), expected.next());
            held -= line.len() + 1;
        }
    }
    assert_eq!(expected.next(), None);
}

/// The type and the object of an event.
fn parts(line: &[u8]) -> Option<(String, &RawValue)> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(line).ok()?;
    let what = serde_json::from_str(fields.get("type")?.get()).ok()?;
    Some((what, fields.get("object")?))
}

/// Reads a body as a page of a list, whose objects are those that the JSON has.
fn check_page(kind: Kind, body: &[u8]) -> Vec<ObjectChange> {
    let mut changes = Vec::new();
    if decode_page(kind, FIELDS, body, |change| changes.push(change)).is_ok() {
        let value: serde_json::Value = serde_json::from_slice(body).expect("a page is JSON");
        assert_eq!(changes.len(), value["items"].as_array().map_or(0, Vec::len));
    }
    changes
}

/// Checks that an object is decoded in a list as in a watch, alone and beside an invalid one.
fn check_listed(kind: Kind, object: &RawValue, watched: &ObjectChange) {
    for beside in ["", ",7"] {
        let body = format!(r#"{{"metadata":{{"resourceVersion":"1"}},"items":[{object}{beside}]}}"#);
        let mut listed = Vec::new();
        let read = decode_page(kind, FIELDS, body.as_bytes(), |change| listed.push(change));
        let read = read.unwrap_or_else(|error| panic!("{}: {body}", error.0));
        assert_eq!(read.version, "1");
        assert_eq!(format!("{:?}", listed.first()), format!("{:?}", Some(watched)), "in {body}");
        assert_eq!(listed.len(), 1 + usize::from(!beside.is_empty()));
    }
}

/// Applies a change to an index, as a watch does.
fn apply(writer: &mut IndexWriter, kind: Kind, change: ObjectChange) {
    let event = match change {
        ObjectChange::Upsert { object, .. } => {
            assert_eq!(object.kind(), kind);
            Event::Upsert(object)
        }
        ObjectChange::Terminate(key, ..) => Event::Terminate(key),
        ObjectChange::Remove(key, ..) => Event::Remove(kind, key),
        ObjectChange::Bad { key: Some(key), .. } => Event::Retain(kind, key),
        ObjectChange::Bad { key: None, .. } => return,
    };
    writer.apply(event, NOW);
}

//--- Manifests

/// Checks a manifest in both forms. The first byte chooses the kinds of an index.
pub fn check_manifest(data: &[u8]) {
    let Some((&first, bytes)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let selection = Selection { pods: first & 1 == 0, endpoints: first & 2 == 0, ..Selection::default() };
    let read = |name: &str| Snapshot::of_text(Path::new(name), text);
    let [yaml, json] = ["m.yaml", "m.json"].map(read);
    for snapshot in [&yaml, &json] {
        check_snapshot(snapshot, &selection);
        snapshot.warnings().iter().for_each(|warning| assert!(!warning.to_string().is_empty()));
    }
    assert!(read("m.yaml").changes(&yaml, &selection).next().is_none(), "parsing is deterministic");
    // JSON is YAML: if both parsers accept a text, it has the same meaning.
    let is_read = |snapshot: &Snapshot| snapshot.warnings().iter().all(|warning| warning.object.is_some());
    if is_read(&yaml) && is_read(&json) {
        let events = |snapshot: &Snapshot| snapshot.events(&selection).collect::<Vec<_>>();
        assert_eq!(format!("{:?}", events(&yaml)), format!("{:?}", events(&json)));
    }
}

/// Checks that an index applies a snapshot, and its removal.
fn check_snapshot(snapshot: &Snapshot, selection: &Selection) {
    let kinds: Vec<Kind> = selection.kinds().collect();
    let (index, mut writer) = Index::new(&Options { kinds, endpoint_fields: FIELDS });
    let mut upserts = 0;
    for event in snapshot.events(selection) {
        upserts += usize::from(matches!(event, Event::Upsert(_)));
        writer.apply(event, NOW);
    }
    assert!(index.is_synced());
    assert_eq!(Kind::ALL.into_iter().map(|kind| writer.count(kind)).sum::<usize>(), upserts);
    let nothing = Snapshot::default();
    nothing.changes(snapshot, selection).for_each(|event| drop(writer.apply(event, NOW)));
    assert!(index.is_empty(), "left after an empty snapshot: {index:?}");
}
