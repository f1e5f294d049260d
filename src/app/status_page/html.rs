//! The page as HTML: no script, nothing from other addresses, light and dark, also for narrow screens. Every text is
//! escaped, since names come from clients.

use std::fmt::{self, Write as _};

use super::status::{CacheStatus, KindStatus, ServerStatus, UpstreamStatus};
use crate::explain::is_unprintable;
use crate::telemetry::top::{TopBy, TopRow};

/// What other visitors see in place of names, clients and errors; a command follows.
const HIDDEN: &str = "<section class=\"wide\"><p class=\"dim\">Names, clients and errors are shown to visitors on the \
                      server's own address only: ";
/// The usual port of this page, if the listener has another one each time.
const USUAL_PORT: u16 = 9153;
/// The rows of the lists of names and clients.
pub(super) const ROWS: usize = 10;

const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
:root { --text: #1c2128; --dim: #59636e; --back: #f6f8fa; --card: #fff; --line: #d1d9e0; --link: #0858b8; --good: #116329;
  --bad: #b3202a; --bar: #dbe9fb }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --dim: #9aa5b1; --back: #0d1117; --card: #161b22;
  --line: #30363d; --link: #6cb0ff; --good: #56d364; --bad: #ff7b72; --bar: #1d3350 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; color: var(--text); background: var(--back);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1rem; margin: 0 0 .5rem }
a { color: var(--link) } nav a { margin-right: 1rem } nav { margin: .5rem 0 1rem }
.dim { color: var(--dim) } .good { color: var(--good) } .bad { color: var(--bad) }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 1rem }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; min-width: 0 }
.wide { grid-column: 1 / -1 }
table { width: 100%; border-collapse: collapse; font-size: .9rem }
th { text-align: left; font-weight: 600; color: var(--dim) } th, td { padding: .25rem .6rem .25rem 0; vertical-align: top }
tr + tr td, thead + tbody td { border-top: 1px solid var(--line) }
th:last-child, td:last-child { padding-right: 0 }
.n { width: 1%; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.w { overflow-wrap: anywhere } .t { width: 1%; white-space: nowrap }
.bar { display: block; height: 4px; border-radius: 2px; background: var(--line); margin-top: .2rem; max-width: 12rem }
.bar span { display: block; height: 100%; border-radius: 2px; background: var(--link) }
p { margin: .3rem 0 } ul { margin: 0; padding-left: 1.1rem }
@media (max-width: 30rem) { body { padding: .6rem } section { padding: .6rem .7rem } .m { display: none } }
</style>
"#;

/// Writes a text so that it means itself in HTML, also within quotes.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // Control characters are not allowed in HTML.
                c if is_unprintable(c) => write!(f, "{}", c.escape_default())?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Returns the page.
pub(super) fn page(status: &ServerStatus) -> String {
    let mut text = String::with_capacity(16 * 1024);
    // Writing to a `String` cannot fail.
    let _ = write(&mut text, status);
    text
}

fn write(out: &mut String, status: &ServerStatus) -> fmt::Result {
    let (host, version) = (Escaped(&status.host), Escaped(&status.version));
    write!(out, "{HEAD}<title>{host} · {version}</title>\n</head>\n<body>\n<header>\n<h1>{version}</h1>\n")?;
    let class = if status.phase == "serving" { "good" } else { "bad" };
    write!(out, "<p><b class=\"{class}\">{}</b> on {host}", status.phase)?;
    write!(out, " for {} <span class=\"dim\">since {}", Escaped(&status.up_for), Escaped(&status.up_since))?;
    write!(out, " · {}", Escaped(&status.platform))?;
    if !status.commit.is_empty() {
        write!(out, " · commit {}", Escaped(&status.commit))?;
    }
    out.push_str("</span></p>\n<nav>");
    for path in &status.pages {
        write!(out, "<a href=\"{0}\">{0}</a>", Escaped(path))?;
    }
    out.push_str("</nav>\n");
    elsewhere(out, status)?;
    out.push_str("</header>\n<main>\n");
    if let Some(top) = &status.top {
        write!(out, "<section class=\"wide\"><h2>Queries</h2>\n<p>{}</p>\n", Escaped(&top.headline()))?;
        out.push_str("<p class=\"dim\">");
        let of = |by: TopBy| top.lists.get(&by).into_iter().flatten().take(6);
        let parts = of(TopBy::Rcode).chain(of(TopBy::Reason));
        let parts: Vec<String> = parts.map(|row| format!("{} {:.1} %", Escaped(&row.key), row.share * 100.0)).collect();
        writeln!(out, "{}</p></section>", parts.join(" · "))?;
        for (by, title) in [(TopBy::Name, "Names of the last minute"), (TopBy::Client, "Clients of the last minute")] {
            list(out, title, top.lists.get(&by).map_or(&[], Vec::as_slice))?;
        }
    }
    listeners(out, &status.listeners)?;
    kinds(out, &status.kinds)?;
    upstreams(out, &status.upstreams)?;
    cache(out, status.cache.as_ref())?;
    if status.is_local {
        errors(out, &status.errors)?;
    } else {
        let port = if status.port == 0 { USUAL_PORT } else { status.port };
        writeln!(out, "{HIDDEN}{}</p></section>", port_forward(&[port]))?;
    }
    out.push_str("</main>\n</body>\n</html>\n");
    Ok(())
}

/// Writes where the pages of other listeners are. They are no links: a forwarded port does not lead to them.
fn elsewhere(out: &mut String, status: &ServerStatus) -> fmt::Result {
    if status.pages_elsewhere.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> =
        status.pages_elsewhere.iter().map(|page| format!("<code>{}</code>", Escaped(page))).collect();
    write!(out, "<p class=\"dim w\">At other ports: {}", shown.join(" "))?;
    if !status.ports_elsewhere.is_empty() {
        write!(out, " · {}", port_forward(&status.ports_elsewhere))?;
    }
    out.push_str("</p>\n");
    Ok(())
}

/// Returns the command that makes ports of this Pod reachable.
fn port_forward(ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    format!("<code>kubectl port-forward -n kube-system deploy/coredns {}</code>", ports.join(" "))
}

/// Writes the start of a section. Returns whether it has rows; if not, it is complete.
fn section(out: &mut String, title: &str, is_empty: bool, instead: &str) -> Result<bool, fmt::Error> {
    writeln!(out, "<section><h2>{title}</h2>")?;
    if is_empty {
        writeln!(out, "<p class=\"dim\">{instead}</p></section>")?;
    }
    Ok(!is_empty)
}

fn list(out: &mut String, title: &str, rows: &[TopRow]) -> fmt::Result {
    if !section(out, title, rows.is_empty(), "none")? {
        return Ok(());
    }
    out.push_str("<table><tbody>\n");
    for row in rows.iter().take(ROWS) {
        write!(out, "<tr><td class=\"w\">{}", Escaped(&row.key))?;
        if let Some(pod) = &row.pod {
            write!(out, " <span class=\"dim\">{}</span>", Escaped(pod))?;
        }
        let percent = (row.share * 100.0).clamp(0.0, 100.0);
        write!(out, "<span class=\"bar\"><span style=\"width:{percent:.1}%\"></span></span></td>")?;
        writeln!(out, "<td class=\"n\">{}</td><td class=\"n\">{percent:.1} %</td></tr>", row.queries)?;
    }
    out.push_str("</tbody></table></section>\n");
    Ok(())
}

fn listeners(out: &mut String, listeners: &[(String, Vec<String>)]) -> fmt::Result {
    if section(out, "Listeners and zones", listeners.is_empty(), "not open yet")? {
        out.push_str("<table><tbody>\n");
        for (listener, zones) in listeners {
            write!(out, "<tr><td class=\"t\">{}</td><td class=\"w\">", Escaped(listener))?;
            // A Corefile can have thousands of zones.
            const MOST: usize = 50;
            let shown: Vec<String> = zones.iter().take(MOST).map(|zone| Escaped(zone).to_string()).collect();
            out.push_str(&shown.join(" "));
            if zones.len() > MOST {
                write!(out, " <span class=\"dim\">and {} more</span>", zones.len() - MOST)?;
            }
            out.push_str("</td></tr>\n");
        }
        out.push_str("</tbody></table></section>\n");
    }
    Ok(())
}

fn kinds(out: &mut String, kinds: &[KindStatus]) -> fmt::Result {
    if section(out, "Kubernetes", kinds.is_empty(), "no server block has <i>kubernetes</i>")? {
        out.push_str("<table><thead><tr><th>Kind</th><th>State</th><th class=\"n\">Objects</th>");
        out.push_str("<th class=\"n\">Last seen</th></tr></thead><tbody>\n");
        for KindStatus { kind, is_synced, objects, seen } in kinds {
            let (class, state) = if *is_synced { ("good", "synced") } else { ("bad", "not synced") };
            let objects = objects.map_or_else(|| "–".to_owned(), |number| number.to_string());
            let seen = seen.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.0} s ago"));
            write!(out, "<tr><td>{kind}</td><td class=\"{class}\">{state}</td>")?;
            writeln!(out, "<td class=\"n\">{objects}</td><td class=\"n\">{seen}</td></tr>")?;
        }
        out.push_str("</tbody></table></section>\n");
    }
    Ok(())
}

fn upstreams(out: &mut String, upstreams: &[UpstreamStatus]) -> fmt::Result {
    if section(out, "Upstreams", upstreams.is_empty(), "none")? {
        out.push_str("<table><thead><tr><th>Upstream</th><th>Health</th><th class=\"n\">Answers</th>");
        out.push_str(
            "<th class=\"n\">Mean</th><th class=\"n m\">99 %</th><th class=\"n m\">SERVFAIL</th></tr></thead><tbody>\n",
        );
        for upstream in upstreams {
            let health = match upstream.fails {
                0 => "<td class=\"good\">healthy".to_owned(),
                fails => format!("<td class=\"bad\">failing: {fails}"),
            };
            write!(out, "<tr><td class=\"w\">{}</td>{health}", Escaped(&upstream.address))?;
            if upstream.failed_checks > 0 {
                write!(out, " <span class=\"dim m\">{} failed checks</span>", upstream.failed_checks)?;
            }
            let time = |time: Option<f64>, sign: &str| match time {
                Some(time) if time.is_finite() => format!("{sign}{time:.1} ms"),
                Some(_) => "&gt; 8.2 s".to_owned(),
                None => "–".to_owned(),
            };
            write!(out, "</td><td class=\"n\">{}</td>", upstream.answers)?;
            write!(out, "<td class=\"n\">{}</td>", time(upstream.mean, ""))?;
            write!(out, "<td class=\"n m\">{}</td>", time(upstream.p99, "≤ "))?;
            writeln!(out, "<td class=\"n m\">{}</td></tr>", upstream.failures)?;
        }
        out.push_str("</tbody></table></section>\n");
    }
    Ok(())
}

fn cache(out: &mut String, cache: Option<&CacheStatus>) -> fmt::Result {
    if section(out, "Cache", cache.is_none(), "no server block has <i>cache</i>")?
        && let Some(CacheStatus { entries, requests, hits }) = cache
    {
        let ratio = *hits as f64 * 100.0 / (*requests).max(1) as f64;
        writeln!(
            out,
            "<p><b>{ratio:.1} %</b> of {requests} queries were answered from {entries} entries</p></section>"
        )?;
    }
    Ok(())
}

fn errors(out: &mut String, errors: &[[String; 3]]) -> fmt::Result {
    out.push_str("<section class=\"wide\"><h2>Last errors and warnings</h2>\n");
    if errors.is_empty() {
        out.push_str("<p class=\"dim\">none since the start</p>");
    } else {
        out.push_str("<table><tbody>\n");
        for [time, level, text] in errors {
            write!(out, "<tr><td class=\"t dim m\">{}</td>", Escaped(time))?;
            writeln!(out, "<td class=\"t m\">{}</td><td class=\"w\">{}</td></tr>", Escaped(level), Escaped(text))?;
        }
        out.push_str("</tbody></table>");
    }
    out.push_str("</section>\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::top::TopReport;
    use crate::telemetry::top::TopWindow;

    const ATTACK: &str = "<script>alert('1')</script>\"&\u{202e}\n";

    /// Whatever text comes from the network, the page has no element, attribute or entity of it.
    #[test]
    fn every_text_is_escaped() {
        let attack = || ATTACK.to_owned();
        let row = TopRow { key: attack(), pod: Some(attack()), queries: 1, missed: 0, share: 2.0, per_second: 1.0 };
        let lists = TopBy::ALL.map(|by| (by, vec![row.clone()]));
        let status = ServerStatus {
            version: attack(),
            commit: attack(),
            platform: attack(),
            host: attack(),
            up_since: attack(),
            up_for: attack(),
            phase: "serving",
            listeners: vec![(attack(), vec![attack()])],
            kinds: vec![KindStatus { kind: "Pod", is_synced: false, objects: Some(3), seen: Some(1.0) }],
            upstreams: vec![UpstreamStatus {
                address: attack(),
                fails: 1,
                failed_checks: 2,
                answers: 1,
                failures: 0,
                mean: Some(1.0),
                p99: Some(f64::INFINITY),
            }],
            cache: Some(CacheStatus { entries: 1, requests: 0, hits: 0 }),
            top: Some(TopReport {
                window: TopWindow::Minute,
                seconds: 1.0,
                queries: 1,
                missed: 0,
                one_in: 1,
                has_pods: true,
                lists: lists.into(),
            }),
            is_local: true,
            errors: vec![[attack(), attack(), attack()]],
            pages: vec!["/metrics"],
            pages_elsewhere: vec![attack()],
            port: 9153,
            ports_elsewhere: vec![8080, 8181],
        };
        let page = page(&status);
        assert!(!page.contains("<script") && !page.contains("\u{202e}") && !page.contains("alert('"), "{page}");
        let escaped = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot;&amp;\\u{202e}\\n";
        // Host and version also in the title, keys of six lists, the Pod of two; reasons and codes in one.
        assert!(page.matches(escaped).count() >= 15, "{page}");
        assert_eq!(page.matches("alert").count(), page.matches(escaped).count());
        // No resource of another address.
        assert!(!page.contains("src=") && !page.contains("url(") && !page.contains("http:"), "{page}");
        assert_eq!(page.matches("<section").count(), page.matches("</section>").count());
        assert_eq!(page.matches("<table>").count(), page.matches("</table>").count());
        assert_eq!(page.matches("<a ").count(), 1, "{page}");
        assert!(page.contains("<code>kubectl port-forward -n kube-system deploy/coredns 8080 8181</code>"), "{page}");
    }

    #[test]
    fn a_server_that_has_just_started_has_a_page() {
        let page = page(&ServerStatus { phase: "starting", ..ServerStatus::default() });
        for text in ["<b class=\"bad\">starting</b>", "not open yet", "no server block has <i>kubernetes</i>"] {
            assert!(page.contains(text), "{text} in {page}");
        }
        // What clients look up is no concern of other Pods.
        assert!(
            page.contains(HIDDEN) && page.contains("deploy/coredns 9153<") && !page.contains("Last errors"),
            "{page}"
        );
        assert!(!page.contains("other ports"), "{page}");
        let local = super::page(&ServerStatus { is_local: true, ..ServerStatus::default() });
        assert!(local.contains("none since the start") && !local.contains(HIDDEN), "{local}");
    }
}
