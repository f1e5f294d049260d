//! The result of an explanation, and its text.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::printable::printable;
use crate::chain::Trace;

/// The maximum length of a line of the text, in characters; longer ones are cut.
const MAX_LINE: usize = 400;

/// Why a name resolves or does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The full name that is explained, with its final dot.
    pub name: String,
    /// The type.
    #[serde(rename = "type")]
    pub qtype: String,
    /// The result: a response code, `NODATA`, `dropped`, or `forwarded` if an upstream decides.
    pub result: String,
    /// The reason as one word, for scripts: `resolves`, `no-such-service`, `pods-not-ready`.
    pub reason: String,
    /// The cause, in one line.
    pub cause: String,
    /// Existing names that are similar, the most similar first.
    pub suggestions: Vec<String>,
    /// The names that a resolver would look up before and after this one, with their results.
    pub asked: Vec<(String, String)>,
    /// The listener that is explained.
    pub listener: String,
    /// What the server does with the name, and with the target of each alias.
    pub traces: Vec<Trace>,
    /// The objects of the Service, one fact a line.
    pub objects: Vec<String>,
    /// Further facts.
    pub notes: Vec<String>,
    /// Commands to run next.
    pub next: Vec<String>,
}

impl Report {
    /// Returns the first line: name, result and cause.
    pub fn headline(&self) -> String {
        let mut line = format!("{} {}: {}: {}", self.name, self.qtype, self.result, self.cause);
        if let [first, ..] = &self.suggestions[..] {
            let _ = write!(line, "; did you mean {first}?");
        }
        line
    }

    /// Returns the text for a terminal.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        push(&mut text, "", &self.headline());
        if self.asked.len() > 1 {
            text.push_str("\nresolvers look up, in this order:\n");
            for (name, result) in &self.asked {
                let mark = if *name == self.name { "►" } else { " " };
                push(&mut text, "  ", &format!("{mark} {name} {result}"));
            }
        }
        for (number, trace) in self.traces.iter().enumerate() {
            let alias = if number > 0 { "alias " } else { "" };
            let _ = write!(text, "\n{alias}{} {}", trace.name, trace.qtype);
            text.push('\n');
            if number == 0 {
                push(&mut text, "  ", &format!("listener {}", self.listener));
            }
            for block in &trace.not_admitted {
                push(&mut text, "  ", &format!("server block {block}: its view does not admit the query"));
            }
            match &trace.block {
                Some(block) => push(&mut text, "  ", &format!("server block {block}")),
                None => push(&mut text, "  ", "no server block takes the query"),
            }
            for step in &trace.steps {
                for line in &step.lines {
                    push(&mut text, "  ", &format!("{}: {line}", step.plugin));
                }
            }
            for step in &trace.way_back {
                for line in &step.lines {
                    push(&mut text, "  ", &format!("on the way back, {}: {line}", step.plugin));
                }
            }
            trace.records.iter().for_each(|record| push(&mut text, "    ", record));
        }
        section(&mut text, "objects", &self.objects);
        section(&mut text, "notes", &self.notes);
        if self.suggestions.len() > 1 {
            section(&mut text, "similar names", &self.suggestions);
        }
        section(&mut text, "next", &self.next);
        text
    }

    /// Returns the JSON form.
    pub fn to_json(&self) -> String {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(map) = value.as_object_mut() {
            map.insert("headline".to_owned(), self.headline().into());
        }
        format!("{value:#}\n")
    }
}

fn section(text: &mut String, title: &str, lines: &[String]) {
    if !lines.is_empty() {
        let _ = write!(text, "\n{title}:\n");
        lines.iter().for_each(|line| push(text, "  ", line));
    }
}

/// Adds a line, cut and printable: objects and records may contain any text.
fn push(text: &mut String, indent: &str, line: &str) {
    let end = line.char_indices().nth(MAX_LINE).map(|(end, _)| end);
    text.push_str(indent);
    text.push_str(&printable(&line[..end.unwrap_or(line.len())]));
    text.push_str(if end.is_some() { "…\n" } else { "\n" });
}
