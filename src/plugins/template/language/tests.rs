//! Tests of the language. The expected outputs, texts of trees, and errors are those of Go's `text/template`.

use std::borrow::Cow;

use super::*;

/// The data of the templates of these tests.
struct Data;

const GROUPS: [(&str, &str); 4] = [("0", "10-x.example."), ("1", "10"), ("a", "10"), ("b", "x<y")];

impl<'a> Structure<'a> for Data {
    fn type_name(&self) -> &'static str {
        "*template.templateData"
    }

    fn member(&'a self, name: &str) -> ObjectMember<'a> {
        ObjectMember::Value(match name {
            "Name" => TemplateValue::text("10-x.example."),
            "Match" => TemplateValue::List(ListValue::given(self, "string")),
            "Group" => TemplateValue::Map(Map::Texts(self)),
            "Id" => TemplateValue::Uint(7, Unsigned::Short),
            "Float" => TemplateValue::Float(1.5),
            "Nothing" => TemplateValue::Nil,
            "Meta" => return ObjectMember::Method(&[Parameter::Text]),
            "md" => return ObjectMember::Hidden,
            _ => return ObjectMember::None,
        })
    }

    fn call(&'a self, name: &str, arguments: &[TemplateValue<'a>]) -> TemplateValue<'a> {
        let Some(TemplateValue::Text(text)) = arguments.first() else { return TemplateValue::Missing };
        TemplateValue::text(format!("{name}({})", String::from_utf8_lossy(text)))
    }

    fn text(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{}");
    }
}

impl<'a> Sequence<'a> for Data {
    fn count(&self) -> usize {
        2
    }

    fn item(&'a self, at: usize) -> TemplateValue<'a> {
        TemplateValue::text(GROUPS[at].1)
    }
}

impl<'a> TextMap<'a> for Data {
    fn get(&'a self, key: &[u8]) -> Option<Cow<'a, [u8]>> {
        GROUPS.iter().find(|(name, _)| name.as_bytes() == key).map(|(_, value)| value.as_bytes().into())
    }

    fn keys(&'a self) -> Vec<Cow<'a, str>> {
        GROUPS.iter().map(|(name, _)| Cow::Borrowed(*name)).collect()
    }
}

/// Returns the output of a template, or its error.
fn run(text: &str) -> String {
    let template = match GoTemplate::parse("answer", text) {
        Ok(template) => template,
        Err(error) => return error.to_string(),
    };
    let mut out = Vec::new();
    match template.run(TemplateValue::Object(&Data), &mut out) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned(),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn check(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(run(text), *expected, "{text}");
    }
}

#[test]
fn fields_and_groups_are_written() {
    check(&[
        ("{{ .Name }} 60 IN A {{ .Group.a }}.{{ index .Match 1 }}", "10-x.example. 60 IN A 10.10"),
        ("{{.Group.nosuch}}|{{index .Group \"nosuch\"}}|{{.Nothing}}", "<no value>||<no value>"),
        ("{{.Group}} {{.Match}} {{.Id}} {{.Float}}", "map[0:10-x.example. 1:10 a:10 b:x<y] [10-x.example. 10] 7 1.5"),
        ("{{.Meta \"a/b\"}} {{\"a\" | .Meta}} {{$.Name}}", "Meta(a/b) Meta(a) 10-x.example."),
    ]);
}

#[test]
fn white_space_is_trimmed_by_markers_only() {
    check(&[
        ("a {{- 1 -}} b", "a1b"),
        ("a {{-1}} b", "a -1 b"),
        ("a\n{{- /* nothing */ -}}\n b", "ab"),
        ("a {{/* nothing */}} b", "a  b"),
        ("{{ 1\n}}", "1"),
    ]);
}

#[test]
fn control_structures_run_as_go_runs_them() {
    check(&[
        ("{{if .Group.a}}yes{{else}}no{{end}} {{if eq .Name \"x\"}}a{{else if .Group.b}}b{{else}}c{{end}}", "yes b"),
        ("{{with .Group.a}}{{.}}-{{$.Id}}{{end}} {{with .Group.c}}x{{else with .Group.b}}{{.}}{{end}}", "10-7 x<y"),
        ("{{range $i, $m := .Match}}{{$i}}={{$m}};{{end}} {{range 3}}{{.}}{{end}}", "0=10-x.example.;1=10; 012"),
        ("{{range .Group}}{{.}},{{else}}none{{end}}", "10-x.example.,10,10,x<y,"),
        ("{{range 5}}{{if eq . 1}}{{continue}}{{end}}{{if eq . 3}}{{break}}{{end}}{{.}}{{end}}", "02"),
        ("{{range .Nothing}}x{{else}}none{{end}}", "none"),
        ("{{$x := 1}}{{range 3}}{{$x = .}}{{$y := .}}{{end}}{{$x}}", "2"),
        ("{{define \"T\"}}<{{.}}>{{end}}{{template \"T\" .Id}}{{block \"B\" 5}}[{{.}}]{{end}}", "<7>[5]"),
    ]);
}

#[test]
fn functions_do_what_go_s_do() {
    check(&[
        ("{{parseInt .Group.a 16 8}} {{parseInt \"ff\" 16 8}} {{printf \"%d\" (parseInt \"0x1f\" 0 64)}}", "16 255 31"),
        ("{{printf \"%03d|%-5s|%5s|%x|%q|%v\" 7 \"a\" \"b\" \"hi\" \"q\" true}}", "007|a    |    b|6869|\"q\"|true"),
        (
            "{{printf \"%s %d\" 1}} {{printf \"%d\" \"a\"}} {{print 1 2 \"a\" 3}}",
            "%!s(int=1) %!d(MISSING) %!d(string=a) 1 2a3",
        ),
        ("{{len .Name}} {{len .Match}} {{slice .Name 0 2}} {{index .Name 0}}", "13 2 10 49"),
        (
            "{{eq .Id 7}} {{eq 1 2 3 1}} {{ne .Name \"x\"}} {{lt 1 2}} {{le 2 2}} {{gt .Float 1.0}} {{ge \"a\" \"b\"}}",
            "true true true true true true false",
        ),
        ("{{and 1 0 2}} {{or 0 \"\" \"x\"}} {{not .Nothing}}", "0 x true"),
        ("{{html .Group.b}} {{js \"a'b\"}} {{urlquery \"a b/c\"}}", "x&lt;y a\\'b a+b%2Fc"),
        ("{{1000000.0}} {{1e5}} {{'a'}} {{0x1f}} {{1_000}}", "1e+06 100000 97 31 1000"),
    ]);
}

#[test]
fn errors_of_parsing_have_go_s_words() {
    check(&[
        ("{{", "template: answer:1: unclosed action"),
        ("{{.Name", "template: answer:1: unclosed action"),
        ("{{ notAFunction }}", "template: answer:1: function \"notAFunction\" not defined"),
        ("{{if 1}}x", "template: answer:1: unexpected EOF"),
        ("{{end}}", "template: answer:1: unexpected {{end}}"),
        ("{{.Name}}}", "10-x.example.}"),
        ("{{ } }}", "template: answer:1: unexpected \"}\" in command"),
        ("{{$x}}", "template: answer:1: undefined variable \"$x\""),
        ("{{\"a}}", "template: answer:1: unterminated quoted string"),
        ("{{(1}}", "template: answer:1: unclosed left paren"),
        ("{{1 | 2}}", "template: answer:1: non executable command in pipeline stage 2"),
        ("{{.a.}}", "template: answer:1: unexpected <.> in operand"),
        ("{{range $a, $b, $c := 1}}{{end}}", "template: answer:1: too many declarations in range"),
        ("{{break}}", "template: answer:1: {{break}} outside {{range}}"),
        ("{{/* a }}", "template: answer:1: unclosed comment"),
        ("a\nb{{if\n1 }\n}}", "template: answer:3: unexpected \"}\" in operand"),
        ("{{1i}}", "template: answer:1: complex numbers are not supported: 1i"),
        (
            "{{9999999999999999999}}",
            "template: answer:1:2: executing \"answer\" at <9999999999999999999>: 9999999999999999999 overflows int",
        ),
    ]);
}

#[test]
fn errors_of_running_have_go_s_words() {
    check(&[
        (
            "{{ .Grup.d }}",
            "template: answer:1:8: executing \"answer\" at <.Grup.d>: can't evaluate field Grup in type *template.templateData",
        ),
        (
            "{{.md}}",
            "template: answer:1:2: executing \"answer\" at <.md>: md is an unexported field of struct type *template.templateData",
        ),
        (
            "{{index .Match 5}}",
            "template: answer:1:2: executing \"answer\" at <index .Match 5>: error calling index: index out of range: 5",
        ),
        (
            "{{parseInt .Id 10 8}}",
            "template: answer:1:11: executing \"answer\" at <.Id>: wrong type for value; expected string; got uint16",
        ),
        (
            "{{parseInt \"zz\" 16 8}}",
            "template: answer:1:2: executing \"answer\" at <parseInt \"zz\" 16 8>: error calling parseInt: strconv.ParseUint: parsing \"zz\": invalid syntax",
        ),
        (
            "{{.Meta}}",
            "template: answer:1:2: executing \"answer\" at <.Meta>: wrong number of args for Meta: want 1 got 0",
        ),
        (
            "{{lt 1 \"a\"}}",
            "template: answer:1:2: executing \"answer\" at <lt 1 \"a\">: error calling lt: incompatible types for comparison: int and string",
        ),
        ("{{template \"x\"}}", "template: answer:1:11: executing \"answer\" at <x>: template \"x\" not defined"),
    ]);
}

#[test]
fn a_tree_is_written_as_go_writes_it() {
    let written = |text| GoTemplate::parse("answer", text).expect("a template").written();
    for (text, expected) in [
        ("{{ .Name }} 60 {{.Group.a|printf \"%s\"  }}", "{{.Name}} 60 {{.Group.a | printf \"%s\"}}"),
        ("{{if  1}}a{{else if 2}}b{{else}}c{{end}}", "{{if 1}}a{{else}}{{if 2}}b{{else}}c{{end}}{{end}}"),
        (
            "{{range $i, $e := (index .Match 1).x}}{{/* gone */}}{{end}}",
            "{{range $i, $e := (index .Match 1).x}}{{end}}",
        ),
        ("a {{- template \"T\" . -}} b", "a{{template \"T\" .}}b"),
    ] {
        assert_eq!(written(text), expected, "{text}");
    }
}

#[test]
fn every_run_is_bounded() {
    let steps = "template takes more than 10000 steps";
    let output = "output is longer than 65536 bytes";
    for (text, expected) in [
        ("{{range 1000000000}}{{end}}", steps),
        ("{{range 1000}}{{range 1000}}{{end}}{{end}}", steps),
        ("{{range 9000}}aaaaaaaaaaaaaaaaaaaa{{end}}", output),
        ("{{printf \"%70000d\" 1}}", output),
        ("{{printf \"%.70000d\" 1}}", output),
        ("{{$x := \"aaaaaaaaaaaaaaaa\"}}{{range 20}}{{$x = print $x $x}}{{end}}", output),
        ("{{$x := printf \"%60000d\" 1}}{{range 100}}{{$y := print $x}}{{end}}", steps),
        ("{{define \"T\"}}{{template \"T\"}}{{end}}{{template \"T\"}}", "exceeded maximum template depth (200)"),
    ] {
        assert!(run(text).ends_with(expected), "{text}: {}", run(text));
    }
    let deep = |count| format!("{}1{}", "{{if (".repeat(count), ")}}x{{end}}".repeat(count));
    assert!(run(&deep(200)).contains("unexpected") || run(&deep(200)).contains("max expression depth exceeded"));
    let nested = format!("{{{{{}1{}}}}}", "(".repeat(98), ")".repeat(98));
    assert_eq!(run(&nested), "1");
    let too_deep = format!("{{{{{}1{}}}}}", "(".repeat(101), ")".repeat(101));
    assert_eq!(run(&too_deep), "template: answer:1: max expression depth exceeded");
    assert!(run(&"x".repeat(65_537)).ends_with("template is longer than 65536 bytes"));
}

#[test]
fn fields_that_are_not_there_are_found_before_a_run() {
    let unknown = |text| GoTemplate::parse("answer", text).expect("a template").unknown_field(&["Name", "Group"]);
    assert_eq!(unknown("{{.Name}}{{if .Group.a}}{{print (.Grup.b)}}{{end}}").as_deref(), Some("Grup"));
    assert_eq!(unknown("{{with .Group}}{{.a}}{{end}}{{range .Group}}{{.b}}{{else}}{{.Name}}{{end}}"), None);
}

proptest::proptest! {
    #[test]
    fn any_text_is_parsed_and_run_without_a_panic(
        text in r#"(\{\{|\}\}|-| |\.Name|\.Group\.a|\$|\$x|:=|=|\||range|if|end|else|with|"a"|'b'|[0-9]{1,3}|\(|\)|printf|"%[0-9*.\[\]+#-]{0,4}[vdsxqgT]"|index|slice|é|\n){0,25}"#
    ) {
        run(&text);
        run(&format!("{{{{{text}}}}}"));
    }
}
