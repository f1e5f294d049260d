//! Continuous queries while something else happens: known names must stay known.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::ask::{Answer, Question, ask};
use super::server::read;

/// Names of the shop, of every kind.
const KNOWN: [&str; 9] = [
    "web.shop.svc.cluster.local. A",
    "api.shop.svc.cluster.local. AAAA",
    "_http._tcp.web.shop.svc.cluster.local. SRV",
    "pay.shop.svc.cluster.local. CNAME",
    "db.data.svc.cluster.local. A",
    "db-1.db.data.svc.cluster.local. A",
    "_amqp._tcp.queue.data.svc.cluster.local. SRV",
    "20.10.96.10.in-addr.arpa. PTR",
    "11.3.244.10.in-addr.arpa. PTR",
];

/// A thread that sends queries.
pub struct Stream {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<String>>,
}

impl Stream {
    /// Starts to query a synced server, whose responses must not change.
    pub fn start(at: SocketAddr) -> Stream {
        let known: Vec<(Question, Answer)> = KNOWN
            .map(|question| {
                let answer = ask(at, &read(question)).expect("an answer");
                assert!(answer.rcode == 0 && !answer.sections[0].is_empty(), "{question}: {answer}");
                (read(question), answer)
            })
            .into();
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicUsize::new(0));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            let asked = asked.clone();
            move || {
                let mut wrong = Vec::new();
                for (question, expected) in known.iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    match ask(at, question) {
                        Some(answer) if answer == *expected => {}
                        Some(answer) => wrong.push(format!("{question}: {answer}")),
                        None => wrong.push(format!("{question}: no response")),
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
                wrong
            }
        });
        Stream { stop, asked, thread }
    }

    /// Waits for a time, and for at least a thousand queries.
    pub fn run_for(&self, time: Duration) {
        let start = Instant::now();
        let asked = self.asked.load(Ordering::Relaxed);
        while start.elapsed() < time || self.asked.load(Ordering::Relaxed) < asked + 1_000 {
            assert!(!self.thread.is_finished());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it, and checks that every response was right.
    pub fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let wrong = self.thread.join().expect("the thread ends");
        let asked = self.asked.load(Ordering::Relaxed);
        let shown: Vec<String> = wrong.iter().take(10).cloned().collect();
        assert!(wrong.is_empty(), "{} of {asked} known names failed:\n{}", wrong.len(), shown.join("\n"));
    }
}
