//! Tests of the language. The expected values and errors are those of expr-lang 1.17.

use super::environment::FUNCTIONS;
use super::*;

static GROUP: ExprFunction = ExprFunction { name: "group", parameters: &[Simple::Any], result: Simple::Text };

struct Query;

impl ExprScope for Query {
    fn variable(&self, name: &str) -> ExprValue {
        if name == "any" { ExprValue::Int(3) } else { ExprValue::text("text") }
    }

    fn call(&self, name: &str, arguments: &[ExprValue]) -> Result<ExprValue, EvaluationError> {
        match (name, arguments) {
            ("name", []) => Ok(ExprValue::text("a-10.example.")),
            ("id", []) => Ok(ExprValue::Int(4660)),
            ("group", [ExprValue::Int(1)]) => Ok(ExprValue::text("10")),
            ("incidr", [..]) => EvaluationError::words("first argument is not an IP address"),
            _ => Ok(ExprValue::text("")),
        }
    }
}

fn names() -> KnownNames {
    let mut names = KnownNames::of(FUNCTIONS.iter().chain([&GROUP]));
    names.add("word", Type::Text);
    names.add("anything", Type::Unknown);
    names
}

/// Returns the value of an expression, or the error of compiling or running it.
fn evaluate(text: &str) -> String {
    match Expression::compile(text, &names()) {
        Err(error) => format!("compile: {error}"),
        Ok(expression) => {
            expression.run(&Query).map_or_else(|error| format!("run: {error}"), |value| value.to_string())
        }
    }
}

#[test]
fn operators_and_literals_have_their_values() {
    for (text, expected) in [
        ("1 + 2 * 3 - 4 % 3", "6"),
        ("2 ** 3 ** 0 + 7 / 2", "5.5"),
        ("-1 + +2", "1"),
        ("0x1f + 0b11 + 0o7 + 1_000", "1041"),
        ("1.5e3 > 1 and not false or do()", "true"),
        ("'a' + \"b\" + `c`", "abc"),
        ("'\\x41\\u00e9\\n' == `A\u{e9}\n`", "true"),
        ("1 < 2 < 3", "true"),
        ("1 < 3 < 2", "false"),
        ("1 == 1.0 && 'a' != 'b'", "true"),
        ("2 in [1, 2] and 'k' in {k: 1} and 3 not in 1..2", "true"),
        ("name() startsWith 'a' and name() endsWith '.' and name() contains '10'", "true"),
        ("name() matches '^[a-z]-[0-9]+' ? 'yes' : 'no'", "yes"),
        ("false ?: true", "true"),
        ("nil ?? 'x'", "x"),
        ("{a: {b: 1}}.a.b + {a: 1}['a']", "2"),
        ("{a: 1}?.b?.c == nil", "true"),
        ("[1, 2, 3][-1] + [1, 2, 3][0]", "4"),
        ("[1, 2, 3, 4][1:3]", "[2 3]"),
        ("name()[0:4] + name()[-3:]", "a-10le."),
        ("let x = 2; let y = x * 2; x + y", "6"),
        ("if id() > 1 { 'big' } else if true { 'b' } else { 'c' }", "big"),
        ("1; 2", "2"),
        ("// comment\n 1 /* more */ + 1", "2"),
        ("{'a': [1, nil, true]}", "map[a:[1 <nil> true]]"),
        ("1e21", "1e+21"),
        ("100000.0 * 10", "1e+06"),
    ] {
        assert_eq!(evaluate(text), expected, "{text}");
    }
}

#[test]
fn functions_have_their_values() {
    for (text, expected) in [
        ("all([1, 2], # > 0) and any([1, 2], # == 2) and none([1], # > 1) and one([1, 2], # == 1)", "true"),
        ("filter(1..5, # % 2 == 1)", "[1 3 5]"),
        ("map(['a', 'b'], upper(#) + string(#index))", "[A0 B1]"),
        ("reduce(1..4, #acc + #)", "10"),
        ("reduce(['a', 'b'], #acc + #, 'x')", "xab"),
        ("count([1, 2, 3], # > 1) + sum([1, 2]) + sum([1, 2], # * 10)", "35"),
        ("find([1, 2, 3], # > 1) + findLast([1, 2, 3], # > 1)", "5"),
        ("[findIndex([1, 2], # == 2), findLastIndex([1, 1], # == 1)]", "[1 1]"),
        ("sortBy(['bb', 'a'], len(#))", "[a bb]"),
        ("sort([3, 1, 2], 'desc')", "[3 2 1]"),
        ("groupBy([1, 2, 3], # > 1)", "map[false:[1] true:[2 3]]"),
        ("map([{n: 1}, {n: 2}], .n)", "[1 2]"),
        ("split('a,b,c', ',') | join('-') | upper()", "A-B-C"),
        ("upper('aß\u{1fb3}\u{1f80}ǆ')", "Aß\u{1fbc}\u{1f88}Ǆ"),
        ("lower('AΣ İ')", "aσ i"),
        ("split('a,b,c', ',', 2)", "[a b,c]"),
        ("splitAfter('a,b', ',')", "[a, b]"),
        ("replace('a-b-c', '-', '.', 1) + trim('  x ') + trimPrefix('ab', 'a') + repeat('z', 3)", "a.b-cxbzzz"),
        ("[indexOf('abc', 'c'), lastIndexOf('aba', 'a'), len('\u{e9}'), len([1])]", "[2 2 1 1]"),
        ("[int('12'), float('1.5'), round(2.5), abs(-3), ceil(1.2), floor(1.8)]", "[12 1.5 3 3 2 1]"),
        ("[max(1, 3, 2), min([4, 2]), mean([1, 2]), median([3, 1, 2])]", "[3 2 1.5 2]"),
        ("[bitand(6, 3), bitor(4, 1), bitxor(5, 1), bitshl(1, 4), bitshr(16, 2), bitnot(0)]", "[2 5 4 16 4 -1]"),
        ("toBase64('ab') + fromBase64('YWI=')", "YWI=ab"),
        ("fromJSON('{\"a\": [1, null]}').a", "[1 <nil>]"),
        ("[first([1, 2]), last([1, 2]), get({a: 1}, 'a'), take([1, 2, 3], 2)]", "[1 2 1 [1 2]]"),
        ("[keys({a: 1}), values({a: 1}), toPairs({a: 1}), fromPairs([['b', 2]])]", "[[a] [1] [[a 1]] map[b:2]]"),
        ("[reverse([1, 2]), uniq([1, 1, 2]), concat([1], [2]), flatten([1, [2, [3]]])]", "[[2 1] [1 2] [1 2] [1 2 3]]"),
        ("int(group(1)) + len(group('x')) + len(word)", "14"),
    ] {
        assert_eq!(evaluate(text), expected, "{text}");
    }
}

#[test]
fn errors_are_found_when_the_expression_is_read() {
    for (text, expected) in [
        ("name() ==", "unexpected token EOF (1:9)"),
        ("invalid expression", "unexpected token Identifier(\"expression\") (1:9)"),
        ("undefined == 1", "unknown name undefined (1:1)"),
        ("1 + 'x'", "invalid operation: + (mismatched types int and string) (1:3)"),
        ("not 1", "invalid operation: ! (mismatched type int) (1:1)"),
        ("1 % 0", "integer divide by zero (1:3)"),
        ("3 > -(1 + 2 * 3) % (4 - 2 * 2)", "integer divide by zero (1:18)"),
        ("upper(1)", "cannot use int as argument (type string) to call upper  (1:7)"),
        ("incidr('a')", "not enough arguments to call incidr (1:1)"),
        ("name('a')", "too many arguments to call name (1:1)"),
        ("name == 'a'", "invalid operation: == (mismatched types func() string and string) (1:6)"),
        ("name", "name is a function and has to be called (1:1)"),
        ("word.x", "type string has no field x (1:6)"),
        ("word()", "string is not callable (1:1)"),
        ("anything.x", "type interface {} has no field x (1:10)"),
        ("upper(anything)", "cannot use *interface {} as argument (type string) to call upper  (1:7)"),
        ("len(1)", "invalid argument for len (type int) (1:1)"),
        ("all(1, true)", "builtin all takes only array (got int) (1:5)"),
        ("any([1], # + 1)", "predicate should return boolean (got int) (1:10)"),
        ("# > 1", "unexpected token Operator(\"#\") (1:1)"),
        ("let name = 1; 2", "cannot redeclare name (1:5)"),
        ("1 ? 2 : 3", "non-bool expression (type int) used as condition (1:1)"),
        ("'a' in [1]", "cannot use string as type int in array (1:5)"),
        ("'a", "literal not terminated (1:3)"),
        ("'a' b 'c", "unexpected token Identifier(\"b\") (1:5)"),
        ("'a' 'c", "literal not terminated (1:7)"),
        ("1 2", "unexpected token Number(\"2\") (1:3)"),
        ("@", "unrecognized character: U+0040 '@' (1:1)"),
        ("now()", "now is not supported by this server (1:1)"),
        ("$env", "$env is not supported by this server (1:1)"),
        ("'a' matches '('", "error parsing regexp: unclosed group at character 1 (1:13)"),
        ("1 ?? 2 + 3", "Operator (+) and coalesce expressions (??) cannot be mixed. Wrap either by parentheses. (1:8)"),
    ] {
        assert_eq!(evaluate(text), format!("compile: {expected}"), "{text}");
    }
}

#[test]
fn errors_of_running_end_it() {
    for (text, expected) in [
        ("incidr('x', '10.0.0.0/8')", "first argument is not an IP address"),
        ("1 % len([])", "runtime error: integer divide by zero"),
        ("int('x')", "invalid operation: int(x)"),
        ("[1][5]", "index out of range: 5 (array length is 1)"),
        ("fromJSON('[1]')[0].a", "cannot fetch a from float64"),
        ("reduce([], #acc + #)", "reduce of empty array with no initial value"),
        ("sort([1, 'a'])", "invalid operation: string < int"),
    ] {
        assert_eq!(evaluate(text), format!("run: {expected}"), "{text}");
    }
}

#[test]
fn names_of_variables_are_checked() {
    let names = names();
    for name in ["a", "_x", "index", "A1"] {
        assert!(is_free_name(name, &names), "{name}");
    }
    for name in ["word", "name", "group", "len", "type", "now", "true", "nil", "let", "in", "not", "if", "1a"] {
        assert!(!is_free_name(name, &names), "{name}");
    }
}

#[test]
fn every_run_is_bounded() {
    for (text, expected) in [
        ("1..100000", "memory budget exceeded"),
        ("repeat('a', 100000)", "memory budget exceeded"),
        ("map(1..4000, map(1..4000, #))", "expression takes more than 10000 steps"),
        ("let a = repeat('a', 60000); a + a", "memory budget exceeded"),
        ("replace(repeat('a', 60000), 'a', 'bbb')", "memory budget exceeded"),
        ("let a = 1..4000; concat(a, a)", "memory budget exceeded"),
    ] {
        assert_eq!(evaluate(text), format!("run: {expected}"), "{text}");
    }
    let nested = |count| format!("{}1{}", "(".repeat(count), ")".repeat(count));
    assert_eq!(evaluate(&nested(30)), "1");
    assert!(evaluate(&nested(100)).contains("expression is nested too deeply"));
    assert!(evaluate(&vec!["1"; 200].join("+")).contains("expression is nested too deeply"));
    assert_eq!(evaluate(&vec!["1"; 100].join("+")), "100");
    // Each comparison refers to the next one twice, which does not double the memory.
    let comparisons = (0..30).fold("1".to_owned(), |inner, _| format!("0 < ({inner}) < 2"));
    assert!(evaluate(&comparisons).starts_with("compile: "));
}

proptest::proptest! {
    #[test]
    fn any_text_is_compiled_and_run_without_a_panic(
        text in r#"(name\(\)|group\(1\)|id\(\)|word|anything|[0-9]{1,2}|'a'|\(|\)|\[|\]|\{|\}|,|;|:|\.\.|\?\.|\?\?|\?|\||\+|-|\*\*|/|%|==|<|#|#acc| in | not | matches |map\(|reduce\(|filter\(|split\(|let x = |sort\(|a: |é){0,20}"#
    ) {
        evaluate(&text);
    }
}
