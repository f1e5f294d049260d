//! An object of a manifest: the parts that DNS and the derivation of endpoints need, checked, and its problems.

use serde::Deserialize;
use serde_json::Value;

use super::document::RawObject;
use super::warning::Problem;
use crate::cluster::entry::EndpointFields;
use crate::cluster::model::{Kind, Object, ObjectKey, ServiceKind};
use crate::source::convert::{self, Ignored, Invalid, ObjectLabels};
use crate::source::derive;

/// A converted object.
#[derive(Debug)]
pub struct ManifestObject {
    /// The kind.
    pub kind: Kind,
    /// The key; unique within the kind, once files are merged.
    pub key: ObjectKey,
    /// The labels, for selections.
    pub labels: ObjectLabels,
    /// The object in the index, if it has records: a Pod that is being deleted has none, but is an object.
    pub object: Option<Object>,
    /// Its role in the derivation of endpoints.
    pub role: DerivationRole,
}

/// The role of an object in the derivation of endpoints.
#[derive(Debug)]
pub enum DerivationRole {
    /// The object is not used.
    None,
    /// A Service that selects Pods.
    Selector(Box<derive::ServiceSelector>),
    /// A Pod that may be selected.
    Candidate(Box<derive::CandidatePod>),
    /// A slice of this Service, so that none is derived for it.
    SliceOf(Box<str>),
}

/// A problem, and its object.
pub(super) type ObjectProblem = (Option<(Kind, ObjectKey)>, Problem);

impl ManifestObject {
    /// Converts an object. Returns `None` if it is unusable, for a reason that is added to `problems`.
    pub fn new(raw: &RawObject, problems: &mut Vec<ObjectProblem>) -> Option<ManifestObject> {
        let (mut ignored, mut no_address) = (Ignored::default(), false);
        let item = ManifestObject::convert(raw.kind, &raw.value, &mut ignored, &mut no_address);
        let (item, invalid) = match item {
            Ok(item) => (Some(item), None),
            Err(invalid) => (None, Some(Problem::Invalid(invalid))),
        };
        let more = ignored.count() - ignored.first().len();
        let ignored = ignored.first().iter().cloned().map(Problem::Ignored);
        let all = ignored
            .chain((more > 0).then_some(Problem::MoreIgnored(more)))
            .chain(no_address.then_some(Problem::NoClusterIp))
            .chain(invalid);
        let mut object = None;
        for problem in all {
            let object = object.get_or_insert_with(|| (raw.kind, display_key(raw)));
            problems.push((Some(object.clone()), problem));
        }
        item
    }

    /// Converts an object, with the defaults of the API server. `no_address` is set for a Service without addresses.
    fn convert(
        kind: Kind, value: &Value, ignored: &mut Ignored, no_address: &mut bool,
    ) -> Result<ManifestObject, Invalid> {
        match kind {
            Kind::Namespace => {
                let namespace: convert::ApiNamespace = read(value)?;
                let key = namespace.convert(ignored)?;
                let mut labels = namespace.metadata.labels();
                labels.set(NAMESPACE_NAME, &key.name);
                Ok(ManifestObject {
                    kind,
                    object: Some(Object::Namespace(key.clone())),
                    key,
                    labels,
                    role: DerivationRole::None,
                })
            }
            Kind::Service => {
                let mut service: convert::ApiService = read(value)?;
                service.metadata.fill_namespace(DEFAULT_NAMESPACE);
                let model = service.convert(ignored)?;
                *no_address = model.kind == ServiceKind::ClusterIp(Vec::new());
                let selector = derive::ServiceSelector::new(&service, &model, read(value)?, ignored);
                let role =
                    selector.map_or(DerivationRole::None, |selector| DerivationRole::Selector(Box::new(selector)));
                let (key, labels) = (model.key.clone(), service.metadata.labels());
                Ok(ManifestObject { kind, key, labels, object: Some(Object::Service(model)), role })
            }
            Kind::EndpointSlice => {
                let mut slice: convert::ApiEndpointSlice<'_> = read(value)?;
                slice.metadata.fill_namespace(DEFAULT_NAMESPACE);
                let key = slice.key()?;
                let model = slice.convert(ALL, ignored)?;
                let role =
                    slice.service().map_or(DerivationRole::None, |service| DerivationRole::SliceOf(service.into()));
                let object = model.map(Object::EndpointSlice);
                Ok(ManifestObject { kind, key, labels: slice.metadata.labels(), object, role })
            }
            Kind::Pod => {
                let mut pod: convert::ApiPod = read(value)?;
                pod.metadata.fill_namespace(DEFAULT_NAMESPACE);
                pod.fill_addresses();
                let key = pod.key()?;
                let object = pod.convert(ignored)?.map(Object::Pod);
                let candidate = derive::CandidatePod::new(&pod, read(value)?, ignored)?;
                let role = candidate.map_or(DerivationRole::None, |pod| DerivationRole::Candidate(Box::new(pod)));
                Ok(ManifestObject { kind, key, labels: pod.metadata.labels(), object, role })
            }
        }
    }

    /// Returns a Namespace that exists because objects are in it.
    pub fn namespace(name: &str) -> ManifestObject {
        let key = ObjectKey::new("", name);
        let labels = [(NAMESPACE_NAME, name)].into_iter().collect();
        ManifestObject {
            kind: Kind::Namespace,
            object: Some(Object::Namespace(key.clone())),
            key,
            labels,
            role: DerivationRole::None,
        }
    }
}

/// All fields are converted, since a snapshot is used for all selections.
const ALL: EndpointFields = EndpointFields { pods: true, zones: true };
/// The label that the API server adds to every Namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// The namespace of objects without one, as in `kubectl apply`.
const DEFAULT_NAMESPACE: &str = "default";

/// Deserializes an object. Its values may have any type, so that only a value that is not an object is an error.
fn read<'a, T: Deserialize<'a>>(value: &'a Value) -> Result<T, Invalid> {
    T::deserialize(value).map_err(|error| Invalid::Unreadable(error.to_string()))
}

/// Returns namespace and name of an object whose values may have any type.
fn display_key(raw: &RawObject) -> ObjectKey {
    let text = |field: &str| raw.value.pointer(field).and_then(Value::as_str).unwrap_or_default();
    let ns = match text("/metadata/namespace") {
        _ if raw.kind == Kind::Namespace => "",
        "" => DEFAULT_NAMESPACE,
        ns => ns,
    };
    ObjectKey::new(ns, text("/metadata/name"))
}
