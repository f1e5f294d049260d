//! A client of the API server for the tests, with objects as JSON.

use std::sync::OnceLock;
use std::time::Duration;

use http::{Method, Request};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::wait::{SOON, eventually};

/// A client with the rights of a user.
#[derive(Clone)]
pub struct Api {
    client: Client,
}

/// Why a request was refused.
#[derive(Debug)]
pub struct Refused {
    /// The HTTP status; 0 without a response.
    pub status: u16,
    pub message: String,
}

/// The paths of kinds: `apis/GROUP/VERSION`, the plural, and whether they are namespaced.
const KINDS: [(&str, &str, &str, bool); 10] = [
    ("Namespace", "api/v1", "namespaces", false),
    ("Node", "api/v1", "nodes", false),
    ("Service", "api/v1", "services", true),
    ("Pod", "api/v1", "pods", true),
    ("Endpoints", "api/v1", "endpoints", true),
    ("ServiceAccount", "api/v1", "serviceaccounts", true),
    ("EndpointSlice", "apis/discovery.k8s.io/v1", "endpointslices", true),
    ("ClusterRole", "apis/rbac.authorization.k8s.io/v1", "clusterroles", false),
    ("ClusterRoleBinding", "apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", false),
    ("Lease", "apis/coordination.k8s.io/v1", "leases", true),
];

impl Api {
    /// Creates a client that trusts an authority and uses a token.
    pub fn new(port: u16, authority: Vec<u8>, token: &str) -> Api {
        let mut config = Config::new(format!("https://127.0.0.1:{port}").parse().expect("an address"));
        config.root_cert = Some(vec![authority]);
        config.read_timeout = Some(Duration::from_secs(60));
        let bearer = format!("Bearer {token}").parse().expect("a header");
        config.headers.push((http::header::AUTHORIZATION, bearer));
        let _inside = runtime().enter();
        Api { client: Client::try_from(config).expect("a client") }
    }

    /// Requests a path.
    pub fn text(&self, path: &str) -> Result<String, Refused> {
        let request = Request::get(path).body(Vec::new()).expect("a request");
        runtime().block_on(self.client.request_text(request)).map_err(refused)
    }

    /// Returns all objects of a kind.
    pub fn list(&self, kind: &str) -> Vec<Value> {
        let mut list = self.done(|| self.send(Method::GET, &path(kind, "", ""), "", None));
        let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        // Items of a list do not have a kind.
        items
            .into_iter()
            .map(|mut item| {
                item["kind"] = kind.into();
                item
            })
            .collect()
    }

    /// Creates an object.
    pub fn create(&self, object: &Value) -> Result<Value, Refused> {
        let (kind, ns, _) = names(object);
        self.send(Method::POST, &path(kind, ns, ""), "application/json", Some(object))
    }

    /// Creates or replaces an object; retries until the server accepts it.
    pub fn apply(&self, object: &Value) -> Value {
        self.done(|| self.try_apply(object))
    }

    /// Creates or replaces an object.
    pub fn try_apply(&self, object: &Value) -> Result<Value, Refused> {
        let (kind, ns, name) = names(object);
        let path = format!("{}?fieldManager=live&force=true", path(kind, ns, name));
        self.send(Method::PATCH, &path, "application/apply-patch+yaml", Some(object))
    }

    /// Changes fields of an object; retries until the server accepts it.
    pub fn merge(&self, kind: &str, ns: &str, name: &str, fields: &Value) -> Value {
        self.done(|| self.try_merge(kind, ns, name, fields))
    }

    /// Changes fields of an object.
    pub fn try_merge(&self, kind: &str, ns: &str, name: &str, fields: &Value) -> Result<Value, Refused> {
        self.send(Method::PATCH, &path(kind, ns, name), "application/merge-patch+json", Some(fields))
    }

    /// Changes fields of an object's status; retries until the server accepts it.
    pub fn set_status(&self, kind: &str, ns: &str, name: &str, status: &Value) -> Value {
        self.done(|| self.try_set_status(kind, ns, name, status))
    }

    /// Changes fields of an object's status.
    pub fn try_set_status(&self, kind: &str, ns: &str, name: &str, status: &Value) -> Result<Value, Refused> {
        let path = format!("{}/status", path(kind, ns, name));
        let fields = json!({ "status": status });
        self.send(Method::PATCH, &path, "application/merge-patch+json", Some(&fields))
    }

    /// Deletes an object at once.
    pub fn delete(&self, kind: &str, ns: &str, name: &str) -> Result<Value, Refused> {
        let options = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Background"});
        self.send(Method::DELETE, &path(kind, ns, name), "application/json", Some(&options))
    }

    /// Deletes a Pod gracefully; without a kubelet it stays terminating.
    pub fn terminate(&self, ns: &str, name: &str) {
        let options = json!({"gracePeriodSeconds": 3600});
        self.done(|| self.send(Method::DELETE, &path("Pod", ns, name), "application/json", Some(&options)));
    }

    /// Requests a token of a ServiceAccount.
    pub fn token(&self, ns: &str, account: &str) -> String {
        let path = format!("{}/token", path("ServiceAccount", ns, account));
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let answer = self.done(|| self.send(Method::POST, &path, "application/json", Some(&body)));
        answer["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// Retries until the server accepts a request; a permanent error fails the test.
    fn done(&self, attempt: impl Fn() -> Result<Value, Refused>) -> Value {
        eventually("a request", SOON, || match attempt() {
            // 403 and 404 may be temporary, until a namespace or a role exists.
            Err(refused) if [400, 401, 405, 415, 422].contains(&refused.status) => panic!("{refused:?}"),
            other => other.map_err(|refused| format!("{refused:?}")),
        })
    }

    /// Sends a request for a path.
    pub fn send(&self, method: Method, path: &str, content: &str, body: Option<&Value>) -> Result<Value, Refused> {
        let mut request = Request::builder().method(method).uri(path);
        if !content.is_empty() {
            request = request.header(http::header::CONTENT_TYPE, content);
        }
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = request.body(body).expect("a request");
        runtime().block_on(self.client.request(request)).map_err(refused)
    }
}

/// Returns kind, namespace and name of an object.
pub fn names(object: &Value) -> (&str, &str, &str) {
    let metadata = &object["metadata"];
    (text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Returns the path of an object, or of all objects of a kind.
fn path(kind: &str, ns: &str, name: &str) -> String {
    let known = KINDS.iter().find(|(known, ..)| *known == kind);
    let (_, group, plural, namespaced) = known.unwrap_or_else(|| panic!("the kind '{kind}'"));
    let place = if *namespaced && !ns.is_empty() { format!("namespaces/{ns}/") } else { String::new() };
    let name = if name.is_empty() { String::new() } else { format!("/{name}") };
    format!("/{group}/{place}{plural}{name}")
}

fn refused(error: kube::Error) -> Refused {
    match error {
        kube::Error::Api(status) => Refused { status: status.code, message: status.message.clone() },
        other => Refused { status: 0, message: other.to_string() },
    }
}

/// The runtime of all clients.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
    })
}
