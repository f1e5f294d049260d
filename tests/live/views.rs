//! *view*: the same blocks are selected as by CoreDNS, for random conditions.

use clusterdns::wire::Type;
use fastrand::Rng;
use libtest_mimic::Failed;

use super::Test;
use super::templates::{compare, questions};

/// The number of zones of a Corefile. Each has up to four blocks with a view.
const ZONES: usize = 60;

pub fn tests() -> Vec<Test> {
    (1..=2).map(|seed| Test::new(format!("view: as CoreDNS: random conditions {seed}"), move || alike(seed))).collect()
}

fn alike(seed: u64) -> Result<(), Failed> {
    let mut random = Rng::with_seed(seed);
    let blocks: Vec<String> = (0..ZONES).map(|zone| blocks(&mut random, zone)).collect();
    let text = |port: u16| blocks.concat().replace("PORT", &port.to_string());
    let names: Vec<String> = (0..ZONES)
        .flat_map(|zone| ["", "a.", "web-5.", "x.Sub.", "a.b.c.d.e."].map(|name| format!("{name}v{zone}.test.")))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let questions = questions(&names, &[Type::A, Type::TXT, Type::AAAA, Type::SRV, Type(65_280)]);
    compare(text, &questions, questions.len() / 2).map_err(|wrong| format!("seed {seed}: {wrong:?}").into())
}

/// Returns the blocks of a zone.
fn blocks(random: &mut Rng, zone: usize) -> String {
    let mut blocks = String::new();
    let (count, has_rest) = (random.usize(1..5), random.usize(..4) > 0);
    for block in 0..count {
        let mut keys = format!("v{zone}.test:PORT");
        match random.usize(..8) {
            0 => keys = format!("sub.v{zone}.test:PORT"),
            1 => keys = format!("{keys} sub.v{zone}.test:PORT"),
            _ => {}
        }
        let conditions: String =
            (0..random.usize(..3)).map(|_| format!("        expr {}\n", quoted(condition(random, 2)))).collect();
        blocks += &of_block(&keys, &format!("    view b{block} {{\n{conditions}    }}\n"), &format!("{zone}-{block}"));
    }
    if has_rest {
        blocks += &of_block(&format!("v{zone}.test:PORT"), "", &format!("{zone}-rest"));
    }
    // The last zone is the root's.
    if zone + 1 == ZONES {
        blocks += &of_block(".:PORT", "    view root {\n        expr name() != 'a.v1.test.'\n    }\n", "root");
    }
    blocks
}

fn of_block(keys: &str, view: &str, text: &str) -> String {
    let template = format!("    template ANY ANY {{\n        answer \"{{{{ .Name }}}} 60 IN TXT {text}\"\n    }}\n");
    format!("{keys} {{\n    bind 127.0.0.1\n{view}{template}}}\n")
}

/// Quotes a condition with `#`, which would begin a comment.
fn quoted(condition: String) -> String {
    if condition.contains('#') { format!("\"{condition}\"") } else { condition }
}

/// Returns a random condition.
fn condition(random: &mut Rng, depth: usize) -> String {
    if depth > 0 && random.usize(..3) > 0 {
        let (one, other) = (condition(random, depth - 1), condition(random, depth - 1));
        return match random.usize(..6) {
            0 | 1 => format!("({one} and {other})"),
            2 => format!("({one} || {other})"),
            3 => format!("not ({one})"),
            4 => format!("({one} ? {other} : false)"),
            _ => format!("({one}) == ({other})"),
        };
    }
    const SIMPLE: &[&str] = &[
        "type() == 'A'",
        "type() != 'TXT'",
        "'AAAA' == type()",
        "type() in ['A', 'AAAA']",
        "type() not in ['A', 'no type']",
        "type() == 'TYPE65280'",
        "type() == 'type65280'",
        "class() == 'IN'",
        "class() in ['CH', 'ANY']",
        "proto() == 'tcp'",
        "proto() in ['udp', 'tls']",
        "client_ip() == '127.0.0.1'",
        "client_ip() in ['10.0.0.1', '::1']",
        "server_ip() == '127.0.0.1'",
        "server_port() == '53'",
        "server_ip() != client_ip()",
        "incidr(client_ip(), '127.0.0.0/8')",
        "incidr(client_ip(), '10.0.0.0/8')",
        "incidr(server_ip(), '::/0')",
        "incidr(name(), '10.0.0.0/8')",
        "incidr(client_ip(), 'no network')",
        "port() == '1'",
        "int(port()) > 0",
        "size() > 40",
        "size() <= 35",
        "30 < size() < 38",
        "id() >= 0",
        "opcode() == 0",
        "opcode() != 0",
        "do()",
        "bufsize() == 512",
        "bufsize() > 1232",
        "bufsize() >= 65535",
        "name() == 'a.v3.test.'",
        "name() == 'A.v4.test.'",
        "name() in ['a.v5.test.', 'x.sub.v6.test.']",
        "name() matches '^web-[0-9]+\\\\.'",
        "name() contains 'sub'",
        "name() startsWith 'a.'",
        "name() endsWith '7.test.'",
        "len(split(name(), '.')) > 4",
        "any(['127.0.0.0/8', '10.0.0.0/8'], {incidr(client_ip(), #)})",
        "count(split(name(), '.'), {len(#) == 1}) > 1",
        "metadata('no/label') == ''",
        "metadata('view/name') != ''",
        "let n = len(name()); n % 2 == 0 && n > 10",
        "int(port()) % 2 in [0, 1]",
        "fromJSON('true')",
        "fromJSON('1')",
        "1 in [1, 2, 3]",
        "true",
        "false",
        "upper(type()) == type()",
        "[type(), proto()] == ['A', 'udp']",
        "{'A': true}[type()] ?? false",
    ];
    let simple = SIMPLE[random.usize(..SIMPLE.len())];
    // `let` extends to the end of an expression.
    format!("({simple})")
}
