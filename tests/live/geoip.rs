//! *geoip*: labels have the values of CoreDNS, in every directive that uses them.

use clusterdns::wire::Type;
use libtest_mimic::Failed;

use super::Test;
use super::templates::{compare, questions};

const LABELS: [&str; 13] = [
    "city/name",
    "country/code",
    "country/name",
    "country/is_in_european_union",
    "continent/code",
    "continent/name",
    "subdivisions/code",
    "latitude",
    "longitude",
    "timezone",
    "postalcode",
    "asn/number",
    "asn/org",
];

pub fn tests() -> Vec<Test> {
    vec![Test::new("geoip: as CoreDNS: template, view and rewrite", as_coredns)]
}

fn as_coredns() -> Result<(), Failed> {
    let database = |name: &str| format!("{}/tests/data/geoip/{name}.mmdb", env!("CARGO_MANIFEST_DIR"));
    let shown: String = LABELS.iter().map(|label| format!(" \\\"{{{{ .Meta `geoip/{label}` }}}}.\\\"")).collect();
    let template = format!("    template ANY ANY {{\n        answer \"{{{{ .Name }}}} 60 IN TXT{shown}\"\n    }}\n");
    let text = |port: u16| {
        let mut blocks = String::new();
        for name in ["city", "asn", "isp"] {
            let geoip = format!("    bind 127.0.0.1\n    metadata\n    geoip {}\n", database(name));
            blocks += &format!("{name}.test:{port} {{\n{geoip}{template}}}\n");
            // The country of this machine's own address, and another one.
            for country in ["EX", "FA", ""] {
                let view = format!(
                    "    view v{country} {{\n        expr metadata('geoip/country/code') == '{country}'\n    }}\n"
                );
                let answer = format!("{{{{ .Name }}}} 60 IN TXT of-{country}");
                blocks += &format!(
                    "view.{name}.test:{port} {{\n{geoip}{view}    template ANY ANY {{\n        answer \"{answer}\"\n    }}\n}}\n"
                );
            }
            let rewrite =
                "    rewrite name regex ^(.*)\\.from\\..*$ {1}.{geoip/country/code}.to. metadata answer auto\n";
            blocks += &format!("from.{name}.test:{port} {{\n{geoip}{rewrite}{template}}}\n");
        }
        blocks
    };
    let names: Vec<String> = ["city", "asn", "isp"]
        .iter()
        .flat_map(|name| [format!("a.{name}.test."), format!("A.view.{name}.test."), format!("b.from.{name}.test.")])
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let questions = questions(&names, &[Type::A, Type::TXT]);
    compare(text, &questions, questions.len() / 2).map_err(|wrong| format!("{wrong:?}").into())
}
