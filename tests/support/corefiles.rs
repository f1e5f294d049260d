//! What holds for every text as a Corefile.

use clusterdns::corefile::{
    Corefile, Diagnostics, Known, Listen, MemoryFiles, check_keys, is_domain_name, parse_text, render_json,
    render_text, suggest,
};

/// Names that count as directives.
const DIRECTIVES: [&str; 4] = ["cache", "kubernetes", "log", "whoami"];

/// Checks a Corefile: every message has a place within its source and can be formatted, a text without an error has a
/// valid tree, and parsing is deterministic. The parts between the first form feeds are the Corefile and the files `a`,
/// `d/b` and `d/c` that it may import; the last one is the variable `X`.
pub fn check_corefile(text: &str) {
    let mut parts = text.split('\u{c}');
    let main = parts.next().unwrap_or_default();
    let mut files = MemoryFiles::default();
    for (name, part) in ["a", "d/b", "d/c"].into_iter().zip(&mut parts) {
        files.files.insert(name.into(), part.to_owned());
    }
    if let Some(part) = parts.next() {
        files.env.insert("X".to_owned(), part.to_owned());
    }
    let known = |name: &str| match name {
        "example" => Known::External(None),
        _ if DIRECTIVES.contains(&name) => Known::Yes,
        _ => Known::No(|name| suggest(name, DIRECTIVES)),
    };
    let mut diagnostics = Diagnostics::new();
    let corefile = parse_text("Corefile", main, &files, &known, &mut diagnostics);
    let has_errors = diagnostics.has_errors();
    check_keys(&corefile, 53, std::iter::repeat(Listen::default()), &mut diagnostics);
    for diagnostic in &diagnostics {
        let span = diagnostic.span.expect("every diagnostic of a text has a place");
        let text = corefile.sources.text(span.file);
        assert!(span.start <= span.end && text.get(span.start as usize..span.end as usize).is_some());
    }
    render_text(&diagnostics, &corefile.sources);
    serde_json::from_str::<serde_json::Value>(&render_json(&diagnostics, &corefile.sources)).expect("JSON");
    check_tree(&corefile);
    if !has_errors {
        let mut again = Diagnostics::new();
        let same = parse_text("Corefile", main, &files, &known, &mut again);
        assert_eq!(same.canonical(), corefile.canonical());
    }
}

/// Checks that zones are names that end in a dot, blocks have keys, and directives are known.
fn check_tree(corefile: &Corefile) {
    for block in &corefile.blocks {
        assert!(!block.keys.is_empty());
        for key in &block.keys {
            assert!(!key.zones.is_empty());
            assert!(key.zones.iter().all(|zone| zone.ends_with('.') && is_domain_name(zone)));
        }
        assert!(block.directives.iter().all(|directive| DIRECTIVES.contains(&directive.name.text.as_str())));
    }
}
