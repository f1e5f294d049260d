//! The indexes of a configuration. Plugins that request the same objects share one, and a reload keeps those that are
//! still requested.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::configuration::Configuration;
use crate::cluster::entry::EndpointFields;
use crate::cluster::{CurrentIndex, Index, IndexWriter, Options};
use crate::corefile::Span;
use crate::plugins::build::{ApiConfig, IndexRequest};
use crate::source::Selection;

/// The indexes of all configurations that are still in use.
#[derive(Default)]
pub struct KnownIndexes(Mutex<Vec<KnownIndex>>);

/// An index with its contents.
struct KnownIndex {
    contents: IndexContents,
    index: Weak<Index>,
}

/// The contents of an index.
#[derive(Clone, PartialEq)]
struct IndexContents {
    api: ApiConfig,
    selection: Selection,
    fields: EndpointFields,
}

/// An index that has to be filled.
pub struct Followed {
    /// The API server of its objects.
    pub api: ApiConfig,
    /// Its objects.
    pub selection: Selection,
    /// Takes their events.
    pub writer: IndexWriter,
    /// The first stanza that requests them, for messages.
    pub span: Option<Span>,
}

/// The indexes of a configuration.
pub struct Indexes(Vec<SharedIndex>);

/// An index that plugins share.
struct SharedIndex {
    index: CurrentIndex,
    contents: IndexContents,
    /// Set if the index is new.
    followed: Option<Followed>,
}

impl IndexContents {
    /// Creates the contents of the first request.
    fn new(request: &IndexRequest) -> IndexContents {
        let selection = Selection {
            labels: request.labels.clone(),
            namespace_labels: request.namespace_labels.clone(),
            ..Selection::default()
        };
        IndexContents { api: request.api.clone(), selection, fields: EndpointFields::default() }
    }

    /// Returns whether a request is about the same objects of the same API server.
    fn matches(&self, request: &IndexRequest) -> bool {
        self.api.server == request.api.server
            && self.selection.labels == request.labels
            && self.selection.namespace_labels == request.namespace_labels
    }

    /// Adds what a request needs.
    fn add(&mut self, request: &IndexRequest) {
        // Plugins that share an index wait together, until the longest timeout is over.
        self.api.startup_timeout = self.api.startup_timeout.max(request.api.startup_timeout);
        self.selection.pods |= request.pods;
        self.selection.endpoints |= request.endpoints;
        self.fields.pods |= request.endpoint_pod_names;
        self.fields.zones |= request.endpoint_zones;
    }
}

impl KnownIndexes {
    /// Returns the index with these contents.
    fn get(&self, contents: &IndexContents) -> Option<Arc<Index>> {
        let mut indexes = self.0.lock();
        indexes.retain(|known| known.index.strong_count() > 0);
        indexes.iter().find(|known| known.contents == *contents).and_then(|known| known.index.upgrade())
    }

    /// Returns the index that answers until the first lists of a new one are complete. It is of the same API server,
    /// and preferably of the same objects; otherwise one that `all` of the new configuration do not use.
    fn previous(&self, contents: &IndexContents, all: &[IndexContents]) -> Option<Arc<Index>> {
        let indexes = self.0.lock();
        let objects = |selection: &Selection| (selection.labels.clone(), selection.namespace_labels.clone());
        let candidates = indexes.iter().filter(|known| known.contents.api.server == contents.api.server);
        let candidates =
            candidates.filter_map(|known| Some((known, known.index.upgrade().filter(|index| index.is_synced())?)));
        let ranked = candidates.map(|(known, index)| {
            let is_same = objects(&known.contents.selection) == objects(&contents.selection);
            ((is_same, !all.contains(&known.contents)), index)
        });
        // The newest of the best.
        ranked.max_by_key(|(rank, _)| *rank).map(|(_, index)| index)
    }

    fn add(&self, contents: IndexContents, index: &Arc<Index>) {
        self.0.lock().push(KnownIndex { contents, index: Arc::downgrade(index) });
    }
}

impl Indexes {
    /// Creates the indexes that the directives of a configuration request, or finds them among the known ones.
    pub fn new(configuration: &Configuration, known: &KnownIndexes) -> Indexes {
        let (mut all, mut spans): (Vec<IndexContents>, Vec<Option<Span>>) = (Vec::new(), Vec::new());
        for (block, tree) in configuration.blocks.iter().zip(&configuration.corefile.blocks) {
            for directive in &block.directives {
                let Some(request) = directive.index_request() else { continue };
                let found = all.iter().position(|contents| contents.matches(&request));
                let at = found.unwrap_or_else(|| {
                    spans.push(tree.directives_named(directive.name).next().map(|stanza| stanza.span));
                    all.push(IndexContents::new(&request));
                    all.len() - 1
                });
                all[at].add(&request);
            }
        }
        let shared = all.iter().zip(spans).map(|(contents, span)| {
            if let Some(index) = known.get(contents) {
                let previous = known.previous(contents, &all).filter(|_| !index.is_synced());
                let index = CurrentIndex::replacing(index, previous);
                return SharedIndex { index, contents: contents.clone(), followed: None };
            }
            let previous = known.previous(contents, &all);
            let IndexContents { api, selection, fields } = contents.clone();
            let (index, writer) = Index::new(&Options { kinds: selection.kinds().collect(), endpoint_fields: fields });
            known.add(contents.clone(), &index);
            let followed = Some(Followed { api, selection, writer, span });
            SharedIndex { index: CurrentIndex::replacing(index, previous), contents: contents.clone(), followed }
        });
        Indexes(shared.collect())
    }

    /// Returns the index for a request of the configuration.
    pub fn for_request(&self, request: &IndexRequest) -> CurrentIndex {
        let found = self.0.iter().find(|shared| shared.contents.matches(request));
        found.expect("`new` made one for each request").index.clone()
    }

    /// Returns all indexes.
    pub fn used(&self) -> Vec<CurrentIndex> {
        self.0.iter().map(|shared| shared.index.clone()).collect()
    }

    /// Returns the indexes that have to be filled.
    pub fn into_followed(self) -> Vec<Followed> {
        self.0.into_iter().filter_map(|shared| shared.followed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::configuration::read_text;
    use crate::cluster::model::Kind;
    use crate::corefile::{Diagnostics, MemoryFiles};

    /// Returns the kinds that are watched for each index of these stanzas, one block each.
    fn watched(stanzas: &[&str]) -> Vec<Vec<&'static str>> {
        let block = |(n, stanza): (usize, &&str)| format!("z{n}.local {{\n kubernetes {{\n {stanza}\n }}\n}}\n");
        let text: String = stanzas.iter().enumerate().map(block).collect();
        let mut diagnostics = Diagnostics::default();
        let configuration = read_text("Corefile", &text, 53, &MemoryFiles::default(), &mut diagnostics);
        assert!(!diagnostics.has_errors(), "{diagnostics:?}");
        let kinds = |followed: &Followed| followed.selection.kinds().map(|kind| kind.name()).collect();
        Indexes::new(&configuration, &KnownIndexes::default()).into_followed().iter().map(kinds).collect()
    }

    /// B11: without endpoints no slices are watched.
    #[test]
    fn stanzas_that_request_the_same_objects_share_one_watch() {
        let basic = vec!["Namespace", "Service", "EndpointSlice"];
        let with_pods = Kind::ALL.map(Kind::name).to_vec();
        assert_eq!(watched(&["ttl 5", "ttl 30", "pods insecure"]), std::slice::from_ref(&basic));
        // One that needs more is served by a watch of more.
        assert_eq!(watched(&["noendpoints", "pods verified"]), std::slice::from_ref(&with_pods));
        assert_eq!(watched(&["noendpoints"]), [["Namespace", "Service"]]);
        // Other objects, or another API server, are another watch.
        assert_eq!(watched(&["ttl 5", "labels a=b", "namespace_labels a=b", "labels a = b"]).len(), 3);
        assert_eq!(watched(&["kubeconfig f", "kubeconfig f x", "endpoint http://h", "kubeconfig f"]).len(), 3);
        assert_eq!(watched(&["startup_timeout 1s", "apiserver_qps 9"]), [basic]);
    }
}
