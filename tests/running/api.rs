//! A fake API server with a Namespace and a Service. While it is away, it accepts connections and does not respond.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The response of a server that does not support streaming lists.
const REFUSED: &str = r#"{"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
    "message": "sendInitialEvents: Forbidden", "reason": "Invalid", "code": 422}"#;

/// It runs until the test ends.
pub struct Api {
    pub at: SocketAddr,
    away: Arc<AtomicBool>,
}

impl Api {
    pub fn start() -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let at = listener.local_addr().expect("an address");
        let away = Arc::new(AtomicBool::new(false));
        let shared = away.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let away = shared.clone();
                std::thread::spawn(move || serve(stream, &away));
            }
        });
        Api { at, away }
    }

    /// While the server is away, watches break and requests get no response.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }
}

/// Responds to the requests of a connection, until the server goes away or comes back.
fn serve(mut stream: TcpStream, away: &AtomicBool) {
    let mut lines = BufReader::new(stream.try_clone().expect("the same connection"));
    let until = |value: bool| {
        while away.load(Ordering::SeqCst) != value {
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    loop {
        let mut request = String::new();
        let mut line = String::new();
        while lines.read_line(&mut line).is_ok_and(|read| read > 2) {
            request.push_str(&std::mem::take(&mut line));
        }
        let Some(path) = request.split(' ').nth(1) else { return };
        if away.load(Ordering::SeqCst) {
            return until(false);
        }
        let (status, body) = match path {
            // As an older server, which supports only lists before watches.
            path if path.contains("sendInitialEvents") => ("422 Unprocessable Entity", REFUSED.to_owned()),
            path if path.contains("watch=") => {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
                let _ = stream.write_all(head.as_bytes());
                return until(true);
            }
            path => ("200 OK", list(path)),
        };
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
        if stream.write_all(format!("{head}{body}").as_bytes()).is_err() {
            return;
        }
    }
}

/// Returns the list of all objects of a kind.
fn list(path: &str) -> String {
    let (kind, items) = if path.contains("/services") {
        let item = r#"{"metadata": {"name": "web", "namespace": "default", "resourceVersion": "1"},
            "spec": {"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": [{"name": "http", "port": 80}]}}"#;
        ("Service", item)
    } else if path.contains("/endpointslices") {
        ("EndpointSlice", "")
    } else if path.contains("/namespaces") && !path.contains("/pods") {
        ("Namespace", r#"{"metadata": {"name": "default", "resourceVersion": "1"}}"#)
    } else {
        ("Pod", "")
    };
    let version = if kind == "EndpointSlice" { "discovery.k8s.io/v1" } else { "v1" };
    format!(
        r#"{{"kind": "{kind}List", "apiVersion": "{version}", "metadata": {{"resourceVersion": "7"}}, "items": [{items}]}}"#
    )
}
