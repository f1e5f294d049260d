//! The real parts that the tests run, by name: what `tests/live/build` has built.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The exit status by which the build says that Go is missing.
const NO_GO: i32 = 3;

/// The path of a part; the first call builds all of them, where that has not been done yet.
pub fn path(name: &str) -> &'static Path {
    match parts() {
        Ok(parts) => parts.get(name).expect("a part that tests/live/build knows"),
        Err(error) => panic!("{error}"),
    }
}

/// Why the parts cannot be had on this machine at all, if they cannot.
pub fn missing() -> Option<String> {
    let go = Command::new("go").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if go.is_ok_and(|status| status.success()) {
        return None;
    }
    // Somebody else may have built them.
    parts().as_ref().err().cloned()
}

fn parts() -> &'static Result<HashMap<String, PathBuf>, String> {
    static PARTS: OnceLock<Result<HashMap<String, PathBuf>, String>> = OnceLock::new();
    PARTS.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/build");
        let output = Command::new(script).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = output.map_err(|error| format!("tests/live/build: {error}"))?;
        match output.status.code() {
            Some(0) => {}
            Some(NO_GO) => return Err("Go is not installed".to_owned()),
            _ => return Err(format!("tests/live/build failed: {}", output.status)),
        }
        let lines = String::from_utf8_lossy(&output.stdout);
        let pairs = lines.lines().filter_map(|line| line.split_once(' '));
        Ok(pairs.map(|(name, path)| (name.to_owned(), PathBuf::from(path))).collect())
    })
}
