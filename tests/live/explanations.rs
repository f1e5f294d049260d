//! `clusterdns explain` with a real API server and its controllers: the first line names the true cause.

use std::path::Path;
use std::process::Command;

use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::Test;
use super::api::{Api, names};
use super::broken_names::for_each_case;
use super::cluster::Cluster;
use super::objects::node;
use super::shared;
use super::wait::{LATER, eventually};

/// Cases that an API server does not let happen: it gives each Service an address, and validates `externalName`.
const IMPOSSIBLE: [&str; 2] = ["no address yet", "ExternalName is a URL"];

pub fn tests() -> Vec<Test> {
    vec![Test::new("explain: names the true cause of broken names", causes)]
}

/// Returns a text with the addresses of Services in the ranges of the cluster.
fn in_ranges(text: &str) -> String {
    text.replace("10.0.0.", "10.96.1.").replace(".0.0.10.", ".1.96.10.").replace("fd00::5", "fd00:10:96::5")
}

fn causes() -> Result<(), Failed> {
    let cluster = Cluster::start(shared::folder().join("explain"));
    cluster.api.apply(&node("node-a", "zone-a"));
    let manifests: Vec<Value> = serde_saphyr::from_multiple(&in_ranges(include_str!("../data/explain/cluster.yaml")))?;
    manifests.into_iter().for_each(|object| create(&cluster.api, object));
    let (folder, access) = (cluster.folder(), cluster.unlimited_access());
    let mut checked = 0;
    for_each_case(|title, corefile, words, cause| {
        if IMPOSSIBLE.contains(&title) {
            return;
        }
        checked += 1;
        let conf = folder.join(format!("Corefile-{checked}"));
        std::fs::write(&conf, corefile).expect("a file");
        // The controllers need a moment for the slices.
        eventually(title, LATER, || {
            let first = explain(&access.kubeconfig, &conf, &in_ranges(words))?;
            match cause.iter().map(|part| in_ranges(part)).find(|part| !first.contains(part)) {
                None => Ok(()),
                Some(missing) => Err(format!("explain {words} is {first}\n  without {missing}")),
            }
        });
    });
    if checked >= 40 { Ok(()) } else { Err(format!("{checked} cases").into()) }
}

/// Creates an object of the manifests as users and a kubelet would.
fn create(api: &Api, mut object: Value) {
    let (kind, ns, name) = names(&object);
    let (kind, ns, name) = (kind.to_owned(), ns.to_owned(), name.to_owned());
    // Its externalName is a URL, which an API server refuses.
    if name == "with-scheme" {
        return;
    }
    if kind != "Pod" {
        api.apply(&object);
        return;
    }
    let mut status = object["status"].take();
    let is_terminating = object["metadata"]["deletionTimestamp"].take() != Value::Null;
    object["spec"]["containers"] = json!([{"name": "app", "image": "registry.example/app"}]);
    if status["phase"] != "Pending" {
        object["spec"]["nodeName"] = "node-a".into();
    }
    api.apply(&without_nulls(object));
    if let Some(ip) = status["podIPs"][0]["ip"].as_str().map(str::to_owned) {
        status["podIP"] = ip.into();
    }
    api.set_status(&kind, &ns, &name, &without_nulls(status));
    if is_terminating {
        api.terminate(&ns, &name);
    }
}

/// Removes fields without a value.
fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, field| !field.is_null());
        for field in fields.values_mut() {
            *field = without_nulls(field.take());
        }
    }
    value
}

/// Returns the first line of the explanation.
fn explain(kubeconfig: &Path, conf: &Path, words: &str) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clusterdns"));
    command.arg("explain").arg("-kubeconfig").arg(kubeconfig).arg("-conf").arg(conf).args(words.split_whitespace());
    let output = command.output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}
