//! The whole table, client × policy × name: expected against seen, and the page `docs/clients.md` made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::clients::{CLIENTS, Client, Kind};
use super::names::{Answer, QUESTIONS};
use super::net::Node;
use super::policies::{POLICIES, Policy};
use super::world::World;

/// A cell: indices of a policy, a client and a question.
type Place = (usize, usize, usize);

/// The number of clients that run at the same time.
const THREADS: usize = 5;
/// The clients that take the longest, most of it to wait. They are the first ones to run.
const SLOWEST: [&str; 3] = ["nginx", "c-ares", "Netty"];

/// What clients have seen.
#[derive(Debug, PartialEq, Eq)]
pub struct Table(BTreeMap<Place, String>);

impl Table {
    /// Asks every client every question under every policy.
    pub fn fill(world: &World) -> Table {
        let mut order: Vec<usize> = (0..CLIENTS.len()).collect();
        assert!(SLOWEST.iter().all(|name| CLIENTS.iter().any(|client| client.name == *name)), "{SLOWEST:?}");
        order.sort_by_key(|client| !SLOWEST.contains(&CLIENTS[*client].name));
        let next = AtomicUsize::new(0);
        let cells = Mutex::new(BTreeMap::new());
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    // Some clients listen on a port, so that one run of a client at a time is possible.
                    while let Some(&client) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                        for policy in 0..POLICIES.len() {
                            let seen = ask(world, policy, client);
                            cells.lock().extend(seen);
                        }
                    }
                });
            }
        });
        Table(cells.into_inner())
    }

    /// Returns a line for every cell that is not as expected.
    pub fn errors(&self) -> Vec<String> {
        self.0
            .iter()
            .filter_map(|(&(policy, client, question), seen)| {
                let (kind, name, _) = QUESTIONS[question];
                let expected = expected(&POLICIES[policy], &CLIENTS[client], kind, name)?;
                let right = brief(&expected, seen);
                (right.is_none()).then(|| {
                    format!(
                        "{}: {}: {kind:?} {name}: expected '{expected}', seen '{seen}'",
                        POLICIES[policy].name, CLIENTS[client].name
                    )
                })
            })
            .collect()
    }

    /// Returns the number of cells.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the client and the name of every cell in which the two tables differ, and a line about it.
    pub fn differing(&self, other: &Table) -> Vec<(&'static str, &'static str, String)> {
        let places = self.0.keys().chain(other.0.keys()).collect::<BTreeSet<_>>();
        places
            .into_iter()
            .filter_map(|place| {
                let &(policy, client, question) = place;
                let (kind, name, _) = QUESTIONS[question];
                let (policy, client) = (&POLICIES[policy], &CLIENTS[client]);
                let expected = expected(policy, client, kind, name)?;
                let [here, there] = [self, other].map(|table| table.0.get(place).cloned().unwrap_or_default());
                // How many records a truncated response has is not compared.
                let same = here == there || brief(&expected, &here).is_some() && brief(&expected, &there).is_some();
                let line = format!("{}: {}: {name}: here '{here}', CoreDNS '{there}'", policy.name, client.name);
                (!same).then_some((client.name, name, line))
            })
            .collect()
    }

    /// Returns the tables of the page: that of the first policy, and the rows of the others that differ from it.
    fn tables(&self) -> String {
        let mut text = String::new();
        let usual: BTreeMap<usize, String> = self.rows(0).collect();
        for (at, policy) in POLICIES.iter().enumerate() {
            let file = policy.resolv_conf();
            writeln!(text, "### {}\n\n{}\n\n```text\n{file}```\n", policy.name, policy.text).expect("text");
            let rows: Vec<(usize, String)> = self.rows(at).collect();
            let is_complete = rows.len() == usual.len();
            let shown: Vec<String> = rows
                .into_iter()
                .filter(|(question, row)| at == 0 || !is_complete || usual.get(question) != Some(row))
                .map(|(_, row)| row)
                .collect();
            if shown.is_empty() {
                writeln!(text, "All results are those of {}.\n", POLICIES[0].name).expect("text");
                continue;
            }
            text += "| question | most clients | others |\n|---|---|---|\n";
            text += &shown.concat();
            text.push('\n');
        }
        text
    }

    /// Returns the rows of a policy, by the numbers of their questions.
    fn rows(&self, at: usize) -> impl Iterator<Item = (usize, String)> {
        QUESTIONS.iter().enumerate().filter_map(move |(question, (kind, name, about))| {
            let policy = &POLICIES[at];
            let mut results: Vec<(String, Vec<&str>)> = Vec::new();
            let mut not_asked: Vec<&str> = Vec::new();
            for (number, client) in CLIENTS.iter().enumerate() {
                let Some(expected) = expected(policy, client, *kind, name) else { continue };
                let Some(seen) = self.0.get(&(at, number, question)) else {
                    not_asked.push(client.name);
                    continue;
                };
                let shown = brief(&expected, seen).unwrap_or_else(|| format!("WRONG {seen}"));
                match results.iter_mut().find(|(known, _)| *known == shown) {
                    Some((_, clients)) => clients.push(client.name),
                    None => results.push((shown, vec![client.name])),
                }
            }
            // The most frequent first; the sort is stable.
            results.sort_by_key(|(_, clients)| std::cmp::Reverse(clients.len()));
            let mut results = results.into_iter();
            let (most, _) = results.next()?;
            let others = results.map(|(shown, clients)| format!("{shown} ({})", clients.join(", ")));
            let not_asked = (!not_asked.is_empty()).then(|| format!("not asked ({})", not_asked.join(", ")));
            let others = others.chain(not_asked).collect::<Vec<_>>().join("; ");
            let about = if about.is_empty() { String::new() } else { format!(", {about}") };
            Some((question, format!("| {} `{name}`{about} | {most} | {others} |\n", kind.shown())))
        })
    }

    /// Returns the page.
    pub fn page(&self) -> String {
        let mut text = include_str!("page.txt").to_owned();
        let habits: String =
            CLIENTS.iter().map(|client| format!("| {} | {} |\n", client.name, client.habits)).collect();
        let values = [("$HABITS\n", habits), ("$TABLES\n", self.tables()), ("$COUNT", self.len().to_string())];
        for (key, value) in values {
            text = text.replace(key, &value);
        }
        text.trim_end().to_owned() + "\n"
    }
}

impl Kind {
    fn shown(self) -> &'static str {
        match self {
            Kind::Host => "addresses of",
            Kind::Srv => "SRV of",
            Kind::Ptr => "name of",
            Kind::Balancer => "balancers of",
        }
    }
}

/// Compares the page with the generated one, or writes it with `UPDATE_EXPECT=1`.
pub fn check_page(page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, page).expect("the page");
        return;
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let changed = page.lines().zip(known.lines()).find(|(new, old)| new != old);
    assert!(known == page, "docs/clients.md is not as generated; UPDATE_EXPECT=1 writes it. First change: {changed:?}");
}

/// Asks a client the questions of a policy.
fn ask(world: &World, policy: usize, client: usize) -> BTreeMap<Place, String> {
    let file = world.folder.join(format!("resolv-{client}-{policy}"));
    std::fs::write(&file, POLICIES[policy].resolv_conf()).expect("a file");
    let space = place(world, policy, client);
    let questions: Vec<(Kind, &str)> = QUESTIONS
        .iter()
        .map(|&(kind, name, _)| (kind, name))
        .filter(|(kind, name)| POLICIES[policy].asks(&CLIENTS[client], *kind, name))
        .collect();
    let mut seen = CLIENTS[client].ask(&space, &file, &questions);
    // On a busy machine a client may wait in vain; that is no result. What is really wrong stays wrong.
    for ((kind, name), result) in &mut seen {
        for _ in 0..2 {
            let expected = expected(&POLICIES[policy], &CLIENTS[client], *kind, name).expect("it can ask");
            if brief(&expected, result).is_some() {
                break;
            }
            let again = CLIENTS[client].ask(&space, &file, &[(*kind, name)]);
            *result = again.into_values().next().expect("a result");
        }
    }
    let at = |kind: Kind, name: &str| QUESTIONS.iter().position(|(known, text, _)| (*known, *text) == (kind, name));
    seen.into_iter()
        .map(|((kind, name), result)| ((policy, client, at(kind, &name).expect("a question")), result))
        .collect()
}

/// Returns where a client runs.
fn place(world: &World, policy: usize, client: usize) -> super::net::Space {
    // Both nodes are used.
    let node = client % 2;
    if POLICIES[policy].is_on_host() { Node::ALL[node].space() } else { world.clients[node].clone() }
}

/// Returns the result that a client should get.
fn expected(policy: &Policy, client: &Client, kind: Kind, name: &str) -> Option<String> {
    let search = client.search(kind)?;
    let mut conf = policy.conf();
    conf.limit(client.longest);
    if let Some(error) = client.root_search.filter(|_| conf.has_root() && conf.needs_list(kind, search, name)) {
        return Some(error.to_owned());
    }
    if client.name == "systemd-resolved" && conf.fails_behind_stub(kind, name) {
        let error = if kind == Kind::Srv { "!h_errno 2" } else { "!Temporary failure in name resolution" };
        return Some(error.to_owned());
    }
    Some(match conf.look(kind, search, name) {
        Answer::Data(list) if list.len() > 8 && !client.tcp && name.contains(".svc.") => {
            format!("some of {} addresses", list.len())
        }
        Answer::Data(list) if list.len() > 8 && !client.tcp => format!("a part of {} addresses", list.len()),
        Answer::Data(list) if list.len() > 8 => format!("{} addresses", list.len()),
        Answer::Data(list) => list.join(" "),
        Answer::Nodata | Answer::Missing => "-".to_owned(),
    })
}

/// Returns how a right result is shown, or `None` if it is wrong.
fn brief(expected: &str, seen: &str) -> Option<String> {
    let count = if seen == "-" { 0 } else { seen.split(' ').count() };
    let all = |prefix: &str| -> Option<usize> {
        expected.strip_prefix(prefix)?.strip_suffix(" addresses").map(|all| all.parse().expect("a number"))
    };
    let is_error = seen.starts_with('!');
    // The server fills a truncated response about the cluster with as many records as fit.
    if let Some(all) = all("some of ") {
        return (!is_error && (1..all).contains(&count)).then(|| format!("{count} of {all} addresses"));
    }
    let is_right = match all("a part of ") {
        // What a truncated response about an external name has depends on the cache, and it may be nothing.
        Some(all) => count <= all && !is_error,
        None if expected.ends_with(" addresses") => expected == format!("{count} addresses"),
        None => seen == expected,
    };
    is_right.then(|| match expected {
        "-" => "none".to_owned(),
        "!h_errno 2" => "the error TRY_AGAIN (h_errno 2)".to_owned(),
        text if text.starts_with('!') => format!("the error \"{}\"", &text[1..]),
        text if text.ends_with(" addresses") => text.to_owned(),
        text => format!("`{text}`"),
    })
}
