//! A question of `clusterdns top` and its answer: what goes through the local socket, and its forms for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::explain::printable;
use crate::telemetry::top::{TopBy, TopRow, TopWindow};

/// The most rows of a list.
pub(crate) const MAX_ROWS: usize = 200;
/// The widest key of a table, in characters; longer ones push the columns of their line.
const WIDEST_KEY: usize = 60;

/// What the user wants to see.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct TopAsk {
    /// The window.
    pub window: TopWindow,
    /// The only dimension.
    pub by: Option<TopBy>,
    /// The number of rows of a list.
    pub number: usize,
}

/// Parses a number of rows within its limit.
pub(crate) fn parse_rows(text: &str) -> Option<usize> {
    text.parse().ok().filter(|number| (1..=MAX_ROWS).contains(number))
}

impl TopAsk {
    /// Returns the question with a number of rows within its limit.
    pub(crate) fn limited(self) -> TopAsk {
        TopAsk { number: self.number.min(MAX_ROWS), ..self }
    }
}

/// The most frequent keys of a window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TopReport {
    /// The window.
    pub window: TopWindow,
    /// The time that it covers, in seconds.
    pub seconds: f64,
    /// The number of queries.
    pub queries: u64,
    /// The number of queries since the start that are missing in all counts, because a buffer was full.
    pub missed: u64,
    /// One query in this number is counted now.
    pub one_in: u32,
    /// Pods are watched, so that clients can have one.
    pub has_pods: bool,
    /// The rows of each dimension.
    pub lists: BTreeMap<TopBy, Vec<TopRow>>,
}

impl TopReport {
    /// Returns the report as JSON.
    pub(crate) fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Returns the report as tables.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.headline());
        for (by, rows) in &self.lists {
            // A list that is empty as in most servers is left out, unless the user wants to see it.
            if rows.is_empty() && self.lists.len() > 1 {
                continue;
            }
            let _ = write!(text, "\n{}", table(*by, rows, self.has_pods));
        }
        text
    }

    /// Returns the line about all queries.
    pub(crate) fn headline(&self) -> String {
        let seconds = self.seconds.max(1.0);
        let mut line = format!(
            "last {} ({seconds:.0} s): {} queries, {:.1} a second",
            self.window.name(),
            self.queries,
            self.queries as f64 / seconds
        );
        if self.one_in > 1 {
            let _ = write!(line, "; estimated from one query in {}", self.one_in);
        }
        line
    }
}

/// Returns a table of rows.
fn table(by: TopBy, rows: &[TopRow], has_pods: bool) -> String {
    let title = by.name().to_uppercase();
    if rows.is_empty() {
        let is_of_pods = matches!(by, TopBy::Pod | TopBy::Namespace);
        let why = match is_of_pods && !has_pods {
            true => "no Pod is known: this server watches Pods with 'pods verified' or 'autopath @kubernetes' only",
            false => "none",
        };
        return format!("{title}\n{why}\n");
    }
    let width = rows.iter().map(|row| row.key.chars().count()).max().unwrap_or(0).clamp(title.len(), WIDEST_KEY);
    let mut text = format!("{title:<width$}  {:>10}  {:>7}  {:>9}", "QUERIES", "SHARE", "PER S");
    let has_pods = rows.iter().any(|row| row.pod.is_some());
    text.push_str(if has_pods { "  POD\n" } else { "\n" });
    for TopRow { key, pod, queries, share, per_second, .. } in rows {
        let key = printable(key);
        let _ = write!(text, "{key:<width$}  {queries:>10}  {:>5.1} %  {per_second:>9.1}", share * 100.0);
        let _ = writeln!(text, "{}", pod.as_ref().map(|pod| format!("  {}", printable(pod))).unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, pod: Option<&str>, queries: u64) -> TopRow {
        let (share, per_second) = (queries as f64 / 200.0, queries as f64 / 60.0);
        TopRow { key: key.to_owned(), pod: pod.map(str::to_owned), queries, missed: 0, share, per_second }
    }

    #[test]
    fn reports_are_tables() {
        let lists = [
            (TopBy::Client, vec![row("10.0.0.1", Some("shop/web-1"), 150), row("192.0.2.17", None, 50)]),
            (TopBy::Reason, Vec::new()),
            (TopBy::Rcode, vec![row("NOERROR", None, 200)]),
        ];
        let mut report = TopReport {
            window: TopWindow::Minute,
            seconds: 60.0,
            queries: 200,
            missed: 0,
            one_in: 1,
            has_pods: false,
            lists: lists.into(),
        };
        let text = "last minute (60 s): 200 queries, 3.3 a second\n\n\
                    CLIENT         QUERIES    SHARE      PER S  POD\n\
                    10.0.0.1           150   75.0 %        2.5  shop/web-1\n\
                    192.0.2.17          50   25.0 %        0.8\n\n\
                    RCODE       QUERIES    SHARE      PER S\n\
                    NOERROR         200  100.0 %        3.3\n";
        assert_eq!(report.to_text(), text);
        report.lists = [(TopBy::Pod, Vec::new())].into();
        report.one_in = 4;
        let text = report.to_text();
        assert!(text.contains("3.3 a second; estimated from one query in 4\n\nPOD\nno Pod is known: "), "{text}");
    }
}
