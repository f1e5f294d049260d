//! The reference pages against the code: `docs/directives.md` has every directive and property, with true defaults and
//! ranges and with examples that start; `docs/metrics.md` has every metric.

mod running;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use clusterdns::app::configuration::read_text;
use clusterdns::corefile::{
    Diagnostic, DiagnosticSeverity, Diagnostics, MemoryFiles, RealFiles, parse_duration, parse_text, render_text,
};
use clusterdns::plugins::{self, DIRECTIVES, ReadDirective};
use clusterdns::serve;
use clusterdns::telemetry::metrics::{self, Collected, MetricKind, Observed, Registry, table};
use clusterdns::upstream;
use rcgen::{CertificateParams, KeyPair};

use running::{Running, file, folder};

const DIRECTIVES_PAGE: &str = include_str!("../docs/directives.md");
const METRICS_PAGE: &str = include_str!("../docs/metrics.md");
const DIFFERENCES_PAGE: &str = include_str!("../docs/differences.md");
/// The page `/metrics` of a CoreDNS that has just started.
const COREDNS_METRICS: &str = include_str!("../src/plugins/prometheus/coredns-1.15.0.txt");

/// Examples that are accepted with a warning.
const WARNED: [&str; 1] = ["pprof"];
/// Directives whose `Config` has no value for a default, so that it cannot be compared. These defaults are in `serve`.
const DEFAULTS_IN_SERVE: [&str; 5] = ["quic", "grpc_server", "https", "https3", "timeouts"];

/// Every word that says why there is no answer is explained.
#[test]
fn every_reason_is_explained() {
    // The files that define them.
    let files = [
        "chain/mod.rs",
        "cluster/lookup.rs",
        "explain/cause.rs",
        "plugins/acl.rs",
        "plugins/cache/mod.rs",
        "plugins/cache/stale.rs",
        "plugins/kubernetes/explain.rs",
        "plugins/kubernetes/mod.rs",
        "plugins/kubernetes/no_data.rs",
        "upstream/mod.rs",
    ];
    let page = include_str!("../docs/explain.md");
    let (mut found, mut missing) = (0, Vec::new());
    for file in files {
        let text = std::fs::read_to_string(Path::new("src").join(file)).expect(file);
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let is_reason = |word: &&str| {
            word.contains('-')
                && !word.starts_with('-')
                && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        for word in code.split('"').filter(is_reason) {
            found += 1;
            if !page.contains(&format!("`{word}`")) {
                missing.push(format!("src/{file}: {word}"));
            }
        }
    }
    assert!(found > 50, "{found}");
    assert!(missing.is_empty(), "docs/explain.md explains no {}", missing.join(", "));
}

/// A table of a page.
#[derive(Default)]
struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// A section of the second level.
struct Section {
    title: String,
    /// Everything but fenced blocks.
    text: String,
    tables: Vec<Table>,
    /// Fenced blocks, each with its language.
    fences: Vec<(String, String)>,
}

impl Section {
    /// Returns the rows of the tables whose first column has this name.
    fn rows(&self, first: &str) -> impl Iterator<Item = &Vec<String>> {
        self.tables.iter().filter(move |table| table.header[0] == first).flat_map(|table| &table.rows)
    }

    fn fences(&self, language: &str) -> impl Iterator<Item = &str> {
        self.fences.iter().filter(move |(of, _)| of == language).map(|(_, text)| text.as_str())
    }
}

/// Returns the sections of a page.
fn sections(page: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            let (text, tables, fences) = Default::default();
            sections.push(Section { title: title.to_owned(), text, tables, fences });
            continue;
        }
        let Some(section) = sections.last_mut() else { continue };
        if let Some(language) = line.strip_prefix("```") {
            let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            section.fences.push((language.to_owned(), body.join("\n") + "\n"));
            continue;
        }
        section.text.push_str(line);
        section.text.push('\n');
        if let Some(cells) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")) {
            let cells: Vec<String> = cells.split(" | ").map(|cell| cell.trim().to_owned()).collect();
            match section.tables.last_mut().filter(|table| !table.header.is_empty()) {
                Some(table) => {
                    assert_eq!(cells.len(), table.header.len(), "{}: {line}", section.title);
                    table.rows.push(cells);
                }
                None => section.tables.push(Table { header: cells, rows: Vec::new() }),
            }
        } else if !line.starts_with("|---") {
            // A line without `|` ends the table.
            if section.tables.last().is_some_and(|table| !table.header.is_empty()) {
                section.tables.push(Table::default());
            }
        }
    }
    for section in &mut sections {
        section.tables.retain(|table| !table.header.is_empty());
    }
    sections
}

/// Returns the code spans of a text.
fn spans(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Returns the text of a cell that is one code span.
fn only_span(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`').filter(|text| !text.contains('`'))
}

/// Parses lines of a server block.
fn read(lines: &str) -> (Vec<ReadDirective>, Vec<Diagnostic>) {
    let mut diagnostics = Diagnostics::default();
    let text = format!("example.org {{\n{lines}\n}}\n");
    let corefile = parse_text("Corefile", &text, &MemoryFiles::default(), &plugins::known, &mut diagnostics);
    let settings = corefile
        .blocks
        .iter()
        .flat_map(|block| plugins::read_directives(block, &corefile.sources, &mut diagnostics))
        .collect();
    (settings, diagnostics.iter().cloned().collect())
}

fn errors(lines: &str) -> Vec<String> {
    let (_, diagnostics) = read(lines);
    let errors = diagnostics.into_iter().filter(|found| found.severity == DiagnosticSeverity::Error);
    errors.map(|found| found.message).collect()
}

/// Returns first lines of a directive that together accept all its properties.
fn first_lines(directive: &str) -> Vec<String> {
    let arguments: &[&str] = match directive {
        "forward" | "grpc" => &[" . 192.0.2.53"],
        "dnstap" => &[" /run/dnstap.sock", " listen /run/dnstap.sock"],
        "tls" => &[" certificate key"],
        "bind" => &[" 127.0.0.1"],
        "root" => &[" /"],
        "kubernetes" => &[" cluster.local"],
        "loadbalance" => &["", " weighted /dev/null"],
        "template" => &[" IN A"],
        "view" => &[" office"],
        _ => &[""],
    };
    arguments.iter().map(|arguments| format!("{directive}{arguments}")).collect()
}

/// Returns the properties that the parser names in its error for an unknown one.
fn properties(first_line: &str) -> BTreeSet<String> {
    let (_, diagnostics) = read(&format!("{first_line} {{\n no-such-property\n}}"));
    let named = diagnostics.iter().find(|found| found.message.contains("'no-such-property'"));
    let Some(expected) = named.and_then(|found| found.expected.as_deref()) else { return BTreeSet::new() };
    match expected.split_once("one of ") {
        Some((_, names)) => names.split(", ").map(str::to_owned).collect(),
        None => expected.split('\'').skip(1).step_by(2).map(str::to_owned).collect(),
    }
}

/// A property of a table, or an argument.
struct Row<'a> {
    spec: &'a str,
    default: &'a str,
    values: &'a str,
}

impl Row<'_> {
    fn of(cells: &[String]) -> Row<'_> {
        let [spec, default, values, meaning] = cells else { panic!("not four columns: {cells:?}") };
        assert!(!meaning.is_empty(), "{cells:?}");
        Row { spec: only_span(spec).unwrap_or_else(|| panic!("no code span: {spec}")), default, values }
    }

    fn name(&self) -> &str {
        self.spec.split(' ').next().expect("a word")
    }
}

/// Returns the sections about directives, without the introduction of the page.
fn directives() -> Vec<Section> {
    let mut sections = sections(DIRECTIVES_PAGE);
    let first = sections.iter().position(|section| section.title == DIRECTIVES[0].name).expect("the first directive");
    sections.split_off(first)
}

#[test]
fn every_directive_has_its_section_in_the_order_of_the_table() {
    let titles: Vec<String> = directives().into_iter().map(|section| section.title).collect();
    let names: Vec<&str> = DIRECTIVES.iter().map(|entry| entry.name).collect();
    assert_eq!(titles, names);
    for (section, entry) in directives().iter().zip(DIRECTIVES) {
        let syntax = section.fences("text").count();
        let examples = section.fences("corefile").count();
        let is_marked = section.text.contains("**Not implemented.**");
        match entry.read {
            Some(_) => assert!(!is_marked && syntax > 0 && examples > 0, "{}", entry.name),
            None => assert!(is_marked && syntax + examples == 0, "{} is not implemented", entry.name),
        }
        assert_eq!(entry.once, section.text.contains("Once") && entry.name != "metadata", "{}: once", entry.name);
    }
}

#[test]
fn properties_are_those_that_the_parser_accepts() {
    for section in directives().iter().filter(|section| section.fences("text").count() > 0) {
        let name = &section.title;
        let documented: BTreeSet<String> =
            section.rows("property").map(|cells| Row::of(cells).name().to_owned()).collect();
        let first_lines = first_lines(name);
        let accepted: BTreeSet<String> = first_lines.iter().flat_map(|line| properties(line)).collect();
        assert_eq!(documented, accepted, "{name}: documented, and named by the parser");
        for property in &documented {
            let refused = |first_line: &&String| {
                let lines = format!("{first_line} {{\n {property}\n}}");
                errors(&lines).contains(&format!("unknown property '{property}'"))
            };
            assert_ne!(first_lines.iter().filter(refused).count(), first_lines.len(), "{name}: {property}");
        }
        // The syntax has the same properties; words in capitals are placeholders.
        let syntax = section.fences("text").next().expect("the syntax");
        let inner = syntax.lines().filter_map(|line| line.strip_prefix("    ")?.split(' ').next());
        let inner: BTreeSet<String> =
            inner.filter(|word| word.starts_with(char::is_lowercase)).map(str::to_owned).collect();
        assert_eq!(inner, documented, "{name}: in its syntax, and documented");
    }
}

#[test]
fn defaults_are_those_of_the_code() {
    let mut compared = 0;
    for section in directives().iter().filter(|section| section.fences("text").count() > 0) {
        let name = section.title.as_str();
        if DEFAULTS_IN_SERVE.contains(&name) {
            continue;
        }
        let mut compare = |plain: &str, with_default: &str| {
            let (default, _) = read(plain);
            let (set, _) = read(with_default);
            assert_eq!(errors(with_default), [""; 0], "{with_default}");
            assert_eq!(set, default, "{with_default}");
            compared += 1;
        };
        for row in section.rows("property").map(|cells| Row::of(cells)) {
            let Some(default) = only_span(row.default) else { continue };
            for first_line in first_lines(name) {
                if properties(&first_line).contains(row.name()) {
                    compare(&first_line, &format!("{first_line} {{\n {} {default}\n}}", row.name()));
                }
            }
        }
        let mut line = name.to_owned();
        for row in section.rows("argument").map(|cells| Row::of(cells)) {
            // After an argument without a default, no default can be compared.
            let Some(default) = only_span(row.default) else { break };
            line = format!("{line} {default}");
            compare(name, &line);
        }
    }
    assert!(compared > 35, "{compared}");
    let default_of = |directive: &str, property: &str| {
        let sections = directives();
        let section = sections.iter().find(|section| section.title == directive).expect("a section");
        let row = section.rows("property").map(|cells| Row::of(cells)).find(|row| row.name() == property);
        only_span(row.expect("a property").default).expect("a default").to_owned()
    };
    let serve::Settings { timeouts, connections, streams, queries_per_connection, .. } = serve::Settings::DEFAULT;
    for (property, time) in [("read", timeouts.read), ("write", timeouts.write), ("idle", timeouts.idle)] {
        let nanoseconds = parse_duration(&default_of("timeouts", property)).expect("a duration");
        assert_eq!(u128::try_from(nanoseconds), Ok(time.as_nanos()), "{property}");
    }
    assert_eq!((default_of("timeouts", "maxtcpqueries").as_str(), queries_per_connection), ("-1", None));
    assert_eq!(Some(default_of("https", "max_streams")), streams.map(|streams| streams.to_string()));
    for directive in ["https", "https3", "quic", "grpc_server"] {
        assert_eq!(default_of(directive, "max_connections"), connections.to_string());
    }
}

/// The values of a cell, as far as a test can try them.
enum Values {
    /// Accepted values, and refused ones.
    Try(Vec<String>, Vec<String>),
    /// Text that cannot be tried.
    Text,
}

impl Values {
    fn of(cell: &str) -> Values {
        let spans = spans(cell);
        let between: Vec<&str> = cell.split('`').step_by(2).collect();
        match (&spans[..], &between[..]) {
            ([low, high], ["", " to ", ""]) => {
                Values::Try(vec![(*low).to_owned(), (*high).to_owned()], vec![moved(low, -1), moved(high, 1)])
            }
            ([low], ["", " or more"]) => Values::Try(vec![(*low).to_owned()], vec![moved(low, -1)]),
            ([_, ..], ["", middle @ .., ""]) if middle.iter().all(|text| [", ", " or "].contains(text)) => {
                Values::Try(spans.iter().map(|value| (*value).to_owned()).collect(), vec!["no-such-value".to_owned()])
            }
            _ => Values::Text,
        }
    }
}

/// Returns the next number or duration.
fn moved(value: &str, by: i64) -> String {
    match value.parse::<i64>() {
        Ok(number) => (number + by).to_string(),
        Err(_) => format!("{}ns", parse_duration(value).expect("a number or a duration") + by),
    }
}

#[test]
fn ranges_and_choices_are_those_of_the_code() {
    let mut tried = 0;
    for section in directives().iter().filter(|section| section.fences("text").count() > 0) {
        let name = section.title.as_str();
        let mut check = |line_of: &dyn Fn(&str) -> String, values: &str| {
            let Values::Try(accepted, refused) = Values::of(values) else { return };
            for value in accepted {
                assert_eq!(errors(&line_of(&value)), [""; 0], "{}", line_of(&value));
            }
            for value in refused {
                assert!(!errors(&line_of(&value)).is_empty(), "accepted: {}", line_of(&value));
            }
            tried += 1;
        };
        for row in section.rows("property").map(|cells| Row::of(cells)) {
            let first_line = first_lines(name).into_iter().find(|line| properties(line).contains(row.name()));
            let first_line = first_line.expect("one that accepts the property");
            check(&|value| format!("{first_line} {{\n {} {value}\n}}", row.name()), row.values);
        }
        let mut line = name.to_owned();
        for row in section.rows("argument").map(|cells| Row::of(cells)) {
            check(&|value| format!("{line} {value}"), row.values);
            let Some(default) = only_span(row.default) else { break };
            line = format!("{line} {default}");
        }
    }
    assert!(tried > 25, "{tried}");
    assert!(matches!(Values::of("0s, or `1s` and more"), Values::Text));
}

/// Returns the examples of a page, each with the title of its section.
fn examples(page: &str) -> Vec<(String, String)> {
    let sections = sections(page).into_iter();
    sections
        .flat_map(|section| {
            let title = section.title.clone();
            section.fences("corefile").map(|text| (title.clone(), text.to_owned())).collect::<Vec<_>>()
        })
        .collect()
}

/// Returns an example with the files of this test, and with free ports instead of its own.
fn on_loopback(example: &str, folder: &Path) -> String {
    let mut text = String::new();
    for line in example.replace("/etc/clusterdns", &folder.display().to_string()).lines() {
        let moved = match line.strip_suffix(" {").filter(|line| !line.starts_with(' ')) {
            Some(keys) => {
                let key = |key: &str| match key.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()) {
                    Some((zone, _)) => format!("{zone}:0"),
                    None => format!("{key}:0"),
                };
                format!("{} {{", keys.split(' ').map(key).collect::<Vec<_>>().join(" "))
            }
            None => [" :8080", " :8181", " :9153"]
                .iter()
                .fold(line.to_owned(), |line, port| line.replace(port, " 127.0.0.1:0")),
        };
        text.push_str(&moved);
        text.push('\n');
    }
    // `Running::start` needs a start-up line of the root zone.
    if !text.lines().any(|line| line == ".:0 {") {
        text.push_str(".:0 {\n    whoami\n}\n");
    }
    text
}

#[test]
fn examples_start_without_a_warning() {
    let folder = folder("reference");
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(["dns.example".to_owned()]).expect("a name").self_signed(&key);
    let certificate = certificate.expect("a certificate").pem();
    file(&folder, "tls.crt", &certificate);
    file(&folder, "ca.crt", &certificate);
    file(&folder, "tls.key", &key.serialize_pem());
    file(&folder, "hosts", "192.0.2.9 www.example.org\n");
    let database = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/geoip/city.mmdb");
    std::fs::copy(database, folder.join("city.mmdb")).expect("a copy");
    file(&folder, "weights", "www.example.org\n192.0.2.9 3\n");
    let examples = examples(DIRECTIVES_PAGE);
    assert!(examples.len() >= DIRECTIVES.iter().filter(|entry| entry.read.is_some()).count());
    for (number, (title, example)) in examples.iter().enumerate() {
        let text = on_loopback(example, &folder);
        let has_it = |line: &str| line.trim_start().split(' ').next() == Some(title);
        assert!(!DIRECTIVES.iter().any(|entry| entry.name == title) || example.lines().any(has_it), "{title}");
        let mut diagnostics = Diagnostics::default();
        let configuration = read_text("Corefile", &text, 0, &RealFiles, &mut diagnostics);
        let shown = render_text(&diagnostics, &configuration.corefile.sources);
        assert!(diagnostics.is_empty() || WARNED.contains(&title.as_str()), "{title}: {shown}");
        assert!(!diagnostics.has_errors(), "{title}: {shown}");
        let conf = file(&folder, &format!("Corefile-{number}"), &text);
        // Panics if the program does not start.
        Running::start(&["-conf", &conf, "-manifests", "deploy/sample"]);
    }
}

/// A row of docs/differences.md that names a directive is in the list of the directive's section. Each row has a number
/// of its own.
#[test]
fn sections_list_the_differences_of_their_directive() {
    let mut numbers = BTreeSet::new();
    let sections = sections(DIFFERENCES_PAGE);
    let directives = directives();
    for cells in sections.iter().flat_map(|section| section.rows("#")) {
        let (number, subject) = (&cells[0], &cells[1]);
        assert!(numbers.insert(number.clone()), "two rows have the number {number}");
        for section in directives.iter().filter(|section| subject.contains(&format!("*{}*", section.title))) {
            let text = section.text.replace('\n', " ");
            let links = text.split("](differences.md)").collect::<Vec<_>>();
            let lists = links[..links.len() - 1].iter().filter_map(|before| before.rsplit('[').next());
            let is_listed = lists.flat_map(|list| list.split(", ")).any(|listed| listed == number);
            assert!(is_listed, "docs/directives.md, {}: its list lacks {number}: {subject}", section.title);
        }
    }
}

#[test]
fn references_of_the_pages_resolve() {
    let numbers: BTreeSet<&str> = sections(DIFFERENCES_PAGE)
        .iter()
        .flat_map(|section| section.rows("#").map(|cells| cells[0].clone()))
        .map(|number| &*number.leak())
        .collect();
    assert!(numbers.len() > 50, "{numbers:?}");
    for page in [DIRECTIVES_PAGE, METRICS_PAGE] {
        for (at, link) in page.match_indices("](differences.md)") {
            let label = page[..at].rsplit('[').next().expect("a label");
            let after: String =
                page[at + link.len()..].chars().take_while(|c| c.is_ascii_digit() || " ,\n".contains(*c)).collect();
            let listed = if label.starts_with(|c: char| c.is_ascii_digit()) { label.to_owned() } else { after };
            for number in listed.split([',', ' ', '\n']).filter(|number| !number.is_empty()) {
                assert!(numbers.contains(number), "docs/differences.md has no {number}");
            }
        }
    }
    let names: Vec<&str> = table::ALL.iter().map(|metric| metric.name).collect();
    for name in spans(DIRECTIVES_PAGE) {
        if name.starts_with("coredns_") || name.starts_with("clusterdns_") {
            assert!(names.contains(&name), "there is no metric {name}");
        }
    }
}

/// Returns type and labels of each metric of the program.
fn shown_metrics() -> BTreeMap<String, (String, Vec<String>)> {
    let kind = |kind: &MetricKind| match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram(_) => "histogram",
    };
    let mut all: BTreeMap<String, (String, Vec<String>)> = table::ALL
        .iter()
        .map(|metric| {
            let labels = metric.labels.iter().map(|label| (*label).to_owned()).collect();
            (metric.name.to_owned(), (kind(&metric.kind).to_owned(), labels))
        })
        .collect();
    // Some metrics of the process are not in the table.
    let process = metrics::text(&metrics::registry("1", ""));
    for (name, kind) in types(&process).filter(|(name, _)| name.starts_with("process_")) {
        all.entry(name.to_owned()).or_insert((kind.to_owned(), Vec::new()));
    }
    all
}

/// Returns name and type of the lines `# TYPE NAME TYPE`.
fn types(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
}

#[test]
fn metrics_are_those_of_the_program() {
    let page = sections(METRICS_PAGE);
    let rows: Vec<&Vec<String>> = page.iter().flat_map(|section| section.rows("metric")).collect();
    let mut documented = BTreeMap::new();
    for cells in &rows {
        let [name, kind, labels, coredns, meaning] = &cells[..] else { panic!("not five columns: {cells:?}") };
        let name = only_span(name).expect("a code span").to_owned();
        let labels: Vec<String> = spans(labels).into_iter().map(str::to_owned).collect();
        assert!(!meaning.is_empty(), "{name}");
        let has_it = types(COREDNS_METRICS).any(|(of, _)| of == name);
        match coredns.as_str() {
            "yes" => assert!(!name.starts_with("clusterdns_"), "{name}"),
            "no" => assert!(!name.starts_with("coredns_") && !has_it, "{name}"),
            "until 1.10" => assert!(name.starts_with("coredns_forward_") && !has_it, "{name}"),
            other => panic!("{name}: {other}"),
        }
        assert!(documented.insert(name, (kind.clone(), labels)).is_none(), "{cells:?} is there twice");
    }
    assert_eq!(documented, shown_metrics());
    for (name, kind) in types(COREDNS_METRICS) {
        assert_eq!(documented.get(name).map(|(of, _)| of.as_str()), Some(kind), "{name}");
    }
}

/// Returns the string literals of a source file between two texts.
fn literals<'a>(source: &'a str, from: &str, to: &str) -> BTreeSet<&'a str> {
    let (_, rest) = source.split_once(from).unwrap_or_else(|| panic!("no '{from}'"));
    let (part, _) = rest.split_once(to).unwrap_or_else(|| panic!("no '{to}' behind '{from}'"));
    part.split('"').skip(1).step_by(2).collect()
}

#[test]
fn reasons_are_those_of_the_code() {
    let page = sections(METRICS_PAGE);
    let section = page.iter().find(|section| section.title == "Reasons").expect("a section");
    let documented: Vec<BTreeSet<&str>> = section
        .tables
        .iter()
        .map(|table| table.rows.iter().flat_map(|cells| spans(&cells[0])).collect::<BTreeSet<_>>())
        .collect();
    let [relists, errors, shed, dropped] = &documented[..] else { panic!("not four tables") };
    let mut reasons = literals(include_str!("../src/source/watch/schedule.rs"), "match self {", "}");
    // The first list is not counted as a relist.
    reasons.remove("start");
    assert_eq!(*relists, reasons);
    let source = include_str!("../src/source/watch/error.rs");
    assert_eq!(*errors, literals(source, "pub fn reason(&self)", "/// Returns the status code"));
    let counts = Arc::new(upstream::Metrics::default());
    let registry = Registry::new();
    let read = counts.clone();
    metrics::register(&registry, Observed::new(upstream::Metrics::METRICS, move || read.families()));
    let text = metrics::text(&registry);
    let reason = |line: &'static str| line.split_once("reason=\"")?.1.split('"').next();
    let lines = text.leak().lines().filter(|line| line.starts_with("clusterdns_forward_shed_total{"));
    assert_eq!(*shed, lines.filter_map(reason).collect());
    let source = include_str!("../src/upstream/metrics.rs");
    let in_code =
        source.lines().filter_map(|line| line.trim().strip_prefix("add(&mut dropped, &[\"")?.split('"').next());
    assert_eq!(*dropped, in_code.collect());
}
