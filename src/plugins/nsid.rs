//! *nsid*: identifies this server in responses to queries with the EDNS option NSID (RFC 5001).

use super::Context;
use super::build::{BlockBuilder, BuildError, Setting};
use crate::chain::{Calls, Exchange, Plugin, Step, Wait};
use crate::corefile::{Arguments, Directive};

/// The code of the option.
const NSID: u16 = 3;

/// The maximum length of the identifier in bytes, with which the longest question and the OPT record still fit into a
/// UDP response of 512 bytes.
pub const MAX_LEN: usize = 512 - 12 - 259 - 11 - 4;

/// The configuration of the directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The identifier, at most [`MAX_LEN`] bytes; the host name if `None`.
    pub data: Option<String>,
}

/// Parses the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let mut line = Arguments::of(stanzas.first()?, context.diagnostics);
    let first = line.peek();
    let words: Vec<&str> = line.rest().iter().map(|word| word.text.as_str()).collect();
    let data = (!words.is_empty()).then(|| words.join(" "));
    if let Some((first, data)) = first.zip(data.as_ref())
        && data.len() > MAX_LEN
    {
        let message = format!("the identifier has {} bytes", data.len());
        line.error_expected(first, message, &format!("at most {MAX_LEN} bytes"));
    }
    if let Some(property) = line.body().first() {
        line.warning(&property.name, "'nsid' has no properties; this one has no effect");
    }
    line.finish();
    Some(Config { data })
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let data = self.data.clone().unwrap_or_else(|| block.resources().hostname.clone());
        block.plugin(Nsid { data: data.into_bytes().into() });
        Ok(())
    }
}

/// Adds the identifier to replies.
pub struct Nsid {
    /// The identifier, at most [`MAX_LEN`] bytes.
    pub data: Box<[u8]>,
}

impl Plugin for Nsid {
    fn name(&self) -> &'static str {
        "nsid"
    }

    fn calls(&self) -> Calls {
        Calls { query: false, reply: true, sent: false }
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> Option<Wait> {
        if exchange.query.edns.is_some_and(|edns| edns.option(NSID).is_some()) {
            exchange.reply().add_option(NSID, &self.data);
        }
        None
    }
}
