//! A stanza of *kubernetes* and its zones, and the result of answering a name of it.

use std::net::IpAddr;

use crate::chain::{Fallthrough, Wait};
use crate::cluster::{CurrentIndex, Reason, View};
use crate::wire::{NameBuf, Rcode};

/// The configuration of the answers of a stanza.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// The zones, in the order of the stanza; not empty.
    pub zones: Vec<NameBuf>,
    /// The exposed part of the cluster.
    pub view: View,
    /// The TTL of answers in seconds: 0–3600.
    pub ttl: u32,
    /// The names that fall through to the next plugin if they do not exist.
    pub fallthrough: Fallthrough,
}

/// The state of a stanza.
pub(super) struct Stanza {
    pub(super) answers: Answers,
    /// The zones, those with more labels first.
    pub(super) zones: Vec<Zone>,
    /// The zone of the targets of PTR records: the first one that is not a reverse zone.
    pub(super) primary: NameBuf,
    pub(super) index: CurrentIndex,
    /// The addresses of this server, which are those of the name server.
    pub(super) own: Vec<IpAddr>,
    /// The search list of this machine, which is the end of a client's.
    pub(super) search_list: Vec<NameBuf>,
}

/// A zone of the stanza.
pub(super) struct Zone {
    pub(super) name: NameBuf,
    pub(super) labels: usize,
    pub(super) is_reverse: bool,
    /// The names of the zone that fall through.
    pub(super) fallthrough: Fallthrough,
}

impl Zone {
    /// Creates a zone of a stanza.
    pub(super) fn new(name: &NameBuf, answers: &Answers) -> Zone {
        let name = name.to_lower();
        // The roots of the reverse trees are reverse zones too; CoreDNS accepts only names below them as such.
        let is_reverse = ["in-addr.arpa", "ip6.arpa"]
            .into_iter()
            .any(|tree| NameBuf::from_text(tree).is_ok_and(|tree| name.as_name().is_within(tree.as_name())));
        let fallthrough = answers.fallthrough.for_zone(&name);
        Zone { labels: name.as_name().labels().count(), name, is_reverse, fallthrough }
    }
}

/// The result of answering a name.
pub(super) enum AnswerResult {
    /// The answer section is filled.
    Records,
    /// The name exists without such a record.
    NoData,
    /// The name does not exist.
    NameError(Reason),
    /// The code of the reply, with the SOA of the zone.
    Code(Rcode),
    /// The answer depends on a pending look-up.
    Pending(Wait),
}
