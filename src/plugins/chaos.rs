//! *chaos*: tells of the server itself, in class CH: `version.bind`, `version.server`, `authors.bind`, `hostname.bind`
//! and `id.server`.

use super::Context;
use super::build::{BlockBuilder, BlockOptions, BuildError, Setting};
use crate::chain::{Exchange, Plugin, Step};
use crate::corefile::{Arguments, Directive};
use crate::wire::{Class, NameRef, Rdata, Record, Section, Type};

/// The longest character string (RFC 1035 3.3).
pub const MAX_TEXT: usize = 255;

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The answer of `version.bind`; this server's name and version where `None`.
    pub version: Option<String>,
    /// The answers of `authors.bind`.
    pub authors: Vec<String>,
}

/// Reads the directive; the first of several counts.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let mut line = Arguments::of(stanzas.first()?, context.diagnostics);
    let version = line.next_word().map(|word| word.text.clone());
    let mut authors: Vec<String> = line.rest().iter().map(|word| word.text.clone()).collect();
    authors.sort();
    authors.dedup();
    for property in line.body() {
        line.enter(property).unknown([]);
    }
    line.finish();
    Some(Config { version, authors })
}

impl Setting for Config {
    fn configure(&self, options: &mut BlockOptions) {
        options.answers_other_classes = true;
    }

    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let resources = block.resources();
        block.plugin(Chaos {
            version: self.version.clone().unwrap_or_else(|| resources.version.to_owned()),
            authors: self.authors.clone(),
            hostname: resources.hostname.clone(),
        });
        Ok(())
    }
}

/// The plugin. Each text is at most [`MAX_TEXT`] octets long.
pub struct Chaos {
    /// The answer of `version.bind`.
    pub version: String,
    /// The answers of `authors.bind`.
    pub authors: Vec<String>,
    /// The answer of `hostname.bind`.
    pub hostname: String,
}

impl Plugin for Chaos {
    fn name(&self) -> &'static str {
        "chaos"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let question = exchange.question();
        if question.qclass != Class::CH || question.qtype != Type::TXT {
            return Step::Next;
        }
        match question.name().as_wire() {
            b"\x07version\x04bind\0" | b"\x07version\x06server\0" => push(exchange, &self.version),
            b"\x08hostname\x04bind\0" | b"\x02id\x06server\0" => push(exchange, &self.hostname),
            b"\x07authors\x04bind\0" => {
                let mut order: Vec<&String> = self.authors.iter().collect();
                fastrand::shuffle(&mut order);
                order.into_iter().for_each(|author| push(exchange, author));
            }
            _ => return Step::Next,
        }
        Step::Answered
    }
}

fn push(exchange: &mut Exchange<'_>, text: &str) {
    let reply = exchange.reply();
    let text = &text.as_bytes()[..text.len().min(MAX_TEXT)];
    let data = reply.store(&[&[text.len() as u8], text].concat());
    let (owner, rdata) = (NameRef::QUESTION, Rdata::Bytes(data));
    reply.push(Record { section: Section::Answer, owner, rtype: Type::TXT, class: Class::CH, ttl: 0, rdata });
}
