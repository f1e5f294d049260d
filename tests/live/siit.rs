//! *siit*: the same addresses are translated as by CoreDNS, alone and beside *dns64*.

use clusterdns::wire::Type;
use libtest_mimic::Failed;

use super::Test;
use super::templates::{compare, questions};

/// Addresses, of which some stand for an IPv4 address with the prefixes below or as a pair.
const ADDRESSES: [&str; 8] = [
    "64:ff9b::c000:221",
    "2001:db8:c000:221::",
    "2001:db8:c000:221:100::",
    "2001:db8:122:344:c0:2:2100:0",
    "2001:db8::7",
    "2001:db9::1",
    "::ffff:192.0.2.1",
    "fd00::1",
];
const PREFIXES: [&str; 4] =
    ["", "ipv6_prefix 2001:db8::/32", "ipv6_prefix 2001:db8:122:344::/64", "ipv6_prefix fd00::/96"];

pub fn tests() -> Vec<Test> {
    vec![Test::new("siit: as CoreDNS: prefixes, pairs and dns64", as_coredns)]
}

fn as_coredns() -> Result<(), Failed> {
    let records: String = ADDRESSES
        .iter()
        .enumerate()
        .map(|(at, address)| format!(" \"{{{{ .Name }}}} {at}00 IN AAAA {address}\""))
        .collect();
    let template =
        |head: &str, body: &str| format!("    template IN {head} {{\n        {body}\n        fallthrough\n    }}\n");
    let soa = "authority \"test. 60 IN SOA a. b. 1 2 3 4 60\"";
    let text = |port: u16| {
        let mut blocks = String::new();
        for (at, prefix) in PREFIXES.iter().enumerate() {
            let siit = format!(
                "    bind 127.0.0.1\n    siit {{\n        {prefix}\n        eam 198.51.100.7 2001:db8::7\n    }}\n"
            );
            let templates = [
                template("A", &format!("match ^(all|one|none)[.]\n        {soa}")),
                template("A", "match ^bare[.]\n        rcode NOERROR"),
                template("A", "match ^gone[.]\n        rcode NXDOMAIN"),
                template("A", "match ^v4[.]\n        answer \"{{ .Name }} 60 IN A 192.0.2.1\""),
                template("AAAA", &format!("match ^(all|bare|v4|gone)[.]\n        answer{records}")),
                template("AAAA", "match ^one[.]\n        answer \"{{ .Name }} 60 IN AAAA 2001:db8::7\""),
                template("AAAA", &format!("match ^none[.]\n        {soa}")),
            ];
            blocks += &format!("p{at}.test:{port} {{\n{siit}{}}}\n", templates.concat());
            let dns64 = "    dns64 {\n        allow_ipv4\n    }\n";
            blocks += &format!("d{at}.test:{port} {{\n{siit}{dns64}{}}}\n", templates.concat());
        }
        blocks
    };
    let names: Vec<String> = ["all", "one", "none", "bare", "gone", "v4"]
        .iter()
        .flat_map(|name| {
            (0..PREFIXES.len()).flat_map(move |at| [format!("{name}.p{at}.test."), format!("{name}.d{at}.test.")])
        })
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let questions = questions(&names, &[Type::A, Type::AAAA, Type::TXT]);
    compare(text, &questions, questions.len() / 4).map_err(|wrong| format!("{wrong:?}").into())
}
