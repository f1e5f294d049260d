//! Names that exist and are similar to one that does not, for people: of Services, namespaces, endpoints and ports.

use super::entry::ServiceEntry;
use super::index::Index;
use super::lookup::View;

/// The maximum number of suggestions.
const MAX: usize = 3;
/// A suggestion in another namespace must be more similar than one in the same, by this distance.
const OTHER_NAMESPACE: usize = 1;

/// Returns how different two labels are, in edits; a label that continues the other one after a dash counts as one
/// edit.
pub fn distance(a: &str, b: &str) -> usize {
    if continues(a, b) || continues(b, a) { 1 } else { strsim::damerau_levenshtein(a, b) }
}

/// Returns whether a label is another one with more before or behind a dash.
fn continues(long: &str, short: &str) -> bool {
    let is_rest = |rest: Option<&str>, has_dash: fn(&str) -> bool| rest.is_some_and(has_dash);
    !short.is_empty()
        && (is_rest(long.strip_prefix(short), |rest| rest.starts_with('-'))
            || is_rest(long.strip_suffix(short), |rest| rest.ends_with('-')))
}

/// Returns whether two labels are so similar that one may be a misspelling of the other.
pub fn is_near(a: &str, b: &str) -> bool {
    let most = (a.len().max(b.len()) / 3).clamp(1, 3);
    // Most labels differ too much in length, which is cheap to see.
    let is_possible = a.len().abs_diff(b.len()) <= most || continues(a, b) || continues(b, a);
    is_possible && distance(a, b) <= most
}

impl Index {
    /// Returns Services (name and namespace) that are similar to this one, the most similar first: with a similar name
    /// in the namespace or in a similar one, with the same name in any namespace, or with both labels swapped.
    pub fn nearest_services(&self, name: &str, ns: &str, view: &View) -> Vec<(String, String)> {
        let mut found: Vec<(usize, String, String)> = Vec::new();
        self.for_each_service(|other, other_ns| {
            let (Ok(other), Ok(other_ns)) = (std::str::from_utf8(other), std::str::from_utf8(other_ns)) else { return };
            if !self.exposes(other_ns.as_bytes(), view) {
                return;
            }
            let rank = if other_ns == ns {
                is_near(name, other).then(|| distance(name, other))
            } else if other == name {
                let of_namespace = distance(ns, other_ns);
                Some(OTHER_NAMESPACE + if is_near(ns, other_ns) { of_namespace } else { 10 })
            } else if other == ns && other_ns == name {
                Some(OTHER_NAMESPACE)
            } else {
                let is_similar = is_near(ns, other_ns) && is_near(name, other);
                is_similar.then(|| OTHER_NAMESPACE + distance(ns, other_ns) + distance(name, other))
            };
            // Without the underscores that no object has.
            let spelled = name.contains('_') && other_ns == ns && name.replace('_', "-") == other;
            let rank = if spelled { Some(0) } else { rank };
            if let Some(rank) = rank {
                found.push((rank, other.to_owned(), other_ns.to_owned()));
                if found.len() > 64 {
                    found.sort();
                    found.truncate(MAX);
                }
            }
        });
        found.sort();
        found.truncate(MAX);
        found.into_iter().map(|(_, name, ns)| (name, ns)).collect()
    }

    /// Returns exposed namespaces that are similar to this one, the most similar first.
    pub fn nearest_namespaces(&self, ns: &str, view: &View) -> Vec<String> {
        let mut found = Vec::new();
        self.for_each_namespace(|other| {
            if let Ok(other) = std::str::from_utf8(other)
                && is_near(ns, other)
                && view.lists_namespace(other.as_bytes())
            {
                found.push((distance(ns, other), other.to_owned()));
            }
        });
        found.sort();
        found.truncate(MAX);
        found.into_iter().map(|(_, ns)| ns).collect()
    }
}

impl ServiceEntry {
    /// Returns the labels of the endpoints that are most similar to this one, the most similar first.
    pub fn nearest_endpoints(&self, label: &str, pod_names: bool) -> Vec<String> {
        let rows = self.slices.iter().flat_map(|slice| slice.rows()).take(1_000);
        let labels = rows.map(|row| String::from_utf8_lossy(row.label(pod_names).as_bytes()).into_owned());
        let mut ranked: Vec<(usize, String)> = labels.map(|other| (distance(label, &other), other)).collect();
        ranked.sort();
        ranked.dedup();
        ranked.truncate(MAX);
        ranked.into_iter().map(|(_, label)| label).collect()
    }

    /// Returns the names and protocols of the ports, those most similar to this name first.
    pub fn nearest_ports(&self, name: &str, protocol: &str) -> Vec<(String, String)> {
        let of_service = self.service.iter().flat_map(|service| service.ports.iter());
        let of_slices = self.slices.iter().flat_map(|slice| slice.ports.iter());
        let mut ports: Vec<(usize, String, String)> = of_service
            .chain(of_slices)
            .filter(|port| !port.name.is_empty())
            .map(|port| {
                let far = distance(name, &port.name) + distance(protocol, port.protocol.label());
                (far, port.name.to_string(), port.protocol.label().to_owned())
            })
            .collect();
        ports.sort();
        ports.dedup();
        ports.truncate(MAX);
        ports.into_iter().map(|(_, name, protocol)| (name, protocol)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_labels_are_near() {
        for (a, b, near) in [
            ("wbe", "web", true),
            ("web", "web-svc", true),
            ("frontend", "fronted", true),
            ("db", "dc", true),
            ("api", "web", false),
            ("a", "bcdef", false),
            ("", "web", false),
        ] {
            assert_eq!(is_near(a, b), near, "{a} {b}");
        }
    }
}
