//! Tests of [`Arguments`] with a plugin of their own.

use std::time::Duration;

use super::*;

/// Parses a directive with `read`, and returns the messages.
fn messages(line: &str, read: impl FnOnce(&mut Arguments<'_, '_>)) -> String {
    let mut diagnostics = Diagnostics::new();
    let text = format!(". {{\n{line}\n}}\n");
    let known = |name: &str| if matches!(name, "p" | "cache") { Known::Yes } else { Known::No(|_| None) };
    let corefile = parse_text("C", &text, &MemoryFiles::default(), &known, &mut diagnostics);
    let mut line = Arguments::of(&corefile.blocks[0].directives[0], &mut diagnostics);
    read(&mut line);
    line.finish();
    let lines = diagnostics.iter().map(|diagnostic| {
        let expected = diagnostic.expected.as_deref().unwrap_or("-");
        let suggestion = diagnostic.suggestion.as_deref().unwrap_or("-");
        format!("{} | {expected} | {suggestion}\n", headline(diagnostic, &corefile.sources))
    });
    lines.collect()
}

#[test]
fn values_are_parsed() {
    let messages = messages("p 5 1h 10.0.0.0/8 ::1 on A.b 10.0.0.0/8", |line| {
        assert_eq!((line.name(), line.remaining()), ("p", 7));
        assert_eq!(line.number(1..=10u8), Some(5));
        assert_eq!(line.duration(), Some(Duration::from_secs(3600)));
        assert_eq!(line.network(), "10.0.0.0/8".parse().ok());
        assert_eq!(line.ip(), "::1".parse().ok());
        assert_eq!(line.one_of(&[("on", true), ("off", false)]), Some(true));
        assert_eq!(line.zones(), ["a.b.", "10.in-addr.arpa."]);
    });
    assert_eq!(messages, "");
}

#[test]
fn an_invalid_value_is_reported_once_with_what_was_expected() {
    let number = |line: &mut Arguments<'_, '_>| assert_eq!(line.number(1..=10u8), None);
    assert_eq!(
        messages("p 11 x", number),
        "C:2:3 - Error during parsing: plugin/p: invalid number '11' | a number from 1 to 10 | -\n"
    );
    assert_eq!(
        messages("p", number),
        "C:2:1 - Error during parsing: plugin/p: Wrong argument count or unexpected line ending after 'p' \
         | a number from 1 to 10 | -\n"
    );
    assert_eq!(
        messages("p of", |line| assert_eq!(line.one_of(&[("on", true), ("off", false)]), None)),
        "C:2:3 - Error during parsing: plugin/p: unexpected 'of' | one of on, off | on\n"
    );
    assert_eq!(
        messages("p 5", |line| assert_eq!(line.duration(), None)),
        "C:2:3 - Error during parsing: plugin/p: time: missing unit in duration \"5\" \
         | a duration such as 5s, 500ms or 1h30m | -\n"
    );
    let seconds = Duration::from_secs(1)..=Duration::from_secs(60);
    assert_eq!(
        messages("p 2m", |line| assert_eq!(line.duration_in(seconds), None)),
        "C:2:3 - Error during parsing: plugin/p: duration '2m' is out of range | a duration from 1s to 60s | -\n"
    );
    assert_eq!(
        messages("p a..b c", |line| assert_eq!(line.zones(), ["c."])),
        "C:2:3 - Warning: plugin/p: 'a..b' is ignored: zone is not a valid domain name: a..b | - | -\n"
    );
}

#[test]
fn unread_arguments_and_braces_are_reported() {
    assert_eq!(
        messages("p a {\n}", |_| ()),
        "C:2:3 - Error during parsing: plugin/p: Wrong argument count or unexpected line ending after 'a' \
         | end of line | -
C:2:1 - Error during parsing: plugin/p: Unexpected token '{', expecting argument | no block after 'p' | -\n"
    );
    assert_eq!(
        messages("p a b c", |line| assert!(line.exactly::<2>("a name and a key").is_none())),
        "C:2:7 - Error during parsing: plugin/p: Wrong argument count or unexpected line ending after 'c' \
         | a name and a key | -\n"
    );
    assert_eq!(
        messages("p", |line| assert!(line.required_body("a block with rules").is_none())),
        "C:2:1 - Error during parsing: plugin/p: 'p' needs a block | a block with rules | -\n"
    );
}

#[test]
fn properties_are_parsed_one_by_one() {
    let mut ttl = None;
    let messages = messages("p {\nttl 5\nendpont x {\ny\n}\nttl 5 6\ncache 30\n}", |line| {
        for property in line.body() {
            let mut line = line.enter(property);
            match line.name() {
                "ttl" => ttl = line.number(0..=3600u32),
                _ => line.unknown(["endpoint", "ttl"]),
            }
            line.finish();
        }
    });
    assert_eq!(ttl, Some(5));
    assert_eq!(
        messages,
        "C:4:1 - Error during parsing: plugin/p: unknown property 'endpont' | one of endpoint, ttl | endpoint
C:7:7 - Error during parsing: plugin/p: Wrong argument count or unexpected line ending after '6' | end of line | -
C:8:1 - Error during parsing: plugin/p: unknown property 'cache' | 'cache' after the '}' of 'p': it is a directive | -\n"
    );
}
