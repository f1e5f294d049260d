//! What the parsers of directives share: the server block, the place for errors, and arguments that several have.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::chain::Fallthrough;
use crate::corefile::{Arguments, BlockKey, Diagnostic, Diagnostics, Directive, Stage, Token, normalize_zones};
use crate::wire::NameBuf;

/// The directives whose plugins give the plugins after them another name than the client's.
const CHANGING_NAMES: [&str; 2] = ["autopath", "rewrite"];

/// What the parser of a directive may use besides the lines of the directive.
pub struct Context<'a> {
    /// The keys of the server block.
    pub keys: &'a [BlockKey],
    /// The zones of the server block.
    pub zones: BlockZones<'a>,
    /// All stanzas of the server block.
    pub block: &'a [Directive],
    /// The directory of *root*, to which relative file names are joined.
    pub root: Option<PathBuf>,
    /// The errors and warnings.
    pub diagnostics: &'a mut Diagnostics,
}

/// The zones of a server block.
#[derive(Clone, Copy)]
pub struct BlockZones<'a> {
    /// The zones of the keys, in lower case with a final dot.
    pub names: &'a [String],
    /// Whether a directive of the block changes names, so that its plugins get names outside the zones, too.
    pub are_names_rewritten: bool,
}

impl<'a> BlockZones<'a> {
    /// Returns the zones of a block with these directives.
    pub fn new(names: &'a [String], block: &[Directive]) -> BlockZones<'a> {
        let changes_names = |directive: &Directive| CHANGING_NAMES.contains(&&*directive.name.text);
        BlockZones { names, are_names_rewritten: block.iter().any(changes_names) }
    }
}

/// Parses a directive without arguments.
pub(super) fn no_arguments(stanzas: &[&Directive], context: &mut Context<'_>) {
    for stanza in stanzas {
        Arguments::of(stanza, context.diagnostics).finish();
    }
}

/// Returns the zones that follow in the line, or those of the server block if nothing follows. If no word is a valid
/// zone, the result is empty, and the directive applies to no name (CoreDNS `plugin.OriginsFromArgsOrServerBlock`).
pub(super) fn zones_or_block(line: &mut Arguments<'_, '_>, block: BlockZones<'_>) -> Vec<NameBuf> {
    let Some(first) = line.peek() else { return names(block.names) };
    let zones = names(&line.zones());
    warn_of_outside(line, first, &zones, block);
    zones
}

/// Warns of a zone whose names are not those of the server block, so that the directive gets no query for it.
pub(super) fn warn_of_outside(line: &mut Arguments<'_, '_>, at: &Token, zones: &[NameBuf], block: BlockZones<'_>) {
    if block.are_names_rewritten {
        return;
    }
    let block_zones = names(block.names);
    for zone in zones.iter().filter(|zone| !is_reverse_tree(zone) && !block_zones.is_empty()) {
        if !block_zones.iter().any(|of| overlaps(of, zone)) {
            let message = format!("'{zone}' is outside of this server block: '{}' gets no query for it", line.name());
            let warning = Diagnostic::warning(Stage::Setup, Some(at.span), message);
            line.push(warning.expected(format!("a zone within {}", block.names.join(" "))));
        }
    }
}

/// Returns whether one of two zones contains the other.
fn overlaps(one: &NameBuf, other: &NameBuf) -> bool {
    one.as_name().is_within(other.as_name()) || other.as_name().is_within(one.as_name())
}

/// Returns whether this is a zone of reverse names. Many Corefiles name one without need, which is harmless.
fn is_reverse_tree(zone: &NameBuf) -> bool {
    ["in-addr.arpa.", "ip6.arpa."].iter().any(|tree| zone.to_string().ends_with(tree))
}

/// Returns the same as [`zones_or_block`], with a warning if the result is empty.
pub(super) fn zones_or_block_or_none(line: &mut Arguments<'_, '_>, block: BlockZones<'_>) -> Vec<NameBuf> {
    let zones = zones_or_block(line, block);
    if zones.is_empty() {
        line.warning(line.name_token(), format!("no valid zone: '{}' applies to no name", line.name()));
    }
    zones
}

/// Converts zones to names. Every zone that the parser of the Corefile accepts is a valid name.
pub(super) fn names(zones: &[String]) -> Vec<NameBuf> {
    zones.iter().filter_map(|zone| NameBuf::from_text(zone).ok()).collect()
}

/// Parses the zone whose names a stanza forwards. Returns `None` after an error.
pub(super) fn forwarded_zone(line: &mut Arguments<'_, '_>, block: BlockZones<'_>) -> Option<NameBuf> {
    let from = line.word("a zone")?;
    let zones = match normalize_zones(from) {
        Ok(zones) => zones,
        Err(error) => {
            line.error(from, error.to_string());
            return None;
        }
    };
    // Zones that the parser of the Corefile accepts are names.
    let zone = zones.first().and_then(|zone| NameBuf::from_text(zone).ok())?;
    if zones.len() > 1 {
        line.warning(from, format!("'{}' expands to multiple zones; only '{zone}' is used", from.text));
    }
    if from.text.parse::<IpAddr>().is_ok() {
        let message = format!("'{}' is the zone whose names are forwarded, '{zone}', and no upstream", from.text);
        let warning = Diagnostic::warning(Stage::Parse, Some(from.span), message);
        line.push(
            warning.expected("a zone first, such as '.' for all names").suggestion(Some(format!(". {}", from.text))),
        );
    } else {
        warn_of_outside(line, from, std::slice::from_ref(&zone), block);
    }
    Some(zone)
}

/// Parses the zones of `except`, at least one.
pub(super) fn except(line: &mut Arguments<'_, '_>) -> Option<Vec<NameBuf>> {
    if !line.more() {
        line.word("a zone")?;
    }
    Some(names(&line.zones()))
}

/// Parses the arguments of `fallthrough` in a stanza for the zones `of`.
pub(super) fn fallthrough(line: &mut Arguments<'_, '_>, of: &[NameBuf]) -> Fallthrough {
    let Some(first) = line.peek() else { return Fallthrough::Always };
    let zones = names(&line.zones());
    for zone in zones.iter().filter(|zone| !is_reverse_tree(zone) && !of.iter().any(|of| overlaps(of, zone))) {
        let message = format!("no zone of this stanza overlaps '{zone}': 'fallthrough' has no effect for it");
        let warning = Diagnostic::warning(Stage::Parse, Some(first.span), message);
        line.push(warning.expected("zones whose names are passed on, or no word to pass on all names"));
    }
    if zones.is_empty() {
        return Fallthrough::Never;
    }
    Fallthrough::Within(zones)
}
