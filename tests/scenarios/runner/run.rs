//! Runs a section against a subject, and compares the result of each step with the expectation.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use clusterdns::chain::Transport;

use super::address;
use super::format::{Act, ClientQuery, Section, Step};
use super::inside::Inside;
use super::show::{Look, Shown, show};

/// The result of a step.
pub struct Outcome {
    /// The step's line.
    pub line: usize,
    /// The lines of its body in the file.
    pub body: Range<usize>,
    /// The actual result.
    pub actual: Vec<String>,
    /// The expected result.
    pub expected: Vec<String>,
    /// A server behind an address may differ.
    pub differs: Option<String>,
}

impl Outcome {
    /// Returns whether the result is as expected. The order of records does not matter.
    pub fn is_right(&self) -> bool {
        canonical(&self.actual) == canonical(&self.expected)
    }

    /// Returns missing and additional lines.
    pub fn difference(&self) -> String {
        let (actual, expected) = (canonical(&self.actual), canonical(&self.expected));
        let missing = expected.iter().filter(|line| !actual.contains(line)).map(|line| format!("    - {line}\n"));
        let extra = actual.iter().filter(|line| !expected.contains(line)).map(|line| format!("    + {line}\n"));
        missing.chain(extra).collect()
    }
}

/// Normalises blanks, and sorts records; log lines stay in their order.
fn canonical(lines: &[String]) -> Vec<String> {
    let mut lines: Vec<String> =
        lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let is_record = |line: &String| ["answer ", "authority ", "additional "].iter().any(|name| line.starts_with(name));
    lines.sort_by_key(|line| {
        if is_record(line) { (1, line.clone()) } else { (if line.starts_with("log: ") { 2 } else { 0 }, String::new()) }
    });
    lines
}

/// Sends a packet, and returns the response, if there is one.
type Send<'a> = dyn FnMut(&[u8], Transport) -> Result<Option<Vec<u8>>, String> + 'a;

/// Runs a section in this process.
pub fn inside(section: &Section) -> Result<Vec<Outcome>, String> {
    let at = |line: usize| move |what: String| format!("{line}: {what}");
    let mut inside = Inside::new(&section.setup).map_err(at(section.line))?;
    let has = |matches: fn(&Act) -> bool| section.steps.iter().any(|step| matches(&step.act));
    if !inside.diagnostics.is_empty() && !has(|act| matches!(act, Act::Diagnostics)) {
        return Err(format!("{}: the Corefile has errors:\n{}", section.line, inside.diagnostics));
    }
    if !inside.warnings().is_empty() && !has(|act| matches!(act, Act::Warnings)) {
        return Err(format!("{}: the objects have errors:\n{}", section.line, inside.warnings().join("\n")));
    }
    let mut outcomes = Vec::new();
    for step in &section.steps {
        if inside.broken && !matches!(step.act, Act::Diagnostics) {
            return Err(format!("{}: a Corefile with errors serves nothing", step.line));
        }
        let actual = act(&mut inside, section, &step.act).map_err(at(step.line))?;
        if step.act.has_result() {
            outcomes.push(outcome(step, actual));
        }
    }
    Ok(outcomes)
}

/// Runs a step, and returns its result.
fn act(inside: &mut Inside, section: &Section, act: &Act) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    match act {
        Act::Query(question) => {
            let mut send =
                |packet: &[u8], transport| inside.ask(packet, transport, question.from, question.port, question.to);
            let once = section.setup.logs || !section.setup.upstream.is_empty();
            lines = query(question, !once, &mut send)?;
        }
        Act::Raw(packet, transport) => {
            let port = inside.any_port();
            let answer = inside.ask(packet, *transport, None, port, None)?;
            lines = show(packet, answer.as_deref(), *transport, Look::default())?.lines;
        }
        Act::Apply(text) => inside.apply(text)?,
        Act::Delete(kind, name) => inside.delete(kind, name)?,
        Act::Relist => inside.relist(),
        Act::Sync => inside.sync()?,
        Act::Time(time) => inside.pass(*time),
        Act::File(name, text) => inside.write(name, text),
        Act::Upstream(says) => inside.outside.say(says.clone()),
        Act::Diagnostics => lines = inside.diagnostics.lines().map(str::to_owned).collect(),
        Act::Warnings => lines = inside.warnings(),
    }
    if act.has_result() {
        lines.extend(inside.outside.asked().into_iter().map(|server| format!("asked {server}")));
    }
    if section.setup.logs && act.has_result() {
        lines.extend(inside.log().into_iter().map(|line| format!("log: {line}")));
    }
    Ok(lines)
}

/// Returns why a section cannot run against an address.
pub fn not_for_addresses(section: &Section, serves: &str) -> Option<String> {
    match &section.setup.served {
        None => Some("it does not name a fixture that a server could serve".to_owned()),
        Some(name) if name != serves => {
            Some(format!("it is about the fixture '{name}'; SERVES names the one that is served"))
        }
        Some(_) => section.steps.iter().find_map(|step| match &step.act {
            Act::Query(_) | Act::Raw(..) => None,
            _ => Some(format!("line {} changes objects, files or time", step.line)),
        }),
    }
}

/// Runs a section against a server.
pub fn outside(section: &Section, server: SocketAddr) -> Result<Vec<Outcome>, String> {
    let mut outcomes = Vec::new();
    for step in &section.steps {
        let actual = match &step.act {
            // The client's address cannot be chosen.
            Act::Query(question) if question.from.is_some() => continue,
            Act::Query(question) => {
                query(question, false, &mut |packet, transport| address::ask(server, packet, transport))
            }
            Act::Raw(packet, transport) => address::ask(server, packet, *transport)
                .and_then(|answer| show(packet, answer.as_deref(), *transport, Look::default()))
                .map(|shown| shown.lines),
            _ => continue,
        };
        // If a server breaks a rule, that is a difference like any other.
        let mut outcome = outcome(step, actual.unwrap_or_else(|broken| vec![broken]));
        // Only this server has extended errors and these log lines.
        let own = |line: &String| line.starts_with("ede ") || line.starts_with("log: ");
        outcome.expected.retain(|line| !own(line));
        outcome.actual.retain(|line| !own(line));
        for lines in [&mut outcome.expected, &mut outcome.actual] {
            *lines = without_client(lines);
            // Servers compress names differently.
            if let Some(first) = lines.first_mut() {
                *first = first.split(" len=").next().unwrap_or_default().to_owned();
            }
        }
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// Replaces the client in answers of *whoami*, which is another one there.
fn without_client(lines: &[String]) -> Vec<String> {
    let is_whoami = lines.iter().any(|line| line.contains(" 0 SRV 0 0 ") && line.ends_with(" ."));
    let line = |line: &String| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["additional", owner, "0", "A" | "AAAA", _] if is_whoami => format!("additional {owner} 0 A or AAAA _"),
            ["additional", owner, "0", "SRV", "0", "0", _, "."] => format!("additional {owner} 0 SRV 0 0 _ ."),
            _ => line.clone(),
        }
    };
    lines.iter().map(line).collect()
}

fn outcome(step: &Step, actual: Vec<String>) -> Outcome {
    let Step { line, body, expected, differs, .. } = step.clone();
    Outcome { line, body, actual, expected, differs }
}

/// Sends a query, and repeats it in other letter cases if requested, and over TCP. Their answers must be the same.
fn query(question: &ClientQuery, other_transport: bool, send: &mut Send<'_>) -> Result<Vec<String>, String> {
    let mut ask = |question: &ClientQuery| -> Result<Shown, String> {
        let packet = question.packet();
        let answer = send(&packet, question.transport)?;
        let look = Look { brief: question.brief, renamed: question.renamed };
        show(&packet, answer.as_deref(), question.transport, look)
    };
    let shown = ask(question)?;
    let alike = |other: &Shown| {
        // *whoami* names the transport.
        let fold = |shown: &Shown| {
            shown.lines.iter().map(|line| line.to_lowercase().replace("_tcp.", "_udp.")).collect::<Vec<_>>()
        };
        canonical(&fold(other)) == canonical(&fold(&shown))
    };
    if question.case {
        for mixed in [false, true] {
            let mut other = question.clone();
            let text = other.name.to_string();
            let change = |(at, c): (usize, char)| {
                if mixed && at % 2 == 0 { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() }
            };
            let text: String = text.chars().enumerate().map(change).collect();
            other.name = clusterdns::wire::NameBuf::from_text(&text).map_err(|error| error.to_string())?;
            let answer = ask(&other)?;
            if !alike(&answer) {
                return Err(format!("{text} gets a different answer:\n      {}", answer.lines.join("\n      ")));
            }
        }
    }
    if other_transport && !shown.truncated && question.transport == Transport::Udp {
        let other = ClientQuery { transport: Transport::Tcp, ..question.clone() };
        let answer = ask(&other)?;
        if !alike(&answer) {
            return Err(format!("TCP gets a different answer:\n      {}", answer.lines.join("\n      ")));
        }
    }
    Ok(shown.lines)
}

/// Parses the address of a server.
pub fn server(text: &str) -> Result<SocketAddr, String> {
    let with_port = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    text.parse().or_else(|_| with_port()).map_err(|_| format!("SUBJECT={text}: expected an address and a port"))
}
