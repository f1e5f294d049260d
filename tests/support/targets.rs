//! The fuzz targets by name. `fuzz/` runs them on inputs chosen by coverage, `tests/properties.rs` on the seeds, which
//! include every input that has found an error.

use std::hash::Hasher as _;
use std::net::Ipv6Addr;
use std::sync::{Arc, LazyLock};

use clusterdns::chain::Transport;
use clusterdns::cluster::Index;

use super::Choices;
use super::answers::Subject;
use super::cluster::{sample, view};
use super::history::{Depth, STEP, Step, check_history};
use super::messages::{check_answer, check_query, check_reply};
use super::names::{check_dashed, check_question};
use super::{corefiles, files, log_lines, requests, sources, template, upstream};

/// A check of the bytes that a target gets.
pub type Target = fn(&[u8]);

/// All targets; the name is that of the file in `fuzz/fuzz_targets` and of the folder in `fuzz/seeds`.
pub const TARGETS: [(&str, Target); 17] = [
    ("admin", requests::check_admin),
    ("answer", upstream::check_upstream_answer),
    ("cluster_name", cluster_name),
    ("corefile", corefile),
    ("doh", requests::check_doh),
    ("events", events),
    ("hosts", files::check_hosts),
    ("log_line", log_lines::check_log_line),
    ("manifest", sources::check_manifest),
    ("proxy_header", requests::check_proxy_header),
    ("query", query),
    ("reply", reply),
    ("resolv_conf", files::check_resolv_conf),
    ("stream", requests::check_stream),
    ("template", stanza),
    ("watch", sources::check_watch),
    ("weights", files::check_weights),
];

static SAMPLE: LazyLock<Arc<Index>> = LazyLock::new(sample);

/// Any question has a meaning in every zone and view, and an address survives its form as a label.
fn cluster_name(data: &[u8]) {
    check_question(data, &SAMPLE);
    if let Some(address) = data.first_chunk::<16>() {
        check_dashed(Ipv6Addr::from(*address).into());
    }
}

/// Any text as a Corefile, with files to import that are cut from it.
fn corefile(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        corefiles::check_corefile(text);
    }
}

/// The state after any history is that of one complete list. The first 24 bytes are settings, each 24 that follow a
/// step of the history.
fn events(data: &[u8]) {
    /// One case in this many compares every answer, too. Coverage must not choose it, or the corpus fills with slow
    /// cases.
    const ANSWERS: u64 = 128;
    let (settings, steps) = data.split_at(data.len().min(24));
    let steps: Vec<Step> = steps.chunks(STEP).map(Step::new).collect();
    // `DefaultHasher::new` has fixed keys: the same input makes the same choice.
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(data);
    let depth = if hasher.finish().is_multiple_of(ANSWERS) { Depth::Answers } else { Depth::State };
    check_history(&steps, settings, depth);
}

/// A packet through the whole chain of a small cluster. The first four bytes choose the view and the classes.
fn query(data: &[u8]) {
    let Some((settings, packet)) = data.split_at_checked(4) else { return };
    let subject = Subject::with_classes(&SAMPLE, view(&mut Choices::new(settings)), settings[3] & 1 == 1);
    for transport in [Transport::Udp, Transport::Tcp] {
        check_answer(&subject, transport, packet);
    }
    check_query(packet);
}

/// A reply, encoded within a limit, is what hickory decodes. The first 24 bytes make the query and the reply's head,
/// each 24 that follow a record.
fn reply(data: &[u8]) {
    let (settings, records) = data.split_at(data.len().min(24));
    check_reply(settings, records);
}

/// Any text as the lines of a stanza of *template*, and as a template and a record.
fn stanza(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        template::check_stanza(text);
    }
}

/// Runs the target of this name.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no target {name}"));
    target(data);
}
