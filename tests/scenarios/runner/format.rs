//! The text of a scenario file to its sections and steps. README.md beside the scenarios has the format for people.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use clusterdns::chain::Transport;
use clusterdns::corefile::parse_duration;
use clusterdns::plugins::bind::Interface;
use clusterdns::wire::{Class, NameBuf, Type};

use super::outside::Says;

/// A mistake in a scenario file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.what)
    }
}

/// A section: one test.
#[derive(Clone, Debug)]
pub struct Section {
    /// What stands behind `==`.
    pub title: String,
    /// Its line, from 1.
    pub line: usize,
    /// What it starts from.
    pub setup: Setup,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

/// What a section starts from.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The Corefile.
    pub corefile: String,
    /// Manifests, as YAML.
    pub objects: Vec<String>,
    /// Files beside the Corefile: name and text.
    pub files: Vec<(String, String)>,
    /// The machine's interfaces.
    pub interfaces: Vec<Interface>,
    /// The machine's name.
    pub hostname: String,
    /// The index learns nothing before a `sync`.
    pub unsynced: bool,
    /// Log lines are part of what is expected.
    pub logs: bool,
    /// What other name servers say.
    pub upstream: Vec<Says>,
    /// The fixture's name, if a server that serves it can be asked.
    pub served: Option<String>,
}

/// One step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its line, from 1.
    pub line: usize,
    /// What is done.
    pub act: Act,
    /// The lines of its body, counted from 0.
    pub body: Range<usize>,
    /// What is expected: the body's lines, trimmed.
    pub expected: Vec<String>,
    /// An address may differ here: the number in docs/differences.md, and the words about it.
    pub differs: Option<String>,
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum Act {
    /// Asks.
    Query(UpstreamQuery),
    /// Sends octets.
    Raw(Vec<u8>, Transport),
    /// Objects are made or changed.
    Apply(String),
    /// An object is gone: its kind, `NAMESPACE/NAME` or `NAME`.
    Delete(String, String),
    /// Everything is listed again.
    Relist,
    /// The first lists come.
    Sync,
    /// Time passes.
    Time(Duration),
    /// A file beside the Corefile is written.
    File(String, String),
    /// Other name servers say something else.
    Upstream(Vec<Says>),
    /// The Corefile's mistakes are expected.
    Diagnostics,
    /// The manifests' warnings are expected.
    Warnings,
}

impl Act {
    /// Whether something is expected of it.
    pub fn expects(&self) -> bool {
        matches!(self, Act::Query(_) | Act::Raw(..) | Act::Diagnostics | Act::Warnings)
    }
}

/// A question.
#[derive(Clone, Debug)]
pub struct UpstreamQuery {
    /// The name, as sent.
    pub name: NameBuf,
    /// Type and class.
    pub qtype: Type,
    /// The class.
    pub class: Class,
    /// The size and version that OPT tells.
    pub edns: Option<(u16, u8)>,
    /// DO.
    pub dnssec_ok: bool,
    /// NSID is asked for.
    pub nsid: bool,
    /// RD.
    pub recursion: bool,
    /// CD.
    pub checking_disabled: bool,
    /// AD.
    pub authentic_data: bool,
    /// How it is sent.
    pub transport: Transport,
    /// Capitals and a mix of both must be answered alike.
    pub case: bool,
    /// Only counts and the length are compared.
    pub brief: bool,
    /// Who asks.
    pub from: Option<IpAddr>,
    /// The listener's port.
    pub port: u16,
    /// The listener's address.
    pub to: Option<IpAddr>,
}

impl UpstreamQuery {
    /// The query packet.
    pub fn packet(&self) -> Vec<u8> {
        let flag = |set: bool, bit: u16| if set { bit } else { 0 };
        let bits = flag(self.recursion, 0x100) | flag(self.authentic_data, 0x20) | flag(self.checking_disabled, 0x10);
        let mut packet = vec![0x04, 0xd2];
        packet.extend(bits.to_be_bytes());
        packet.extend([0, 1, 0, 0, 0, 0, 0, u8::from(self.edns.is_some())]);
        packet.extend(self.name.as_wire());
        packet.extend(self.qtype.0.to_be_bytes());
        packet.extend(self.class.0.to_be_bytes());
        if let Some((size, version)) = self.edns {
            packet.extend([0, 0, 41]);
            packet.extend(size.to_be_bytes());
            packet.extend([0, version, if self.dnssec_ok { 0x80 } else { 0 }, 0]);
            packet.extend(if self.nsid { &[0, 4, 0, 3, 0, 0][..] } else { &[0, 0] });
        }
        packet
    }
}

/// Reads a file. `load` gives the text of a file that it names.
pub fn parse(text: &str, load: &dyn Fn(&str) -> Result<String, String>) -> Result<Vec<Section>, Mistake> {
    let lines: Vec<&str> = text.lines().collect();
    let mut shared = Setup {
        corefile: String::new(),
        objects: Vec::new(),
        files: Vec::new(),
        interfaces: default_interfaces(),
        hostname: "dns-0".to_owned(),
        unsynced: false,
        logs: false,
        upstream: Vec::new(),
        served: None,
    };
    let mut sections: Vec<Section> = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let (number, line) = (at + 1, lines[at]);
        let mistake = |what: String| Mistake { line: number, what };
        at += 1;
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with(char::is_whitespace) {
            return Err(mistake("a line with nothing before it that it could belong to".to_owned()));
        }
        if let Some(title) = line.strip_prefix("== ") {
            let title = title.trim().to_owned();
            if sections.iter().any(|section| section.title == title) {
                return Err(mistake(format!("a second section '{title}'")));
            }
            sections.push(Section { title, line: number, setup: shared.clone(), steps: Vec::new() });
            continue;
        }
        let body = body(&lines, at);
        at = body.end;
        let (keyword, rest) =
            line.split_once(' ').map_or((line.trim_end(), ""), |(keyword, rest)| (keyword, rest.trim()));
        let block = || dedent(&lines[body.clone()]);
        let setup = match sections.last_mut() {
            Some(section) if !section.steps.is_empty() => None,
            Some(section) => {
                // No server has what only this section says.
                if ["objects", "file", "interface", "hostname", "unsynced", "upstream"].contains(&keyword) {
                    section.setup.served = None;
                }
                Some(&mut section.setup)
            }
            None => Some(&mut shared),
        };
        if let Some(setup) = setup
            && setup_line(setup, keyword, rest, &block, load).map_err(&mistake)?
        {
            continue;
        }
        let Some(section) = sections.last_mut() else {
            return Err(mistake(format!("'{keyword}' is no keyword in front of the first section")));
        };
        let act = act(keyword, rest, &block).map_err(&mistake)?;
        if !act.expects() && !matches!(act, Act::Apply(_) | Act::File(..) | Act::Upstream(_)) && !body.is_empty() {
            return Err(mistake(format!("'{keyword}' has no body")));
        }
        let (mut expected, mut differs) = (Vec::new(), None);
        if act.expects() {
            for line in lines[body.clone()].iter().map(|line| line.trim()) {
                match line.strip_prefix("differs:") {
                    Some(words) => differs = Some(difference(words).map_err(&mistake)?),
                    None => expected.push(line.to_owned()),
                }
            }
        }
        section.steps.push(Step { line: number, act, body, expected, differs });
    }
    Ok(sections)
}

/// A line of the setup; whether it was one.
fn setup_line(
    setup: &mut Setup, keyword: &str, rest: &str, block: &dyn Fn() -> String,
    load: &dyn Fn(&str) -> Result<String, String>,
) -> Result<bool, String> {
    match keyword {
        "corefile" => setup.corefile = block(),
        "objects" => {
            let mut words = rest.split_whitespace();
            match words.next() {
                None => setup.objects = vec![block()],
                Some("none") => setup.objects.clear(),
                // More of them, beside those that are there already.
                Some("and") => setup.objects.push(block()),
                Some(times) if times.starts_with('x') => setup.objects.push(repeated(times, &block())?),
                Some(file) => setup.objects = vec![load(file)?],
            }
        }
        "file" => setup.files.push((word(rest)?, block())),
        "interface" => {
            let mut words = rest.split_whitespace();
            let name = words.next().ok_or("an interface's name and addresses are expected")?.to_owned();
            let addresses = words.map(|text| text.parse().map_err(|_| format!("'{text}' is no address")));
            let addresses = addresses.collect::<Result<Vec<IpAddr>, String>>()?;
            // The first one of a file or section takes the place of what there was.
            if setup.interfaces.iter().any(|interface| interface.name == name) {
                setup.interfaces.clear();
            }
            let index = setup.interfaces.len() as u32 + 1;
            setup.interfaces.push(Interface { name, index, addresses });
        }
        "hostname" => setup.hostname = word(rest)?,
        "unsynced" => setup.unsynced = true,
        "logs" => setup.logs = true,
        "upstream" => setup.upstream = says(&block())?,
        "served" => setup.served = Some(word(rest)?),
        _ => return Ok(false),
    }
    Ok(true)
}

/// A step.
fn act(keyword: &str, rest: &str, block: &dyn Fn() -> String) -> Result<Act, String> {
    Ok(match keyword {
        "query" => Act::Query(query(rest)?),
        "raw" => {
            let (transport, octets) = match rest.strip_prefix("+tcp") {
                Some(octets) => (Transport::Tcp, octets),
                None => (Transport::Udp, rest),
            };
            Act::Raw(octets_of(octets)?, transport)
        }
        "apply" => Act::Apply(block()),
        "delete" => {
            let (kind, name) = rest.split_once(' ').ok_or("a kind and NAMESPACE/NAME are expected")?;
            Act::Delete(kind.to_owned(), word(name)?)
        }
        "relist" => Act::Relist,
        "sync" => Act::Sync,
        "time" => {
            // In nanoseconds, as Go has it.
            let time = parse_duration(rest).map_err(|error| format!("'{rest}': {error}"))?;
            Act::Time(Duration::from_nanos(u64::try_from(time).map_err(|_| "time does not go back")?))
        }
        "file" => Act::File(word(rest)?, block()),
        "upstream" => Act::Upstream(says(&block())?),
        "diagnostics" => Act::Diagnostics,
        "warnings" => Act::Warnings,
        _ => return Err(format!("'{keyword}' is no keyword here")),
    })
}

/// What other servers say, a line each.
fn says(block: &str) -> Result<Vec<Says>, String> {
    block.lines().filter(|line| !line.trim().is_empty()).map(Says::parse).collect()
}

/// `NAME TYPE FLAG…`.
fn query(rest: &str) -> Result<UpstreamQuery, String> {
    let mut words = rest.split_whitespace();
    let (Some(name), Some(qtype)) = (words.next(), words.next()) else {
        return Err("a name and a type are expected".to_owned());
    };
    let mut ask = UpstreamQuery {
        name: NameBuf::from_text(name).map_err(|error| format!("'{name}': {error}"))?,
        qtype: Type::from_mnemonic(qtype).ok_or(format!("'{qtype}' is no type"))?,
        class: Class::IN,
        edns: None,
        dnssec_ok: false,
        nsid: false,
        recursion: true,
        checking_disabled: false,
        authentic_data: false,
        transport: Transport::Udp,
        case: false,
        brief: false,
        from: None,
        port: 53,
        to: None,
    };
    for word in words {
        let (flag, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || value.parse::<u16>().map_err(|_| format!("'{word}': a number is expected"));
        let address = || value.parse::<IpAddr>().map_err(|_| format!("'{word}': an address is expected")).map(Some);
        match flag {
            "+edns" => ask.edns = Some((if value.is_empty() { 1232 } else { number()? }, 0)),
            "+version" => ask.edns = Some((1232, number()? as u8)),
            "+do" => ask.dnssec_ok = true,
            "+nsid" => ask.nsid = true,
            "+tcp" => ask.transport = Transport::Tcp,
            "+cd" => ask.checking_disabled = true,
            "+ad" => ask.authentic_data = true,
            "+norec" => ask.recursion = false,
            "+case" => ask.case = true,
            "+brief" => ask.brief = true,
            "class" => ask.class = Class::from_mnemonic(value).ok_or(format!("'{value}' is no class"))?,
            "from" => ask.from = address()?,
            "to" => ask.to = address()?,
            "port" => ask.port = number()?,
            _ => return Err(format!("'{word}' is no flag of a query")),
        }
    }
    if (ask.dnssec_ok || ask.nsid) && ask.edns.is_none() {
        ask.edns = Some((1232, 0));
    }
    Ok(ask)
}

/// Octets: groups of hexadecimal digits, `"text"`, and `*N` for the last item N times in all.
fn octets_of(text: &str) -> Result<Vec<u8>, String> {
    let mut octets = Vec::new();
    let mut last = 0..0;
    for word in text.split_whitespace() {
        let start = octets.len();
        if let Some(times) = word.strip_prefix('*') {
            let times: usize = times.parse().map_err(|_| format!("'{word}': a number is expected"))?;
            let item: Vec<u8> = octets[last.clone()].to_vec();
            octets.extend(item.repeat(times.saturating_sub(1)));
            continue;
        }
        match word.strip_prefix('"').and_then(|word| word.strip_suffix('"')) {
            Some(text) => octets.extend(text.bytes()),
            None => {
                let pair = |at: usize| word.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
                let pairs = (0..word.len()).step_by(2).map(pair).collect::<Option<Vec<u8>>>();
                octets.extend(pairs.ok_or(format!("'{word}' are no octets"))?);
            }
        }
        last = start..octets.len();
    }
    Ok(octets)
}

/// YAML that is repeated `xN` times, with `{n}` counting from 0. Within, a line that ends in `#xN` is repeated itself, with
/// `{i}` counting.
fn repeated(times: &str, block: &str) -> Result<String, String> {
    let count = |text: &str| text.parse::<usize>().map_err(|_| format!("'x{text}': a number is expected"));
    let mut out = String::new();
    for n in 0..count(&times[1..])? {
        for line in block.replace("{n}", &n.to_string()).lines() {
            match line.rsplit_once("#x") {
                Some((line, times)) => {
                    (0..count(times)?).for_each(|i| out += &(line.replace("{i}", &i.to_string()) + "\n"));
                }
                None => out += &format!("{line}\n"),
            }
        }
        out += "---\n";
    }
    Ok(out)
}

/// The words behind `differs:`, which start with a number of docs/differences.md.
fn difference(words: &str) -> Result<String, String> {
    let words = words.trim();
    let digits = words.chars().take_while(char::is_ascii_digit).count();
    if digits == 0 {
        Err("'differs:' starts with a number of docs/differences.md".to_owned())
    } else {
        Ok(words.to_owned())
    }
}

/// The one word that is left.
fn word(rest: &str) -> Result<String, String> {
    let mut words = rest.split_whitespace();
    match (words.next(), words.next()) {
        (Some(word), None) => Ok(word.to_owned()),
        _ => Err(format!("one word is expected, not '{rest}'")),
    }
}

/// The indented lines from `at` on, with empty ones between them.
fn body(lines: &[&str], at: usize) -> Range<usize> {
    let mut end = at;
    for (number, line) in lines.iter().enumerate().skip(at) {
        match line.chars().next() {
            Some(first) if !first.is_whitespace() => break,
            _ if line.trim().is_empty() => {}
            _ => end = number + 1,
        }
    }
    at..end
}

/// The lines without the four blanks in front.
fn dedent(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line.trim_start()))).collect()
}

/// What a Pod of the sample cluster has.
fn default_interfaces() -> Vec<Interface> {
    let interface = |name: &str, index, addresses: [&str; 1]| Interface {
        name: name.to_owned(),
        index,
        addresses: addresses.iter().filter_map(|text| text.parse().ok()).collect(),
    };
    vec![interface("lo", 1, ["127.0.0.1"]), interface("eth0", 2, ["10.244.0.2"])]
}
