//! A fake API server: lists, pages, streaming lists and watches of one store, and any fault.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

/// What happens after the bytes of a response body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyEnd {
    /// The body ends normally.
    End,
    /// The body ends normally after a delay.
    Delay,
    /// The connection breaks.
    Break,
    /// No more bytes are sent.
    Hang,
    /// Events follow as they happen, from this version on.
    Follow(u64),
}

/// A response.
pub(super) struct FakeResponse {
    pub status: u16,
    pub retry_after: Option<u64>,
    pub body: String,
    pub end: BodyEnd,
}

impl FakeResponse {
    pub(super) fn refuse(status: u16) -> FakeResponse {
        let body = json!({"kind": "Status", "code": status, "message": format!("fault {status}")}).to_string();
        FakeResponse { status, retry_after: None, body, end: BodyEnd::End }
    }

    pub(super) fn good(body: impl Into<String>, end: BodyEnd) -> FakeResponse {
        FakeResponse { status: 200, retry_after: None, body: body.into(), end }
    }
}

/// A parsed request.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// `services`, `pods`, …
    pub resource: String,
    pub query: HashMap<String, String>,
}

impl Call {
    pub(super) fn has(&self, key: &str) -> bool {
        self.query.contains_key(key)
    }

    pub(super) fn get(&self, key: &str) -> &str {
        self.query.get(key).map_or("", String::as_str)
    }

    pub(super) fn is_watch(&self) -> bool {
        self.has("watch") && !self.has("sendInitialEvents")
    }

    /// `list`, `page 2`, `stream`, `watch 7`.
    pub(super) fn text(&self) -> String {
        match (self.is_watch(), self.has("sendInitialEvents"), self.get("continue")) {
            (true, ..) => format!("watch {}", self.get("resourceVersion")),
            (_, true, _) => "stream".into(),
            (.., "") if self.get("resourceVersion") == "0" => "whole".into(),
            (.., "") => "list".into(),
            (.., token) => format!("page {token}"),
        }
    }
}

type Fault = Box<dyn FnMut(&Call) -> Option<FakeResponse> + Send>;

#[derive(Default)]
struct Store {
    version: u64,
    /// Older versions have expired.
    oldest: u64,
    objects: BTreeMap<(String, String), Value>,
    history: Vec<(u64, String, String)>,
    calls: Vec<Call>,
    fault: Option<Fault>,
}

/// The server, which stops when dropped.
pub(super) struct FakeServer {
    store: Arc<Mutex<Store>>,
    changed: Arc<watch::Sender<()>>,
    pub url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeServer {
    pub(super) async fn start() -> FakeServer {
        FakeServer::start_at("127.0.0.1:0").await
    }

    /// Starts a server at the address of another one.
    pub(super) async fn start_at(address: &str) -> FakeServer {
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let store = Arc::new(Mutex::new(Store { version: 10, ..Store::default() }));
        let changed = Arc::new(watch::Sender::new(()));
        let (for_task, notify) = (store.clone(), changed.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let (store, notify) = (for_task.clone(), notify.clone());
                connections.spawn(async move {
                    let service = service_fn(move |request| respond(store.clone(), notify.clone(), request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        FakeServer { store, changed, url, task }
    }

    /// Sets a function that may respond requests instead of the server.
    pub(super) fn fault(&self, fault: impl FnMut(&Call) -> Option<FakeResponse> + Send + 'static) {
        self.store.lock().fault = Some(Box::new(fault));
    }

    pub(super) fn clear_fault(&self) {
        self.store.lock().fault = None;
    }

    /// Returns the requests for a resource, in order.
    pub(super) fn calls(&self, resource: &str) -> Vec<Call> {
        self.store.lock().calls.iter().filter(|call| call.resource == resource).cloned().collect()
    }

    pub(super) fn texts(&self, resource: &str) -> Vec<String> {
        self.calls(resource).iter().map(Call::text).collect()
    }

    /// Creates or changes an object and sends the event to watches.
    pub(super) fn put(&self, resource: &str, name: &str, object: Value) {
        self.change(resource, name, Some(object), true);
    }

    pub(super) fn delete(&self, resource: &str, name: &str) {
        self.change(resource, name, None, true);
    }

    /// Changes the store without an event, which no API server should do.
    pub(super) fn change_without_event(&self, resource: &str, name: &str, object: Option<Value>) {
        self.change(resource, name, object, false);
    }

    fn change(&self, resource: &str, name: &str, object: Option<Value>, notify: bool) {
        let mut store = self.store.lock();
        store.version += 1;
        let version = store.version;
        let key = (resource.to_owned(), name.to_owned());
        let (what, mut object) = match object {
            Some(object) => ("MODIFIED", object),
            None => ("DELETED", store.objects.remove(&key).unwrap_or_default()),
        };
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        if what == "MODIFIED" {
            store.objects.insert(key, object.clone());
        }
        if notify {
            let line = format!("{}\n", json!({"type": what, "object": object}));
            store.history.push((version, resource.to_owned(), line));
            drop(store);
            self.changed.send_replace(());
        }
    }

    /// Discards all events: watches from older versions have expired.
    pub(super) fn compact(&self) {
        let mut store = self.store.lock();
        store.version += 1;
        store.oldest = store.version;
        store.history.clear();
    }

    /// Restores an old snapshot: versions continue from `version`, and `gone` is removed.
    pub(super) fn restore(&self, version: u64, gone: &[(&str, &str)]) {
        let mut store = self.store.lock();
        store.version = version;
        store.oldest = 0;
        store.history.clear();
        for (resource, name) in gone {
            store.objects.remove(&((*resource).to_owned(), (*name).to_owned()));
        }
    }
}

/// A body that is sent in pieces.
struct Frames(mpsc::Receiver<std::io::Result<Frame<Bytes>>>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = std::io::Error;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx)
    }
}

async fn respond(
    store: Arc<Mutex<Store>>, notify: Arc<watch::Sender<()>>, request: Request<Incoming>,
) -> Result<Response<Frames>, Infallible> {
    let resource = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let pairs = request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let query = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let call = Call { resource: resource.clone(), query };
    let mut changes = notify.subscribe();
    let reply = {
        let mut store = store.lock();
        store.calls.push(call.clone());
        let faulty = store.fault.as_mut().and_then(|fault| fault(&call));
        faulty.unwrap_or_else(|| store.respond(&call))
    };
    let (sender, receiver) = mpsc::channel(4);
    let FakeResponse { status, retry_after, body, end } = reply;
    tokio::spawn(async move {
        let data = |text: String| Ok(Frame::data(Bytes::from(text)));
        let _ = sender.send(data(body)).await;
        match end {
            BodyEnd::End => {}
            // Longer than the limit for brief watches in the tests.
            BodyEnd::Delay => tokio::time::sleep(Duration::from_millis(150)).await,
            BodyEnd::Break => {
                // Let the bytes before it arrive.
                tokio::time::sleep(Duration::from_millis(30)).await;
                let _ = sender.send(Err(std::io::Error::other("broken"))).await;
            }
            BodyEnd::Hang => sender.closed().await,
            BodyEnd::Follow(mut from) => loop {
                let lines: Vec<(u64, String)> = {
                    let store = store.lock();
                    let later = store.history.iter().filter(|(version, of, _)| *version > from && *of == resource);
                    later.map(|(version, _, line)| (*version, line.clone())).collect()
                };
                for (version, line) in lines {
                    from = version;
                    if sender.send(data(line)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
            },
        }
    });
    let mut response = Response::new(Frames(receiver));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
    }
    Ok(response)
}

impl Store {
    /// Returns the response of a correct API server.
    fn respond(&self, call: &Call) -> FakeResponse {
        let mut objects = self.objects.iter().filter(|((resource, _), _)| *resource == call.resource);
        if call.has("sendInitialEvents") {
            let mut body: String =
                objects.map(|(_, object)| format!("{}\n", json!({"type": "ADDED", "object": object}))).collect();
            let annotations = json!({"k8s.io/initial-events-end": "true"});
            let metadata = json!({"resourceVersion": self.version.to_string(), "annotations": annotations});
            body += &format!("{}\n", json!({"type": "BOOKMARK", "object": {"metadata": metadata}}));
            return FakeResponse::good(body, BodyEnd::Follow(self.version));
        }
        if call.is_watch() {
            let from: u64 = call.get("resourceVersion").parse().unwrap_or(0);
            return match from {
                from if from < self.oldest => {
                    let status = json!({"kind": "Status", "code": 410, "message": "too old resource version"});
                    FakeResponse::good(format!("{}\n", json!({"type": "ERROR", "object": status})), BodyEnd::End)
                }
                from if from > self.version => FakeResponse::refuse(504),
                from => FakeResponse::good("", BodyEnd::Follow(from)),
            };
        }
        let limit = call.get("limit").parse().unwrap_or(usize::MAX);
        let skip: usize = call.get("continue").parse().unwrap_or(0);
        let all = objects.clone().count();
        let items: Vec<&Value> = objects.by_ref().skip(skip).take(limit).map(|(_, object)| object).collect();
        let next = if skip.saturating_add(limit) < all { (skip + limit).to_string() } else { String::new() };
        let metadata = json!({"resourceVersion": self.version.to_string(), "continue": next});
        FakeResponse::good(json!({"metadata": metadata, "items": items}).to_string(), BodyEnd::End)
    }
}
