//! Tests of the whole module: text in, tree and messages out. The expectations were compared with CoreDNS 1.15.0's
//! binary; where this parser differs on purpose, the name or a comment of the test says so.

use super::*;

/// Names that count as directives.
const DIRECTIVES: [&str; 10] =
    ["any", "cache", "errors", "forward", "health", "kubernetes", "log", "reload", "view", "whoami"];

/// Decides which names are directives.
fn known(name: &str) -> Known {
    if DIRECTIVES.contains(&name) { Known::Yes } else { Known::No(|name| suggest(name, DIRECTIVES)) }
}

/// Files for imports and environment variables: `ZONE` is set, `LOOP` refers to itself.
fn environment_with(files: &[(&str, &str)]) -> MemoryFiles {
    let mut environment = MemoryFiles::default();
    environment.files.extend(files.iter().map(|(path, text)| (path.into(), (*text).to_owned())));
    for (name, value) in
        [("ZONE", "Example.ORG"), ("DIR", "whoami"), ("LOOP", "{$LOOP}"), ("NEST", "{$ZONE}"), ("I", "import")]
    {
        environment.env.insert(name.to_owned(), value.to_owned());
    }
    environment
}

/// Returns the tree and the first lines of the messages.
fn read(text: &str, files: &[(&str, &str)]) -> String {
    let mut diagnostics = Diagnostics::new();
    let corefile = parse_text("Corefile", text, &environment_with(files), &known, &mut diagnostics);
    let messages = diagnostics.iter().map(|diagnostic| headline(diagnostic, &corefile.sources) + "\n");
    corefile.canonical() + &messages.collect::<String>()
}

/// Checks tree and messages, ignoring the indentation of the test.
#[track_caller]
fn check(text: &str, expected: &str) {
    check_with(text, &[], expected);
}

/// Like [`check`], with files to import.
#[track_caller]
fn check_with(text: &str, files: &[(&str, &str)], expected: &str) {
    let flat = |text: &str| text.lines().map(|line| line.trim().to_owned() + "\n").collect::<String>();
    assert_eq!(flat(&read(text, files)), flat(expected), "{text}");
}

/// Checks that two texts are parsed to the same tree and messages.
#[track_caller]
fn same(text: &str, plain: &str) {
    assert_eq!(read(text, &[]), read(plain, &[]), "{text}");
}

#[test]
fn words_quotes_and_comments() {
    same("\u{feff}.\t{\u{c}\r\n\u{a0}who\rami #after\r\n# {\n\u{b}}", ". {\nwhoami\n}");
    // A comment directly after a word ends at white space; the next word is a token again.
    check(
        ". {\nlog#x#z\r y\r\n}",
        ". {\n log y\n}
         Corefile:2:4 - Warning: '#' within a word begins a comment, so that the rest of the word is ignored",
    );
    same(". \"{\"\n\"whoami\"\n\"}\"", ". {\nwhoami\n}");
    same(". {\nlog \".\"\"{common}\"\n}", ". {\nlog . {common}\n}");
    check(". {\nlog a\"b \"c\\\"d\\e\" \"\" \"# {\"\n}", ". {\n log \"a\\\"b\" \"c\\\"d\\\\e\" \"\" \"# {\"\n}");
    check(
        ". {\nlog \"abc\nwhoami\n}\n",
        ". {\nlog \"abc\\nwhoami\\n}\\n\"\n}
         Corefile:2:5 - Warning: unclosed quote: it contains the rest of the file
         Corefile:2:5 - Syntax error: Unexpected token '\"abc whoami } ', expecting '}'",
    );
}

#[test]
fn blocks_with_and_without_braces() {
    same(".\n{\nwhoami\n}", ". {\nwhoami\n}");
    same(".\nwhoami", ". {\nwhoami\n}");
    same("a {\nwhoami\n} b {\nlog\n}", "a {\nwhoami\n}\nb {\nlog\n}");
    same("a {\nwhoami\n}\nb\nlog", "a {\nwhoami\n}\nb {\nlog\n}");
    same("a,\nb c {\n}", "a b c {\n}");
    let warning = "'a' is read as a server block without directives: its queries get REFUSED";
    check("a", &format!("a {{\n}}\nCorefile:1:1 - Warning: {warning}"));
    same("", "# nothing");
    check(".\nwhoami\n}", ". {\nwhoami\n}\nCorefile:3:1 - Warning: this '}' closes the block of '.', which has no '{'");
    check(
        ". {\ncache 30 {\n}",
        ". {\ncache 30 {\n}\n}\nCorefile:1:3 - Warning: unclosed '{': the file ends before its '}'",
    );
    check("{\nlog\n}\n. {\n}", ". {\n}\nCorefile:1:1 - Warning: this block has no zone and is ignored");
}

#[test]
fn an_unmatched_closing_brace_is_an_error() {
    // CoreDNS serves the zone `}.` instead.
    let error = "Error during parsing: Unexpected '}' because no matching opening brace";
    check(". {\nwhoami\n}\n}\n", &format!(". {{\nwhoami\n}}\nCorefile:4:1 - {error}"));
    check(". { whoami }\n", &format!(". {{\nwhoami\n}}\nCorefile:1:12 - {error}"));
    check("a } {\n}\n", &format!("a {{\n}}\nCorefile:1:3 - {error}"));
    check(". {\nlog {\n} }\n", &format!(". {{\nlog {{\n}}\n}}\nCorefile:3:3 - {error}"));
}

#[test]
fn bodies() {
    check(
        ". {\nforward . 1.1.1.1 {\nexcept a b\ntls {\nx\n}\n}\n}",
        ". {\nforward . 1.1.1.1 {\nexcept a b\ntls {\nx\n}\n}\n}",
    );
    same(". {\nlog { class error\n}\n}", ". {\nlog {\nclass error\n}\n}");
    check(". {\nlog {}\n}", ". {\nlog {}\n}");
    // CoreDNS passes the brace to `log` as an argument, but not to `forward`.
    check(
        ". {\nlog { class error }\n}",
        ". {\nlog {\nclass error\n}\n}\nCorefile:2:19 - Warning: CoreDNS may parse this '}' as an argument",
    );
    check(
        ". {\ncache\n{\nprefetch 1\n}\n}",
        ". {\ncache\n}\nCorefile:3:1 - Syntax error: the '{' of 'cache' must be on the same line",
    );
    check(
        ". {\nlog\n{\nclass error\n}\n}",
        ". {\nlog\n}\nCorefile:3:1 - Warning: the '{' of 'log' must be on the same line; as in CoreDNS, the block has no effect",
    );
    check(
        ". {\nlog {\n} whoami\n}",
        ". {\nlog {\n}\n}\nCorefile:3:3 - Warning: Unexpected token 'whoami', expecting 'end of line'; as in CoreDNS, the rest of the line has no effect",
    );
    check(
        ". {\nerrors {\n} { a\n}\n}",
        ". {\nerrors {\n}\n}\nCorefile:3:3 - Syntax error: Unexpected token '{', expecting 'end of line'",
    );
}

#[test]
fn unknown_directives_do_not_stop_the_rest() {
    check(
        ". {\nlgo {\nx\n}\nwhoami\nlog{\nclass\n}\nexample.org {\nwhoami\n}\n}",
        ". {\nwhoami\n}
         Corefile:2:1 - Error during parsing: Unknown directive 'lgo'
         Corefile:6:1 - Error during parsing: Unknown directive 'log{'
         Corefile:9:1 - Error during parsing: Unknown directive 'example.org'",
    );
}

#[test]
fn environment() {
    check("{$ZONE} {\n{%DIR%} a{$NEST}b\n}", "Example.ORG {\nwhoami aExample.ORGb\n}");
    check(
        "{$NO} {\nlog\n}",
        "Corefile:1:1 - Warning: environment variable 'NO' is not set and is replaced by nothing
         Corefile:1:1 - Warning: an empty key is ignored
         Corefile:1:7 - Warning: this block has no zone and is ignored",
    );
    check(
        ". {\nlog {$NO} {$} {$x {%}\n}",
        ". {\nlog \"\" {$} {$x {%}\n}\nCorefile:2:5 - Warning: environment variable 'NO' is not set and is replaced by nothing",
    );
    check(
        ". {\nlog {$LOOP}\n}",
        ". {\nlog\n}\nCorefile:2:5 - Error during parsing: the environment variables in this word refer to themselves",
    );
}

#[test]
fn snippets() {
    check("(a) {\nlog {\nclass error\n}\n}\n. {\nimport a\n}", ". {\nlog {\nclass error\n}\n}");
    // Caddy would join these lines, since they come from the same line of the file.
    check("(a) {\nerrors\n}\n. {\nimport a\nimport a\n}", ". {\nerrors\nerrors\n}");
    check("(a) {\nnosuch\n}\n. {\n}", ". {\n}");
    check(
        ". {\nimport a\n}\n(a) {\n}\n(a) {\n}",
        ". {\n}
         Corefile:2:8 - Error during parsing: File to import not found: a
         Corefile:6:1 - Error during parsing: redeclaration of previously declared snippet a",
    );
    check("(a) {\nimport a\n}", "Corefile:2:8 - Error during parsing: snippet 'a' imports itself");
    check(
        "(a) {\nimport b\n}\n(b) {\nimport a\n}\n. {\nimport a\n}",
        ". {\n}\nCorefile:5:8 - Error during parsing: import cycle: 'a' imports itself",
    );
}

#[test]
fn imported_files() {
    let files: &[(&str, &str)] = &[
        ("d/a.inc", "import b.inc"),
        ("d/b.inc", "whoami"),
        ("d/.c.inc", "log"),
        ("e/s/x", ""),
        ("keys", "b c"),
        ("half", ". {\nlog"),
        ("body", "class error"),
        ("wrong", "log\nlgo"),
    ];
    check_with(". {\nimport d/*\n}", files, ". {\nlog\nwhoami\nwhoami\n}");
    check_with(". {\nimport d/?.inc\nimport ./e/../d/b.inc\n}", files, ". {\nwhoami\nwhoami\nwhoami\n}");
    check_with("a,\nimport keys\n{\n}\nimport half\n}", files, "a b c {\n}\n. {\nlog\n}");
    check_with("{$I} keys\n{\n}", files, "b c {\n}");
    check_with(". {\nlog {\nimport body\n}\n}", files, ". {\nlog {\nclass error\n}\n}");
    check_with(". {\nimport wrong\n}", files, ". {\nlog\n}\nwrong:2:1 - Error during parsing: Unknown directive 'lgo'");
    check_with(
        ". {\nimport no*\nimport a].inc\nimport a\\b\nimport a[\nimport d\nimport e/*\n}",
        files,
        ". {\n}
         Corefile:2:8 - Warning: No files matching import glob pattern: no*
         Corefile:3:8 - Warning: No files matching import glob pattern: a].inc
         Corefile:4:8 - Error during parsing: File to import not found: a\\b
         Corefile:5:8 - Error during parsing: Failed to use import pattern a[: syntax error in pattern
         Corefile:6:8 - Error during parsing: Could not import d: is a directory
         Corefile:7:8 - Error during parsing: Could not import e/s: is a directory",
    );
}

#[test]
fn import_cycles_are_reported() {
    let error = "Error during parsing: import cycle: 'a' imports itself";
    check_with("import a", &[("a", "import a")], &format!("a:1:8 - {error}"));
    check_with("import a", &[("a", "import b\nx"), ("b", "import a\ny")], &format!("b:1:8 - {error}"));
    check("import Corefile", "Corefile:1:8 - Error during parsing: import cycle: 'Corefile' imports itself");
    // Exponential growth: each snippet imports the previous one twice.
    let mut text = "(s0) {\nlog\n}\n".to_owned();
    for level in 1..40 {
        let below = level - 1;
        text += &format!("(s{level}) {{\nimport s{below}\nimport s{below}\n}}\n");
    }
    text += ". {\nimport s39\n}\n";
    assert!(read(&text, &[]).contains("maximum snippet import depth (10000) exceeded"));
}

#[test]
fn nesting_size_and_number_of_messages_are_limited() {
    let text = format!(". {{\nlog {}{}\n}}\n", "{\na ".repeat(10_000), "\n}".repeat(10_000));
    assert!(read(&text, &[]).contains("braces are nested more than 32 deep"));
    let text = "a".repeat((16 << 20) + 1);
    assert!(read(&text, &[]).starts_with("Corefile:1:1 - Error during parsing: the configuration is longer than"));
    let text = format!(". {{\n{}}}\n", "x\n".repeat(1000));
    let mut diagnostics = Diagnostics::new();
    let corefile = parse_text("Corefile", &text, &environment_with(&[]), &known, &mut diagnostics);
    assert_eq!((diagnostics.len(), diagnostics.dropped()), (200, 800));
    assert!(render_text(&diagnostics, &corefile.sources).ends_with("… and 800 more\n"));
}

#[test]
fn a_message_shows_its_place() {
    let mut diagnostics = Diagnostics::new();
    let files = environment_with(&[("part", "\n\tlgo é")]);
    let corefile = parse_text("Corefile", ". {\nimport part\n}", &files, &known, &mut diagnostics);
    let expected = "part:2:2 - Error during parsing: Unknown directive 'lgo'
  |
2 |     lgo é
  |     ^^^
  imported at Corefile:2:8
  did you mean 'log'?
";
    assert_eq!(render_text(&diagnostics, &corefile.sources), expected);
    let json: serde_json::Value = serde_json::from_str(&render_json(&diagnostics, &corefile.sources)).unwrap();
    let expected = serde_json::json!([{
        "severity": "error", "file": "part", "line": 2, "column": 2, "end_line": 2, "end_column": 5, "plugin": null,
        "message": "Unknown directive 'lgo'", "expected": null, "suggestion": "log",
    }]);
    assert_eq!(json, expected);
}

#[test]
fn a_missing_corefile_is_an_error_without_a_place() {
    let mut diagnostics = Diagnostics::new();
    let corefile = load(Path::new("none"), &environment_with(&[]), &known, &mut diagnostics);
    assert!(diagnostics.has_errors() && corefile.blocks.is_empty());
    assert!(render_text(&diagnostics, &corefile.sources).starts_with("cannot read the Corefile 'none': "));
}

/// Returns the messages of `check_keys`. Arguments of *log* are the addresses of a block.
fn overlaps(text: &str) -> Vec<String> {
    let mut diagnostics = Diagnostics::new();
    let corefile = parse_text("Corefile", text, &environment_with(&[]), &known, &mut diagnostics);
    let listen = |block: &Block| Listen {
        addresses: block.directives_named("log").flat_map(|log| &log.args).map(|word| word.text.clone()).collect(),
    };
    check_keys(&corefile, 1053, corefile.blocks.iter().map(listen), &mut diagnostics);
    diagnostics.iter().map(|diagnostic| headline(diagnostic, &corefile.sources)).collect()
}

#[test]
fn blocks_may_not_share_zone_port_and_address() {
    let already = ["Corefile:3:1 - cannot serve dns://a.:1053 - it is already defined"];
    assert_eq!(overlaps("a {\n}\nA. {\n}"), already);
    assert_eq!(overlaps("a:1053 {\n}\ndns://a {\n}"), already);
    assert_eq!(overlaps("10.0.0.0/8 {\n}\n10.in-addr.arpa:1 tls://10.in-addr.arpa {\n}"), Vec::<String>::new());
    assert_eq!(
        overlaps("a {\nlog 1.1.1.1\n}\na {\n}"),
        ["Corefile:4:1 - cannot serve dns://a.:1053 - zone overlap listener capacity with dns://a.:1053 on 1.1.1.1"]
    );
    assert_eq!(
        overlaps("a {\n}\na {\nlog 1.1.1.1\n}"),
        ["Corefile:3:1 - cannot serve dns://a.:1053 on 1.1.1.1 - zone overlap listener capacity with dns://a.:1053"]
    );
    assert_eq!(overlaps("a {\nlog 1.1.1.1\n}\na {\nlog 1.1.1.2\n}"), Vec::<String>::new());
    assert_eq!(overlaps("a {\nview\n}\na {\nview\n}\na {\n}"), Vec::<String>::new());
    let shadowed = "Warning: the block before without 'view' gets every query of dns://a.:1053";
    assert_eq!(
        overlaps("a {\n}\na {\nview\n}\nb a {\nview\n}\nb {\n}"),
        [format!("Corefile:3:1 - {shadowed}"), format!("Corefile:6:3 - {shadowed}")]
    );
}

#[test]
fn directives_outside_of_a_block_are_no_zones() {
    let at_start =
        |name, line| format!("Corefile:{line}:1 - Error during parsing: '{name}' is a directive, not a zone");
    let later = |name, line| {
        format!(
            "Corefile:{line}:1 - Warning: the directive '{name}' is outside of a server block, and is read as a zone"
        )
    };
    // The lines after the first one are checked all the same.
    check("errors\ncahce\nlog", &format!(". {{\nlog\n}}\n{}\n{}", at_start("errors", 1), UNKNOWN_CAHCE));
    check("(s) {\nlog\n}\nerrors", &format!(". {{\n}}\n{}", at_start("errors", 4)));
    check("a {\nlog\n}\nerrors", &format!("a {{\nlog\n}}\nerrors {{\n}}\n{}", later("errors", 4)));
    check("cache {\n}", &format!("cache {{\n}}\n{}", later("cache", 1)));
    check(
        "log\n{\nclass error\n}",
        &format!("log {{\n}}\nCorefile:3:1 - Error during parsing: Unknown directive 'class'\n{}", later("log", 1)),
    );
    // A zone may have such a name.
    check("errors.\nlog", "errors. {\nlog\n}");
    check("errors:53 {\nlog\n}", "errors:53 {\nlog\n}");
    check("cache {\nlog\n}", "cache {\nlog\n}");
}

/// The message about `cahce` in the second line.
const UNKNOWN_CAHCE: &str = "Corefile:2:1 - Error during parsing: Unknown directive 'cahce'";

#[test]
fn comments_of_other_languages_are_skipped() {
    let error = |place| format!("Corefile:{place} - Error during parsing: '//' does not begin a comment");
    check("// a, {\n. {\nlog\n}", &format!(". {{\nlog\n}}\n{}", error("1:1")));
    check(". { // { }\nlog\n}", &format!(". {{\nlog\n}}\n{}", error("1:5")));
    // CoreDNS serves two zones then.
    check(". {\nlog\n} //end of", ". {\nlog\n}\nCorefile:3:3 - Warning: '//' does not begin a comment");
    check("; a\n. {\nlog\n}", ". {\nlog\n}\nCorefile:1:1 - Error during parsing: ';' does not begin a comment");
}

#[test]
fn files_that_are_not_utf_8_cause_one_error() {
    let utf_16 = "this file is in UTF-16, as '>' of Windows PowerShell writes it";
    check("\u{fffd}\u{fffd}.\0 \0{\0\n\0}\0", &format!("Corefile:1:1 - Syntax error: {utf_16}"));
    let binary = "this file is not a text: it has many bytes that are 0";
    check("\u{7f}ELF\0\n\0", &format!("Corefile:1:1 - Syntax error: {binary}"));
    let import = ". {\nimport a\nimport a\n}";
    check_with(import, &[("a", "log\0")], &format!(". {{\n}}\na:1:1 - Syntax error: {binary}"));
}

/// The search for a similar name is the most expensive part of an error. It is made once for each place, and not for
/// errors that are only counted.
#[test]
fn similar_names_are_searched_for_stored_errors_only() {
    use std::cell::Cell;

    thread_local! {
        static SEARCHES: Cell<usize> = const { Cell::new(0) };
    }
    fn counted(name: &str) -> Option<String> {
        SEARCHES.set(SEARCHES.get() + 1);
        suggest(name, DIRECTIVES)
    }
    let known = |name: &str| if DIRECTIVES.contains(&name) { Known::Yes } else { Known::No(counted) };
    let searches = |text: &str| {
        SEARCHES.set(0);
        let mut diagnostics = Diagnostics::new();
        parse_text("Corefile", text, &MemoryFiles::default(), &known, &mut diagnostics);
        (SEARCHES.get(), diagnostics.len(), diagnostics.dropped())
    };
    let imported = format!("(s) {{\ncachee\nlogg\n}}\n. {{\n{}}}", "import s\n".repeat(100));
    assert_eq!(searches(&imported), (2, 2, 0));
    let many: String = (0..1_000).map(|number| format!("name{number}\n")).collect();
    assert_eq!(searches(&format!(". {{\n{many}}}")), (200, 200, 800));
    // Other errors at the same place are reported.
    let twice = "(s) {\nfoo.bar\n}\n. {\nimport s\n}\nimport s";
    assert_eq!(searches(twice), (1, 2, 0));
    let properties = format!(". {{\ncache {{\n{many}}}\n}}");
    assert_eq!(searches(&properties), (0, 0, 0));
}

/// The place of a character is that character in the source, or the whole token where escapes, variables or dropped
/// characters move it.
#[test]
fn characters_of_a_token_have_places() {
    let written = r#"log plain "" "\"é\"" "\\" {$ZONE}é é中 "quoted é" a~b "open \"中 x"#;
    let words = written.replace('~', "\r");
    let text = format!(". {{\n{words}");
    let mut diagnostics = Diagnostics::new();
    let corefile = parse_text("Corefile", &text, &environment_with(&[]), &known, &mut diagnostics);
    let args = &corefile.blocks[0].directives[0].args;
    let source = corefile.sources.text(args[0].span.file);
    let mut exact = Vec::new();
    for token in args {
        let mut is_exact = true;
        for (at, character) in token.text.char_indices() {
            let span = token.span_at(at);
            let shown = source.get(span.start as usize..span.end as usize).expect("a part of the text");
            let is_whole = span == token.span;
            assert!(is_whole || shown == character.to_string(), "{:?}: {shown:?} at {at}", token.text);
            is_exact &= !is_whole || token.text.chars().count() == 1;
        }
        assert!(!source[token.span_at(token.text.len()).start as usize..].is_empty());
        exact.push(is_exact);
    }
    assert_eq!(exact, [true, true, false, true, false, true, true, false, false]);
}
