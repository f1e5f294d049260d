//! The file of *loadbalance weighted*: a line with a name, then lines with its addresses and their weights.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tracing::{error, info};

use crate::files::{FileError, FollowedFile, Look};
use crate::wire::{Name, NameBuf};

/// The maximum size of a file in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// The maximum length of a line in bytes (Go's `bufio.MaxScanTokenSize`).
const MAX_LINE: usize = 64 * 1024;

/// The weight of an address that is not in the file.
pub(super) const DEFAULT_WEIGHT: u8 = 1;

/// Why a weight file cannot be used. The texts are CoreDNS's. Lines are counted from 1.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// The file cannot be read. It may be created later.
    #[error("weight file open error: {0}")]
    Open(#[source] FileError),
    /// A line has an address without a weight.
    #[error("line {line}: wrong domain name:\"{text}\" (Maybe a missing weight value?)")]
    Name {
        /// The number of the line.
        line: usize,
        /// The word.
        text: String,
    },
    /// A word is not an address.
    #[error("line {line}: wrong IP address:\"{text}\"")]
    Address {
        /// The number of the line.
        line: usize,
        /// The word.
        text: String,
    },
    /// A word is not a weight, 1–255.
    #[error("line {line}: wrong weight value:\"{text}\"")]
    Weight {
        /// The number of the line.
        line: usize,
        /// The word.
        text: String,
    },
    /// An address comes before any name.
    #[error("line {line}: missing domain name")]
    NoName {
        /// The number of the line.
        line: usize,
    },
    /// A line has more than two words.
    #[error("line {line}: could not parse weight line:\"{text}\"")]
    Line {
        /// The number of the line.
        line: usize,
        /// The first 200 characters of the line.
        text: String,
    },
    /// A line is too long.
    #[error("line {line}: token too long")]
    LongLine {
        /// The number of the line.
        line: usize,
    },
}

/// The weights of addresses, by name in lower-case wire form. CoreDNS compares names with their letter case, so that
/// weights do not apply to clients that mix cases.
#[derive(Debug, Default)]
pub struct Weights(HashMap<Box<[u8]>, Vec<(IpAddr, u8)>, foldhash::fast::RandomState>);

impl Weights {
    /// Parses the text of a file.
    pub fn read(text: &str) -> Result<Weights, WeightError> {
        let mut weights = Weights::default();
        // The current name. `Some(None)` is a word that is no domain name, which is ignored with its addresses.
        let mut name: Option<Option<NameBuf>> = None;
        for (line, text) in text.lines().enumerate().map(|(index, text)| (index + 1, text.trim())) {
            if text.len() > MAX_LINE {
                return Err(WeightError::LongLine { line });
            }
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let words: Vec<&str> = text.split_whitespace().take(3).collect();
            match words[..] {
                [domain] => {
                    if domain.parse::<IpAddr>().is_ok() {
                        return Err(WeightError::Name { line, text: domain.to_owned() });
                    }
                    name = Some(NameBuf::from_text(domain).ok().map(|name| name.to_lower()));
                }
                [address, weight] => {
                    let address = address
                        .parse::<IpAddr>()
                        .map_err(|_| WeightError::Address { line, text: address.to_owned() })?
                        .to_canonical();
                    let is_number = weight.bytes().all(|byte| byte.is_ascii_digit());
                    let value = weight.parse::<u8>().ok().filter(|value| is_number && *value > 0);
                    let value = value.ok_or_else(|| WeightError::Weight { line, text: weight.to_owned() })?;
                    if let Some(name) = name.as_ref().ok_or(WeightError::NoName { line })? {
                        weights.0.entry(name.as_wire().into()).or_default().push((address, value));
                    }
                }
                _ => return Err(WeightError::Line { line, text: text.chars().take(200).collect() }),
            }
        }
        Ok(weights)
    }

    /// Returns the weights of a name in lower case, in the order of the file. For a duplicate address the first counts.
    pub fn of(&self, name: Name<'_>) -> &[(IpAddr, u8)] {
        self.0.get(name.as_wire()).map_or(&[], Vec::as_slice)
    }
}

/// A weight file.
#[derive(Debug)]
pub struct WeightFile {
    /// Written when the file is read; read for every query.
    weights: ArcSwap<Weights>,
    /// Locked while the file is read.
    file: Mutex<FollowedFile>,
}

impl WeightFile {
    /// Creates an empty list of weights. [`WeightFile::read`] reads the file.
    pub(super) fn new(path: PathBuf) -> WeightFile {
        WeightFile { weights: ArcSwap::default(), file: Mutex::new(FollowedFile::new_polled(path, MAX_FILE)) }
    }

    /// Reads the file if it has changed. After an error the previous weights stay in use. Returns whether the file is
    /// being written, so that the next call should come soon ([`crate::files::SOON`]). `now` is the time of day.
    pub(super) fn read(&self, now: SystemTime) -> Result<bool, WeightError> {
        let mut file = self.file.lock();
        let bytes = match file.look(now).map_err(WeightError::Open)? {
            Look::Unchanged => return Ok(false),
            Look::Unsettled => return Ok(true),
            Look::Changed(bytes) => bytes,
        };
        let weights = Weights::read(&String::from_utf8_lossy(&bytes))?;
        self.weights.store(Arc::new(weights));
        info!(plugin = "loadbalance", "Successfully reloaded weight file {}", file.path().display());
        Ok(false)
    }

    /// Reads the file if it has changed, and logs an error. Returns whether the next call should come soon.
    ///
    /// Blocks on the file system: a timer calls it, never a query.
    pub fn refresh(&self, now: SystemTime) -> bool {
        self.read(now).unwrap_or_else(|error| {
            error!(plugin = "loadbalance", "weight file {}: {error}", self.path().display());
            false
        })
    }

    /// Returns the path of the file.
    pub(super) fn path(&self) -> PathBuf {
        self.file.lock().path().to_owned()
    }

    /// Returns the weights of the file that was read last.
    pub(super) fn weights(&self) -> Guard<Arc<Weights>> {
        self.weights.load()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::n;

    #[test]
    fn names_have_addresses_with_weights() {
        let text = "# c\n\nWww.example\n 10.0.0.1 3\n\t10.0.0.2\t255\na..b\n10.0.0.9 9\nx.\nfd00::1 +\n";
        assert!(matches!(Weights::read(text), Err(WeightError::Weight { line: 9, .. })));
        let weights = Weights::read(&text.replace('+', "1\nwww.example.\n::ffff:10.0.0.3 7")).expect("weights");
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let expected = [(ip("10.0.0.1"), 3), (ip("10.0.0.2"), 255), (ip("10.0.0.3"), 7)];
        assert_eq!(weights.of(n("www.example").as_name()), expected);
        assert_eq!(weights.of(n("x").as_name()), [(ip("fd00::1"), 1)]);
        assert_eq!(weights.of(n("y").as_name()), []);
    }

    #[test]
    fn what_coredns_refuses_is_refused() {
        let long = "x".repeat(MAX_LINE + 1);
        for (text, message) in [
            ("a\n10.0.0.1", "line 2: wrong domain name:\"10.0.0.1\" (Maybe a missing weight value?)"),
            ("a\n10.0.0 1", "line 2: wrong IP address:\"10.0.0\""),
            ("10.0.0.1 1", "line 1: missing domain name"),
            ("a\n10.0.0.1 0", "line 2: wrong weight value:\"0\""),
            ("a\n10.0.0.1 256", "line 2: wrong weight value:\"256\""),
            ("a\n10.0.0.1 +1", "line 2: wrong weight value:\"+1\""),
            ("a\n10.0.0.1 1 # c", "line 2: could not parse weight line:\"10.0.0.1 1 # c\""),
            (&long, "line 1: token too long"),
        ] {
            assert_eq!(Weights::read(text).expect_err(text).to_string(), message);
        }
    }
}
