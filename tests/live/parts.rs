//! The programs that the tests run, built by `tests/live/build`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The exit status of the build without Go.
const NO_GO: i32 = 3;

/// Returns the path of a program; the first call builds all of them, if necessary.
pub fn path(name: &str) -> &'static Path {
    match parts() {
        Ok(parts) => parts.get(name).expect("a program of tests/live/build"),
        Err(error) => panic!("{error}"),
    }
}

/// Returns why the programs cannot be built on this machine, if they cannot.
pub fn missing() -> Option<String> {
    let go = Command::new("go").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if go.is_ok_and(|status| status.success()) {
        return None;
    }
    // They may have been built before.
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
