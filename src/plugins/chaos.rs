//! *chaos*: answers queries in class CH about the server itself: `version.bind`, `version.server`, `authors.bind`,
//! `hostname.bind` and `id.server`.

use super::Context;
use super::build::{BlockBuilder, BlockOptions, BuildError, Setting};
use crate::chain::{Exchange, Plugin, Step};
use crate::corefile::{Arguments, Directive};
use crate::wire::{Class, NameRef, Rdata, Record, Section, Type};

/// The maximum length of a character string in bytes (RFC 1035 3.3).
pub const MAX_TEXT: usize = 255;

/// The configuration of the directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The text of `version.bind` and `version.server`; the name and version of this program if `None`.
    pub version: Option<String>,
    /// The texts of `authors.bind`, sorted, each once.
    pub authors: Vec<String>,
}

/// Parses the directive; the first stanza of a server block is used.
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

/// Answers with these texts, each cut to [`MAX_TEXT`] bytes.
pub struct Chaos {
    /// The text of `version.bind` and `version.server`.
    pub version: String,
    /// The texts of `authors.bind`.
    pub authors: Vec<String>,
    /// The text of `hostname.bind` and `id.server`.
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
            b"\x07version\x04bind\0" | b"\x07version\x06server\0" => push_text(exchange, &self.version),
            b"\x08hostname\x04bind\0" | b"\x02id\x06server\0" => push_text(exchange, &self.hostname),
            b"\x07authors\x04bind\0" => {
                let mut order: Vec<&String> = self.authors.iter().collect();
                fastrand::shuffle(&mut order);
                order.into_iter().for_each(|author| push_text(exchange, author));
            }
            _ => return Step::Next,
        }
        Step::Answered
    }
}

/// Adds a TXT record with this text.
fn push_text(exchange: &mut Exchange<'_>, text: &str) {
    let reply = exchange.reply();
    let text = &text.as_bytes()[..text.len().min(MAX_TEXT)];
    let data = reply.store(&[&[text.len() as u8], text].concat());
    reply.push(Record {
        section: Section::Answer,
        owner: NameRef::QUESTION,
        rtype: Type::TXT,
        class: Class::CH,
        ttl: 0,
        rdata: Rdata::Bytes(data),
    });
}
