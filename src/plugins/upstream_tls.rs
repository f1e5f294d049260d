//! `tls` of directives that connect to servers: the certificates of both sides (CoreDNS
//! `plugin/pkg/tls.NewTLSConfigFromArgs`).

use std::path::{Path, PathBuf};

use super::path::rooted;
use crate::corefile::Arguments;
use crate::upstream::Trust;

/// Parses `tls [CA | CERTIFICATE KEY [CA]]`. The server name stays as it is.
pub(super) fn parse(line: &mut Arguments<'_, '_>, root: Option<&Path>, trust: &mut Trust) {
    let words = line.rest();
    let files: Vec<PathBuf> = words.iter().filter_map(|word| rooted(line, root, word)).collect();
    trust.identity = None;
    match &files[..] {
        [] => {}
        [authorities] => trust.authorities = Some(authorities.clone()),
        [certificate, key] => trust.identity = Some((certificate.clone(), key.clone())),
        [certificate, key, authorities] => {
            trust.identity = Some((certificate.clone(), key.clone()));
            trust.authorities = Some(authorities.clone());
        }
        _ => {
            let word = line.name_token();
            line.error_expected(word, "too many files", "nothing, CA, CERT KEY, or CERT KEY CA");
        }
    }
}

/// Checks that the certificates can be used. Without files there is nothing to check.
pub(super) fn check(trust: &Trust) -> Result<(), String> {
    if trust.authorities.is_some() || trust.identity.is_some() {
        trust.check().map_err(|error| error.to_string())
    } else {
        Ok(())
    }
}
