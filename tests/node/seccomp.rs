//! The filter of system calls that a container runtime applies as `RuntimeDefault`: the profile of Podman and CRI-O,
//! from Debian's package, for containers with the Deployment's one capability. `confine.c` loads it.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

/// The profile.
pub const PROFILE: &str = "/usr/share/containers/seccomp.json";
/// Capabilities of the container, as the profile names them.
const CAPABILITIES: &[&str] = &["CAP_NET_BIND_SERVICE"];
/// Comparisons in the order of libseccomp's numbers, which start with 1.
const OPERATORS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];

/// Writes the rules of the profile that apply here, one a line, as `confine.c` reads them.
pub fn write_list(file: &Path) {
    let text = std::fs::read_to_string(PROFILE).expect("checked at the start");
    let profile: Value = serde_json::from_str(&text).expect("JSON");
    let mut list = format!("{} *\n", action(&profile, "defaultAction", "defaultErrnoRet"));
    for rule in profile["syscalls"].as_array().expect("rules").iter().filter(|rule| applies(rule)) {
        let action = action(rule, "action", "errnoRet");
        let conditions: String = array(&rule["args"]).iter().map(condition).collect();
        for name in array(&rule["names"]) {
            writeln!(list, "{action} {}{conditions}", name.as_str().expect("a name")).expect("text");
        }
    }
    std::fs::write(file, list).expect("a file");
}

/// Returns an action as a number: 0 allows, others are errors.
fn action(rule: &Value, action: &str, error: &str) -> u64 {
    match rule[action].as_str() {
        Some("SCMP_ACT_ALLOW") => 0,
        // The default of runtimes is EPERM.
        Some("SCMP_ACT_ERRNO") => rule[error].as_u64().unwrap_or(1),
        other => panic!("an unknown action: {other:?}"),
    }
}

/// Returns whether a rule is for this machine and for these capabilities.
fn applies(rule: &Value) -> bool {
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let list = |group: &str, kind: &str| -> Vec<String> {
        array(&rule[group][kind]).iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let has = |name: &String| CAPABILITIES.contains(&name.as_str());
    let (machines, needed) = (list("includes", "arches"), list("includes", "caps"));
    (machines.is_empty() || machines.iter().any(|name| name == machine))
        && !list("excludes", "arches").iter().any(|name| name == machine)
        && needed.iter().all(has)
        && !list("excludes", "caps").iter().any(has)
}

fn condition(argument: &Value) -> String {
    let operator = argument["op"].as_str().and_then(|name| name.strip_prefix("SCMP_CMP_")).expect("an operator");
    let operator = OPERATORS.iter().position(|known| *known == operator).expect("a known operator") + 1;
    let number = |name: &str| argument[name].as_u64().unwrap_or(0);
    format!(" {} {operator} {} {}", number("index"), number("value"), number("valueTwo"))
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
