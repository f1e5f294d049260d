//! Parses the text of a manifest into objects, which are reduced while they are parsed: fields that DNS does not need
//! never become values, so that a dump of a whole cluster costs little more than its relevant part.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::warning::Problem;
use crate::cluster::model::Kind;

/// The maximum nesting of collections. The schemas of custom resources, the deepest objects in practice, stay below
/// fifty; and a level costs the parser some 20 KiB of stack in a debug build, of which a thread has 2 MiB.
const MAX_DEPTH: usize = 64;

/// The format of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextFormat {
    /// YAML, one or several documents. JSON is YAML too, but its own parser is much faster.
    Yaml,
    /// JSON, one or several documents.
    Json,
}

/// An object of a relevant kind.
#[derive(Debug)]
pub struct RawObject {
    /// The kind.
    pub kind: Kind,
    /// The fields that are used.
    pub value: Value,
}

/// Parses all objects in a text, and returns them with problems of other documents. A text that does not parse is an
/// error as a whole: half of a file is worse than its last good state.
pub(super) fn parse(text: &str, format: TextFormat) -> Result<(Vec<RawObject>, Vec<Problem>), Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents: Vec<Document> = match format {
        TextFormat::Json => serde_json::Deserializer::from_str(text)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|error| Problem::Syntax { line: Some(error.line() as u64), reason: error.to_string() })?,
        TextFormat::Yaml => {
            serde_saphyr::from_multiple_with_options(text, parser_options(text.len())).map_err(|error| {
                let line = error.location().map(|location| location.line()).filter(|line| *line > 0);
                Problem::Syntax { line, reason: error.without_snippet().to_string() }
            })?
        }
    };
    let (mut objects, mut problems) = (Vec::new(), Vec::new());
    for Document(value) in documents {
        flatten(value, None, &mut objects, &mut problems);
    }
    Ok((objects, problems))
}

/// Returns the limits of the YAML parser. Limits of size grow with the text, which is limited itself: a node takes at
/// least a byte. Limits of aliases do not grow, so that a small text cannot represent a large one.
fn parser_options(len: usize) -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_events: 2_000_000 + 4 * len,
            max_nodes: 1_000_000 + 2 * len,
            max_documents: 1_024 + len,
            max_total_scalar_bytes: (64 << 20) + len,
            max_total_comment_bytes: (64 << 20) + len,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 200_000 },
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::AsString,
        emit_comments: false,
        with_snippet: false,
    }
}

/// Splits lists. `inherited` is the kind of items without a kind, as in a `ServiceList`.
fn flatten(value: Value, inherited: Option<(&str, &str)>, objects: &mut Vec<RawObject>, problems: &mut Vec<Problem>) {
    let mut map = match value {
        Value::Null => return,
        Value::Object(map) => map,
        _ => return problems.push(Problem::NotAnObject),
    };
    let text = |key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
    let (kind, version) = match (text("kind"), inherited) {
        (Some(kind), _) => (kind, text("apiVersion").unwrap_or_default()),
        (None, Some((kind, version))) => (kind.to_owned(), version.to_owned()),
        (None, None) => return problems.push(Problem::NoKind),
    };
    if let (Some(of), Some(items)) = (kind.strip_suffix("List"), map.remove("items")) {
        let inherited = (!of.is_empty()).then_some((of, version.as_str()));
        if let Value::Array(items) = items {
            items.into_iter().for_each(|item| flatten(item, inherited, objects, problems));
        }
    } else if let Some(kind) = relevant_kind(&kind, &version) {
        objects.push(RawObject { kind, value: Value::Object(map) });
    }
}

/// Returns the kind, if it is a relevant one. A `Service` of another group, such as Knative's, is not.
fn relevant_kind(kind: &str, version: &str) -> Option<Kind> {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    Kind::ALL.into_iter().find(|known| {
        let home = if *known == Kind::EndpointSlice { "discovery.k8s.io" } else { "" };
        known.name() == kind && (group == home || version.is_empty())
    })
}

/// A reduced value.
struct Document(Value);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Document, D::Error> {
        FieldScope::Object.deserialize(from).map(Document)
    }
}

/// The position of the deserializer in an object, which decides which fields are used.
#[derive(Clone, Copy, Debug)]
enum FieldScope {
    /// The root of an object.
    Object,
    /// `items` of a list.
    Items,
    /// `metadata`
    Metadata,
    /// `spec`
    Spec,
    /// `spec.containers[]`
    Container,
    /// `status`
    Status,
    /// A value that is used completely.
    Whole,
}

impl FieldScope {
    /// Returns the scope of a field, or `None` if it is not used.
    fn field(self, key: &str) -> Option<FieldScope> {
        match (self, key) {
            (FieldScope::Object | FieldScope::Items, "metadata") => Some(FieldScope::Metadata),
            (FieldScope::Object | FieldScope::Items, "spec") => Some(FieldScope::Spec),
            (FieldScope::Object | FieldScope::Items, "status") => Some(FieldScope::Status),
            (FieldScope::Object | FieldScope::Items, "items") => Some(FieldScope::Items),
            (FieldScope::Object | FieldScope::Items, "apiVersion" | "kind" | "addressType" | "endpoints" | "ports")
            | (FieldScope::Metadata, "name" | "namespace" | "labels" | "deletionTimestamp")
            | (FieldScope::Spec, "type" | "clusterIP" | "clusterIPs" | "externalName" | "ports" | "selector")
            | (
                FieldScope::Spec,
                "publishNotReadyAddresses" | "ipFamilies" | "ipFamilyPolicy" | "hostname" | "subdomain"
                // For explanations.
                | "dnsPolicy" | "dnsConfig" | "hostNetwork" | "readinessGates",
            )
            | (FieldScope::Container, "ports" | "restartPolicy")
            | (FieldScope::Status, "phase" | "podIP" | "podIPs" | "conditions")
            | (FieldScope::Whole, _) => Some(FieldScope::Whole),
            (FieldScope::Spec, "containers" | "initContainers") => Some(FieldScope::Container),
            _ => None,
        }
    }

    /// Returns whether an element of a list is used: of `items`, those that may be of a relevant kind.
    fn uses(self, element: &Value) -> bool {
        let FieldScope::Items = self else { return true };
        let kind = element.get("kind").and_then(Value::as_str);
        kind.is_none_or(|kind| kind.ends_with("List") || Kind::ALL.iter().any(|known| known.name() == kind))
    }
}

impl<'de> DeserializeSeed<'de> for FieldScope {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FieldScope {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = from.next_key::<String>()? {
            match self.field(&key) {
                Some(scope) => drop(map.insert(key, from.next_value_seed(scope)?)),
                None => drop(from.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Value::Object(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = from.next_element_seed(self)? {
            if self.uses(&element) {
                list.push(element);
            }
        }
        Ok(Value::Array(list))
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        self.deserialize(from)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        self.deserialize(from)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::String(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::String(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(Value::String(String::from_utf8_lossy(value).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns kind and name of the objects, and the problems, as one text.
    fn check(text: &str, format: TextFormat) -> String {
        match parse(text, format) {
            Err(problem) => problem.to_string(),
            Ok((objects, problems)) => {
                let name = |raw: &RawObject| {
                    format!("{} {}", raw.kind.name(), raw.value["metadata"]["name"].as_str().unwrap_or("?"))
                };
                let objects = objects.iter().map(name);
                objects.chain(problems.iter().map(Problem::to_string)).collect::<Vec<_>>().join(", ")
            }
        }
    }

    #[test]
    fn documents_and_lists_are_split() {
        for (text, want) in [
            ("", ""),
            ("# nothing\n---\n---\n", ""),
            ("kind: Service\nmetadata: {name: a}\n---\nkind: Pod\nmetadata: {name: b}\n", "Service a, Pod b"),
            ("\u{feff}kind: Service\r\nmetadata:\r\n  name: a\r\n", "Service a"),
            (
                "apiVersion: v1\nitems:\n- kind: Service\n  metadata: {name: a}\n- kind: Deployment\n  spec: {selector: []}\nkind: List\n",
                "Service a",
            ),
            ("kind: ServiceList\napiVersion: v1\nitems:\n- metadata: {name: a}\n", "Service a"),
            (
                "kind: EndpointSliceList\napiVersion: discovery.k8s.io/v1\nitems:\n- metadata: {name: a}\n",
                "EndpointSlice a",
            ),
            ("kind: PodList\nitems: null\n", ""),
            ("kind: IPAllowList\nspec: {}\n", ""),
            ("kind: List\nitems: [{kind: List, items: [{kind: Pod, metadata: {name: a}}]}]\n", "Pod a"),
            ("{\"kind\": \"Service\", \"metadata\": {\"name\": \"a\"}}", "Service a"),
            ("a: &x {name: a}\nkind: Service\nmetadata: *x\n", "Service a"),
            ("apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}\n", ""),
            ("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a}\n", "EndpointSlice a"),
            ("name: a\n", "a document without kind is not an object of the API"),
            ("- a\n", "a document that is not a map is not an object of the API"),
            ("kind: ConfigMap\ndata: {a: !Ref b, c: 340282366920938463463374607431768211456000, d: .nan}\n", ""),
        ] {
            assert_eq!(check(text, TextFormat::Yaml), want, "{text:?}");
        }
        assert_eq!(check("{\"kind\": \"Pod\"} {\"kind\": \"Namespace\"}\n", TextFormat::Json), "Pod ?, Namespace ?");
    }

    #[test]
    fn unused_fields_are_dropped() {
        let text = "kind: Pod\nmetadata: {name: a, annotations: {b: c}, labels: {d: e}}\nspec:\n  containers:\n  - {env: [{name: f}], ports: [{containerPort: 1}]}\n  volumes: []\n";
        let (objects, _) = parse(text, TextFormat::Yaml).unwrap();
        let want = serde_json::json!({
            "kind": "Pod", "metadata": {"name": "a", "labels": {"d": "e"}},
            "spec": {"containers": [{"ports": [{"containerPort": 1}]}]},
        });
        assert_eq!(objects[0].value, want);
    }

    #[test]
    fn a_syntax_error_has_a_line() {
        let line = |text: &str, format| match parse(text, format) {
            Err(Problem::Syntax { line, .. }) => line,
            other => panic!("{text:?}: {other:?}"),
        };
        assert_eq!(line("kind: Service\n---\nkind: [\n", TextFormat::Yaml).map(|line| line >= 3), Some(true));
        assert_eq!(line("kind: Service\nmetadata:\n  name: {{ .Values.name }}\n", TextFormat::Yaml), Some(3));
        assert!(line("a: 1\nb: 'x\n", TextFormat::Yaml).is_some());
        assert_eq!(line("{\n\"kind\": }", TextFormat::Json), Some(2));
    }

    #[test]
    fn deep_nesting_and_alias_bombs_are_errors() {
        for scope in ["x", "spec: {ports", "metadata: {labels"] {
            let deep = format!("kind: Service\n{scope}: {}", "[".repeat(100_000));
            assert!(parse(&deep, TextFormat::Yaml).is_err(), "{scope}");
        }
        let deep = format!("kind: Service\nmetadata: {{labels: {}1{}}}\n", "[".repeat(61), "]".repeat(61));
        assert!(parse(&deep, TextFormat::Yaml).is_ok());
        let block: String =
            (0..20_000).map(|depth| format!("{}a:\n", " ".repeat(depth.min(500) + depth / 500))).collect();
        assert!(parse(&format!("kind: Service\nspec:\n{block}"), TextFormat::Yaml).is_err());
        assert!(parse(&"[".repeat(100_000), TextFormat::Json).is_err());

        let mut bomb = "kind: Service\nspec:\n  ports: &a0 [x, x, x, x, x, x, x, x, x, x]\n  selector:\n".to_owned();
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb += &format!("    l{level}: &a{level} [{aliases}]\n");
        }
        let begin = std::time::Instant::now();
        assert!(parse(&bomb, TextFormat::Yaml).is_err());
        assert!(begin.elapsed().as_secs() < 30, "{:?}", begin.elapsed());
    }
}
