//! Parses scenario files into sections and steps. README.md beside the scenarios describes the format.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use clusterdns::chain::Transport;
use clusterdns::corefile::parse_duration;
use clusterdns::net::Interface;
use clusterdns::wire::{Class, NameBuf, Type};

use super::outside::UpstreamAnswer;

/// An error in a scenario file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatError {
    /// The line, from 1.
    pub line: usize,
    /// The message.
    pub message: String,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.message)
    }
}

/// A section: one test.
#[derive(Clone, Debug)]
pub struct Section {
    /// The text after `==`.
    pub title: String,
    /// The line, from 1.
    pub line: usize,
    /// The initial state.
    pub setup: Setup,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// The initial state of a section.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The Corefile.
    pub corefile: String,
    /// Manifests, as YAML.
    pub objects: Vec<String>,
    /// Files beside the Corefile: name and text.
    pub files: Vec<(String, String)>,
    /// The network interfaces.
    pub interfaces: Vec<Interface>,
    /// The host name.
    pub hostname: String,
    /// The search list of the server's own resolver.
    pub search_list: Vec<NameBuf>,
    /// The index gets no events before a `sync` step.
    pub unsynced: bool,
    /// Log lines are compared, too.
    pub logs: bool,
    /// The answers of upstreams.
    pub upstream: Vec<UpstreamAnswer>,
    /// The name of the fixture, if the section can run against a server that serves it.
    pub served: Option<String>,
}

/// A step.
#[derive(Clone, Debug)]
pub struct Step {
    /// The line, from 1.
    pub line: usize,
    /// What the step does.
    pub act: Act,
    /// The lines of its body, counted from 0.
    pub body: Range<usize>,
    /// The expected result: the lines of the body, trimmed.
    pub expected: Vec<String>,
    /// A server behind an address may differ here: the number in docs/differences.md, and the text after it.
    pub differs: Option<String>,
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum Act {
    /// Sends a query.
    Query(ClientQuery),
    /// Sends bytes.
    Raw(Vec<u8>, Transport),
    /// Creates or changes objects.
    Apply(String),
    /// Deletes an object: its kind, and `NAMESPACE/NAME` or `NAME`.
    Delete(String, String),
    /// Lists everything again.
    Relist,
    /// Completes the first lists.
    Sync,
    /// Advances the clock.
    Time(Duration),
    /// Writes a file beside the Corefile.
    File(String, String),
    /// Replaces the answers of upstreams.
    Upstream(Vec<UpstreamAnswer>),
    /// Compares the diagnostics of the Corefile.
    Diagnostics,
    /// Compares the warnings about the manifests.
    Warnings,
}

impl Act {
    /// Returns whether the step has a result that is compared.
    pub fn has_result(&self) -> bool {
        matches!(self, Act::Query(_) | Act::Raw(..) | Act::Diagnostics | Act::Warnings)
    }
}

/// A query of a client.
#[derive(Clone, Debug)]
pub struct ClientQuery {
    /// The name, as sent.
    pub name: NameBuf,
    /// The type.
    pub qtype: Type,
    /// The class.
    pub class: Class,
    /// The size and version in OPT, if there is one.
    pub edns: Option<(u16, u8)>,
    /// DO.
    pub dnssec_ok: bool,
    /// Requests NSID.
    pub nsid: bool,
    /// RD.
    pub recursion: bool,
    /// CD.
    pub checking_disabled: bool,
    /// AD.
    pub authentic_data: bool,
    /// The transport.
    pub transport: Transport,
    /// Queries in upper case and mixed case must get the same answer.
    pub case: bool,
    /// The answer may be about another name than the question.
    pub renamed: bool,
    /// EDNS options besides NSID, in wire form.
    pub options: Vec<u8>,
    /// Only the numbers of records and the length are compared.
    pub brief: bool,
    /// The client's address.
    pub from: Option<IpAddr>,
    /// The listener's port.
    pub port: u16,
    /// The listener's address.
    pub to: Option<IpAddr>,
}

impl ClientQuery {
    /// Builds the packet.
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
            let nsid: &[u8] = if self.nsid { &[0, 3, 0, 0] } else { &[] };
            packet.extend(((nsid.len() + self.options.len()) as u16).to_be_bytes());
            packet.extend([nsid, &self.options].concat());
        }
        packet
    }
}

/// Parses a file. `load` returns the text of a file that it refers to.
pub fn parse(text: &str, load: &dyn Fn(&str) -> Result<String, String>) -> Result<Vec<Section>, FormatError> {
    let lines: Vec<&str> = text.lines().collect();
    let mut shared = Setup {
        corefile: String::new(),
        objects: Vec::new(),
        files: Vec::new(),
        interfaces: default_interfaces(),
        hostname: "dns-0".to_owned(),
        search_list: Vec::new(),
        unsynced: false,
        logs: false,
        upstream: Vec::new(),
        served: None,
    };
    let mut sections: Vec<Section> = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let (number, line) = (at + 1, lines[at]);
        let error = |message: String| FormatError { line: number, message };
        at += 1;
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with(char::is_whitespace) {
            return Err(error("an indented line that belongs to no keyword".to_owned()));
        }
        if let Some(title) = line.strip_prefix("== ") {
            let title = title.trim().to_owned();
            if sections.iter().any(|section| section.title == title) {
                return Err(error(format!("a second section '{title}'")));
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
                // A server does not have what only this section defines.
                if ["objects", "file", "interface", "hostname", "search", "unsynced", "upstream"].contains(&keyword) {
                    section.setup.served = None;
                }
                Some(&mut section.setup)
            }
            None => Some(&mut shared),
        };
        if let Some(setup) = setup
            && setup_line(setup, keyword, rest, &block, load).map_err(&error)?
        {
            continue;
        }
        let Some(section) = sections.last_mut() else {
            return Err(error(format!("'{keyword}' is not a keyword before the first section")));
        };
        let act = act(keyword, rest, &block).map_err(&error)?;
        if !act.has_result() && !matches!(act, Act::Apply(_) | Act::File(..) | Act::Upstream(_)) && !body.is_empty() {
            return Err(error(format!("'{keyword}' has no body")));
        }
        let mut expected = Vec::new();
        let mut differs = None;
        if act.has_result() {
            for line in lines[body.clone()].iter().map(|line| line.trim()) {
                match line.strip_prefix("differs:") {
                    Some(words) => differs = Some(difference(words).map_err(&error)?),
                    None => expected.push(line.to_owned()),
                }
            }
        }
        section.steps.push(Step { line: number, act, body, expected, differs });
    }
    Ok(sections)
}

/// Parses a line of the setup, and returns whether it was one.
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
                // In addition to those that are there already.
                Some("and") => setup.objects.push(block()),
                Some(times) if times.starts_with('x') => setup.objects.push(repeated(times, &block())?),
                Some(file) => setup.objects = vec![load(file)?],
            }
        }
        "file" => setup.files.push((word(rest)?, block())),
        "interface" => {
            let mut words = rest.split_whitespace();
            let name = words.next().ok_or("expected the name of an interface and its addresses")?.to_owned();
            let addresses = words.map(|text| text.parse().map_err(|_| format!("'{text}' is not an address")));
            let addresses = addresses.collect::<Result<Vec<IpAddr>, String>>()?;
            // The first one of a file or section replaces the inherited ones.
            if setup.interfaces.iter().any(|interface| interface.name == name) {
                setup.interfaces.clear();
            }
            let index = setup.interfaces.len() as u32 + 1;
            setup.interfaces.push(Interface { name, index, addresses });
        }
        "hostname" => setup.hostname = word(rest)?,
        "search" => {
            let names = rest.split_whitespace().map(NameBuf::from_text).collect::<Result<_, _>>();
            setup.search_list = names.map_err(|error| error.to_string())?;
        }
        "unsynced" => setup.unsynced = true,
        "logs" => setup.logs = true,
        "upstream" => setup.upstream = answers(&block())?,
        "served" => setup.served = Some(word(rest)?),
        _ => return Ok(false),
    }
    Ok(true)
}

/// Parses a step.
fn act(keyword: &str, rest: &str, block: &dyn Fn() -> String) -> Result<Act, String> {
    Ok(match keyword {
        "query" => Act::Query(query(rest)?),
        "raw" => {
            let (transport, bytes) = match rest.strip_prefix("+tcp") {
                Some(bytes) => (Transport::Tcp, bytes),
                None => (Transport::Udp, rest),
            };
            Act::Raw(bytes_of(bytes)?, transport)
        }
        "apply" => Act::Apply(block()),
        "delete" => {
            let (kind, name) = rest.split_once(' ').ok_or("expected a kind and NAMESPACE/NAME")?;
            Act::Delete(kind.to_owned(), word(name)?)
        }
        "relist" => Act::Relist,
        "sync" => Act::Sync,
        "time" => {
            // In nanoseconds, as in Go.
            let time = parse_duration(rest).map_err(|error| format!("'{rest}': {error}"))?;
            Act::Time(Duration::from_nanos(u64::try_from(time).map_err(|_| "time cannot go back")?))
        }
        "file" => Act::File(word(rest)?, block()),
        "upstream" => Act::Upstream(answers(&block())?),
        "diagnostics" => Act::Diagnostics,
        "warnings" => Act::Warnings,
        _ => return Err(format!("'{keyword}' is not a keyword here")),
    })
}

/// Parses the answers of upstreams, one on each line.
fn answers(block: &str) -> Result<Vec<UpstreamAnswer>, String> {
    block.lines().filter(|line| !line.trim().is_empty()).map(UpstreamAnswer::parse).collect()
}

/// Parses `NAME TYPE FLAG…`.
fn query(rest: &str) -> Result<ClientQuery, String> {
    let mut words = rest.split_whitespace();
    let (Some(name), Some(qtype)) = (words.next(), words.next()) else {
        return Err("expected a name and a type".to_owned());
    };
    let mut query = ClientQuery {
        name: NameBuf::from_text(name).map_err(|error| format!("'{name}': {error}"))?,
        qtype: Type::from_mnemonic(qtype).ok_or(format!("'{qtype}' is not a type"))?,
        class: Class::IN,
        edns: None,
        dnssec_ok: false,
        nsid: false,
        recursion: true,
        checking_disabled: false,
        authentic_data: false,
        transport: Transport::Udp,
        case: false,
        renamed: false,
        options: Vec::new(),
        brief: false,
        from: None,
        port: 53,
        to: None,
    };
    for word in words {
        let (flag, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || value.parse::<u16>().map_err(|_| format!("'{word}': expected a number"));
        let address = || value.parse::<IpAddr>().map_err(|_| format!("'{word}': expected an address")).map(Some);
        match flag {
            "+edns" => query.edns = Some((if value.is_empty() { 1232 } else { number()? }, 0)),
            "+version" => query.edns = Some((1232, number()? as u8)),
            "+do" => query.dnssec_ok = true,
            "+nsid" => query.nsid = true,
            "+tcp" => query.transport = Transport::Tcp,
            "+cd" => query.checking_disabled = true,
            "+ad" => query.authentic_data = true,
            "+norec" => query.recursion = false,
            "+case" => query.case = true,
            "+renamed" => query.renamed = true,
            "+option" => query.options.extend(option_of(value)?),
            "+brief" => query.brief = true,
            "class" => query.class = Class::from_mnemonic(value).ok_or(format!("'{value}' is not a class"))?,
            "from" => query.from = address()?,
            "to" => query.to = address()?,
            "port" => query.port = number()?,
            _ => return Err(format!("'{word}' is not a flag of a query")),
        }
    }
    if (query.dnssec_ok || query.nsid || !query.options.is_empty()) && query.edns.is_none() {
        query.edns = Some((1232, 0));
    }
    Ok(query)
}

/// Parses an EDNS option, `CODE:HEX`.
fn option_of(text: &str) -> Result<Vec<u8>, String> {
    let (code, data) = text.split_once(':').ok_or(format!("'{text}': expected CODE:HEX"))?;
    let code: u16 = code.parse().map_err(|_| format!("'{code}': expected a number"))?;
    let data = bytes_of(data)?;
    Ok([&code.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), &data].concat())
}

/// Parses bytes: groups of hexadecimal digits, `"text"`, and `*N` for N repetitions of the previous item.
fn bytes_of(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut last = 0..0;
    for word in text.split_whitespace() {
        let start = bytes.len();
        if let Some(times) = word.strip_prefix('*') {
            let times: usize = times.parse().map_err(|_| format!("'{word}': expected a number"))?;
            let item: Vec<u8> = bytes[last.clone()].to_vec();
            bytes.extend(item.repeat(times.saturating_sub(1)));
            continue;
        }
        match word.strip_prefix('"').and_then(|word| word.strip_suffix('"')) {
            Some(text) => bytes.extend(text.bytes()),
            None => {
                let pair = |at: usize| word.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
                let pairs = (0..word.len()).step_by(2).map(pair).collect::<Option<Vec<u8>>>();
                bytes.extend(pairs.ok_or(format!("'{word}' is not hexadecimal"))?);
            }
        }
        last = start..bytes.len();
    }
    Ok(bytes)
}

/// Repeats YAML `xN` times, replacing `{n}` by the number of the repetition, from 0. A line that ends in `#xN` is
/// repeated within each repetition, replacing `{i}`.
fn repeated(times: &str, block: &str) -> Result<String, String> {
    let count = |text: &str| text.parse::<usize>().map_err(|_| format!("'x{text}': expected a number"));
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

/// Parses the text after `differs:`, which starts with a number of docs/differences.md.
fn difference(words: &str) -> Result<String, String> {
    let words = words.trim();
    let digits = words.chars().take_while(char::is_ascii_digit).count();
    if digits == 0 {
        Err("'differs:' starts with a number of docs/differences.md".to_owned())
    } else {
        Ok(words.to_owned())
    }
}

/// Returns the only word.
fn word(rest: &str) -> Result<String, String> {
    let mut words = rest.split_whitespace();
    match (words.next(), words.next()) {
        (Some(word), None) => Ok(word.to_owned()),
        _ => Err(format!("expected one word, not '{rest}'")),
    }
}

/// Returns the range of indented lines from `at` on, including empty ones between them.
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

/// Removes four leading blanks from each line.
fn dedent(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line.trim_start()))).collect()
}

/// Returns the interfaces of a Pod of the sample cluster.
fn default_interfaces() -> Vec<Interface> {
    let interface = |name: &str, index, addresses: [&str; 1]| Interface {
        name: name.to_owned(),
        index,
        addresses: addresses.iter().filter_map(|text| text.parse().ok()).collect(),
    };
    vec![interface("lo", 1, ["127.0.0.1"]), interface("eth0", 2, ["10.244.0.2"])]
}
