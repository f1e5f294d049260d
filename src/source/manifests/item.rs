//! One object of a manifest: what DNS and the derivation of endpoints want of it, checked, and what is wrong with it.

use serde::Deserialize;
use serde_json::Value;

use super::document::Raw;
use super::warning::Problem;
use crate::cluster::entry::EndpointFields;
use crate::cluster::model::{Key, Kind, Object, ServiceKind};
use crate::source::convert::{self, Ignored, Invalid, Labels};
use crate::source::derive;

/// An object, converted.
#[derive(Debug)]
pub struct Item {
    /// Its kind.
    pub kind: Kind,
    /// Its key; unique within the kind, once files are merged.
    pub key: Key,
    /// Its labels, for selections.
    pub labels: Labels,
    /// What DNS sees of it, if anything: a Pod that is being deleted is an object still.
    pub object: Option<Object>,
    /// What deriving endpoints wants of it.
    pub role: Role,
}

/// What an object is to the derivation of endpoints.
#[derive(Debug)]
pub enum Role {
    /// Nothing.
    None,
    /// A Service that selects Pods.
    Selecting(Box<derive::Selecting>),
    /// A Pod that may be selected.
    Selectable(Box<derive::Selectable>),
    /// A slice of this Service, for which none is derived then.
    SliceOf(Box<str>),
}

/// A problem, and the object that it is about.
pub type Trouble = (Option<(Kind, Key)>, Problem);

impl Item {
    /// Converts an object; `None` if it is of no use, and the reason is among the troubles.
    pub fn new(raw: &Raw, troubles: &mut Vec<Trouble>) -> Option<Item> {
        let (mut ignored, mut no_address) = (Ignored::default(), false);
        let item = Item::convert(raw.kind, &raw.value, &mut ignored, &mut no_address);
        let (item, invalid) = match item {
            Ok(item) => (Some(item), None),
            Err(invalid) => (None, Some(Problem::Invalid(invalid))),
        };
        let more = ignored.count() - ignored.first().len();
        let ignored = ignored.first().iter().cloned().map(Problem::Ignored);
        let problems = ignored
            .chain((more > 0).then_some(Problem::MoreIgnored(more)))
            .chain(no_address.then_some(Problem::NoClusterIp))
            .chain(invalid);
        let mut object = None;
        for problem in problems {
            let object = object.get_or_insert_with(|| (raw.kind, display_key(raw)));
            troubles.push((Some(object.clone()), problem));
        }
        item
    }

    /// Converts an object, with what the API server would have filled in. `no_address`: it is a Service without any.
    fn convert(kind: Kind, value: &Value, ignored: &mut Ignored, no_address: &mut bool) -> Result<Item, Invalid> {
        match kind {
            Kind::Namespace => {
                let namespace: convert::Namespace = read(value)?;
                let key = namespace.convert(ignored)?;
                let mut labels = namespace.metadata.labels();
                labels.set(NAMESPACE_NAME, &key.name);
                Ok(Item { kind, object: Some(Object::Namespace(key.clone())), key, labels, role: Role::None })
            }
            Kind::Service => {
                let mut service: convert::Service = read(value)?;
                service.metadata.fill_namespace(DEFAULT_NAMESPACE);
                let model = service.convert(ignored)?;
                *no_address = model.kind == ServiceKind::ClusterIp(Vec::new());
                let selecting = derive::Selecting::new(&service, &model, read(value)?, ignored);
                let role = selecting.map_or(Role::None, |selecting| Role::Selecting(Box::new(selecting)));
                let (key, labels) = (model.key.clone(), service.metadata.labels());
                Ok(Item { kind, key, labels, object: Some(Object::Service(model)), role })
            }
            Kind::EndpointSlice => {
                let mut slice: convert::EndpointSlice<'_> = read(value)?;
                slice.metadata.fill_namespace(DEFAULT_NAMESPACE);
                let key = slice.key()?;
                let model = slice.convert(ALL, ignored)?;
                let role = slice.service().map_or(Role::None, |service| Role::SliceOf(service.into()));
                let object = model.map(Object::EndpointSlice);
                Ok(Item { kind, key, labels: slice.metadata.labels(), object, role })
            }
            Kind::Pod => {
                let mut pod: convert::Pod = read(value)?;
                pod.metadata.fill_namespace(DEFAULT_NAMESPACE);
                pod.fill_addresses();
                let key = pod.key()?;
                let object = pod.convert(ignored)?.map(Object::Pod);
                let selectable = derive::Selectable::new(&pod, read(value)?, ignored)?;
                let role = selectable.map_or(Role::None, |pod| Role::Selectable(Box::new(pod)));
                Ok(Item { kind, key, labels: pod.metadata.labels(), object, role })
            }
        }
    }

    /// A Namespace that exists because objects are in it.
    pub fn namespace(name: &str) -> Item {
        let key = Key::new("", name);
        let labels = [(NAMESPACE_NAME, name)].into_iter().collect();
        Item { kind: Kind::Namespace, object: Some(Object::Namespace(key.clone())), key, labels, role: Role::None }
    }
}

/// One reading serves every selection.
const ALL: EndpointFields = EndpointFields { pods: true, zones: true };
/// The label that the API server gives every Namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// `kubectl apply` puts into it what has no namespace.
const DEFAULT_NAMESPACE: &str = "default";

/// Reads an object. Its values may be anything, so that only what is no object at all is an error.
fn read<'a, T: Deserialize<'a>>(value: &'a Value) -> Result<T, Invalid> {
    T::deserialize(value).map_err(|error| Invalid::Unreadable(error.to_string()))
}

/// Namespace and name of an object that may be anything.
fn display_key(raw: &Raw) -> Key {
    let text = |field: &str| raw.value.pointer(field).and_then(Value::as_str).unwrap_or_default();
    let ns = match text("/metadata/namespace") {
        _ if raw.kind == Kind::Namespace => "",
        "" => DEFAULT_NAMESPACE,
        ns => ns,
    };
    Key::new(ns, text("/metadata/name"))
}
