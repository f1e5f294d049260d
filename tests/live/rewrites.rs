//! *rewrite* beside CoreDNS: random rules and questions, in front of an upstream that has something for every name.
//!
//! `SEED=N` chooses other rules and questions, `BLOCKS=N` another number of server blocks. A block with a difference is
//! shown with its rules, so that it can be run by hand.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clusterdns::wire::hickory::decode;
use clusterdns::wire::{Class, NameBuf, Query, Type};
use fastrand::Rng;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::NULL;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use libtest_mimic::Failed;

use super::Test;
use super::ports::{self, on_loopback};
use super::server::{Server, Software};
use super::shared;

/// The default number of server blocks, each with rules of its own.
const BLOCKS: usize = 320;
/// The number of questions for each.
const QUESTIONS: usize = 24;
/// The time after which a query counts as unanswered and is repeated.
const TIMEOUT: Duration = Duration::from_millis(400);

const LABELS: [&str; 12] = ["a", "b", "www", "cx", "dx", "nx", "fail", "ref", "empty", "mail", "one.two", "_http._tcp"];
const ZONES: [&str; 5] = ["a.test", "b.test", "client", "b.test.example", "x.a.test"];
const TYPES: [Type; 13] = [
    Type::A,
    Type::A,
    Type::A,
    Type::AAAA,
    Type::CNAME,
    Type::MX,
    Type::SRV,
    Type::NS,
    Type::PTR,
    Type::NAPTR,
    Type::DNAME,
    Type::SOA,
    Type::TXT,
];
/// Codes of local EDNS options.
const CODES: [u16; 3] = [0xffee, 65_001, 65_002];

pub fn tests() -> Vec<Test> {
    vec![Test::new("rewrite: as CoreDNS", as_coredns), Test::new("rewrite: the same errors as CoreDNS", same_errors)]
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

//--- The upstream

/// A server that answers every name, from its first label and the query type.
pub struct Upstream {
    pub at: SocketAddr,
    stops: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Upstream {
    pub fn start() -> Upstream {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let (at, stops) = (socket.local_addr().expect("an address"), Arc::new(AtomicBool::new(false)));
        let stop = stops.clone();
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while !stop.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut bytes) else { continue };
                if let Some(answer) = answer(&bytes[..len]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Upstream { at, stops, thread: Some(thread) }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Relaxed);
        self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Returns the upstream's response to a query.
fn answer(packet: &[u8]) -> Option<Vec<u8>> {
    let query = Query::parse(packet).ok()?;
    let asked = Message::from_vec(packet).ok()?;
    let name = query.sent_name().to_string();
    let first = name.split('.').next().unwrap_or_default().to_lowercase();
    let parent = name.split_once('.').map_or(".", |(_, parent)| if parent.is_empty() { "." } else { parent });
    let soa = format!("authority {parent} 60 SOA ns.{parent} host.{parent} 7 1 2 3 40");
    let (code, lines) = match &first[..] {
        "nx" => (ResponseCode::NXDomain, vec![soa]),
        "fail" => (ResponseCode::ServFail, vec![]),
        "ref" => (ResponseCode::Refused, vec![]),
        "empty" => (ResponseCode::NoError, vec![soa]),
        _ => (ResponseCode::NoError, records(&query, &name, &first, parent)),
    };
    let mut response = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    response.metadata.recursion_desired = asked.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.response_code = code;
    response.queries = asked.queries.clone();
    if asked.edns.is_some() {
        response.edns = Some(Edns::new());
    }
    for line in lines {
        let words: Vec<&str> = line.splitn(5, ' ').collect();
        // A name may become too long.
        let Ok(owner) = Name::from_ascii(words[1]) else { continue };
        let Some(data) = data(words[3], words[4]) else { continue };
        let record = Record::from_rdata(owner, words[2].parse().ok()?, data);
        match words[0] {
            "answer" => response.answers.push(record),
            "authority" => response.authorities.push(record),
            _ => response.additionals.push(record),
        };
    }
    response.to_vec().ok()
}

/// Parses the data of a record. hickory does not have DNAME.
fn data(rtype: &str, text: &str) -> Option<RData> {
    if rtype != "DNAME" {
        return RData::try_from_str(RecordType::from_str(rtype).ok()?, text).ok();
    }
    let target = NameBuf::from_text(text).ok()?;
    Some(RData::Unknown { code: RecordType::Unknown(39), rdata: NULL::with(target.as_wire().to_vec()) })
}

/// Returns the records for a name that exists.
fn records(query: &Query<'_>, name: &str, first: &str, parent: &str) -> Vec<String> {
    let line = |text: String| text;
    match query.question.qtype {
        Type::TXT => {
            let options = query.edns.iter().flat_map(|edns| edns.options());
            let options: String =
                options.map(|(code, data)| format!(" {code}:{data:02x?}").replace(", ", "")).collect();
            let edns = if query.edns.is_some() { " opt" } else { "" };
            let text = format!("{name} {}{edns}{options}", query.question.qclass);
            vec![format!("answer {name} 5 TXT \"{}\"", text.chars().take(250).collect::<String>())]
        }
        Type::A | Type::AAAA if first.starts_with('c') => vec![
            format!("answer {name} 300 CNAME x.{parent}"),
            format!("answer x.{parent} 200 CNAME edge.net."),
            line("answer edge.net. 100 A 192.0.2.7".to_owned()),
        ],
        Type::A | Type::AAAA if first.starts_with('d') => vec![
            format!("answer {name} 300 CNAME www.b.test."),
            line("answer www.b.test. 10 A 192.0.2.8".to_owned()),
            format!("authority {parent} 30 NS ns.{parent}"),
        ],
        Type::A => vec![format!("answer {name} 20 A 192.0.2.1"), format!("answer {name} 20 A 192.0.2.2")],
        Type::AAAA => vec![format!("answer {name} 600 AAAA 2001:db8::1")],
        Type::CNAME => vec![format!("answer {name} 60 CNAME x.{name}")],
        Type::MX => {
            vec![format!("answer {name} 60 MX 10 mail.{name}"), format!("additional mail.{name} 60 A 192.0.2.3")]
        }
        Type::SRV => vec![
            format!("answer {name} 60 SRV 1 2 80 host.{parent}"),
            format!("additional host.{parent} 60 A 192.0.2.4"),
        ],
        Type::NS => vec![format!("answer {name} 60 NS ns.{name}"), format!("additional ns.{name} 60 A 192.0.2.5")],
        Type::PTR => vec![format!("answer {name} 60 PTR host.b.test.")],
        Type::NAPTR => vec![format!("answer {name} 60 NAPTR 1 2 \"S\" \"SIP+D2U\" \"\" _sip._udp.{parent}")],
        Type::DNAME => vec![format!("answer {name} 60 DNAME other.{parent}")],
        Type::SOA => vec![format!("answer {name} 60 SOA ns.{name} host.{name} 1 2 3 4 5")],
        _ => vec![],
    }
}

//--- Rules

fn pick<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(..from.len())]
}

fn name(rng: &mut Rng) -> String {
    match rng.u8(..8) {
        0 => pick(rng, &ZONES).to_owned(),
        1 => format!("{}.{}.{}", pick(rng, &LABELS), pick(rng, &LABELS), pick(rng, &ZONES)),
        _ => format!("{}.{}", pick(rng, &LABELS), pick(rng, &ZONES)),
    }
}

fn dot(rng: &mut Rng) -> &'static str {
    if rng.bool() { "." } else { "" }
}

/// Returns a way to match and a text for it, for rules about names of queries.
fn matcher(rng: &mut Rng) -> String {
    match rng.u8(..6) {
        0 => format!("exact {}", name(rng)),
        1 => format!("prefix {}", pick(rng, &LABELS)),
        2 => format!("suffix {}{}{}", dot(rng), pick(rng, &ZONES), dot(rng)),
        3 => format!("substring {}{}", pick(rng, &["test", "a", ".b", "x."]), dot(rng)),
        4 => format!("regex {}", pick(rng, &[r"^(c|d)x", r"test\.$", r".*", r"^[^.]+\.client\.$", r"(?i)WWW"])),
        _ => name(rng),
    }
}

fn answers(rng: &mut Rng) -> String {
    let name = |rng: &mut Rng| {
        pick(
            rng,
            &[
                r"name (.*)\.b\.test {1}.client",
                r"name (.*)\.b\.test\. {1}.a.test.",
                r"name ^([^.]+)\.(.*)$ {1}.{2}",
                r"name edge\.net other.net",
            ],
        )
    };
    let value = |rng: &mut Rng| {
        pick(
            rng,
            &[
                r"value (.*)\.b\.test\. {1}.client.",
                r"value (.*)\.(a|b)\.test {1}.{2}.test.example",
                r"value ^mail mail.client",
                r"value (edge)\.net {0}x",
            ],
        )
    };
    match rng.u8(..8) {
        0 | 1 => String::new(),
        2 | 3 => " answer auto".to_owned(),
        4 => format!(" answer {}", name(rng)),
        5 => format!(" answer {}", value(rng)),
        6 => format!(" answer auto {}answer {}", "", value(rng)),
        _ => format!(" answer {} {}{}", name(rng), if rng.bool() { "answer " } else { "" }, value(rng)),
    }
}

/// Returns one rule.
fn rule(rng: &mut Rng) -> String {
    let mode = pick(rng, &["", "", "stop ", "continue ", "continue ", "CONTINUE "]);
    let rule = match rng.u8(..20) {
        0..=2 => match rng.bool() {
            true => format!("name {} {}", name(rng), name(rng)),
            false => format!("name exact {} {}{}", name(rng), name(rng), answers(rng)),
        },
        3 => {
            let (from, to) = (pick(rng, &["www", "c", "a", "one"]), pick(rng, &["b", "dx", "mail"]));
            format!("name prefix {from}{} {to}{}", dot(rng), answers(rng))
        }
        4..=6 => {
            let at = dot(rng);
            let (from, to, answers) = (pick(rng, &ZONES), pick(rng, &ZONES), answers(rng));
            format!("name suffix {at}{from} {at}{to}{answers}")
        }
        7 => {
            let (from, to) = (pick(rng, &["test", "a", "client"]), pick(rng, &["test", "b", "b.test"]));
            format!("name substring {from} {to}{}", answers(rng))
        }
        8..=10 => {
            let (from, to) = [
                (r"(.*)\.a\.test", "{1}.b.test"),
                (r"(.*)\.a\.test\.", "{1}.b.test."),
                (r"^(\w+)\.(.*)\.$", "{2}"),
                (r"^([^.]+)\.client\.$", "{1}-{1}.b.test"),
                (r"(c|d)x\.(.*)\.$", "{1}y.{2}"),
                (r"^(.*)\.(a|b)\.test\.$", "{1}.{2}.example"),
                (r"b\.test", "www.client"),
                (r"(.+)\.$", "{1}"),
                (r"^(b.*)$", "{1}"),
            ][rng.usize(..9)];
            format!("name regex {from} {to}{}", answers(rng))
        }
        11 => format!(
            "type {} {}",
            pick(rng, &["A", "AAAA", "mx", "ANY", "TXT"]),
            pick(rng, &["A", "TXT", "SRV", "aaaa"])
        ),
        12 => format!("class {} {}", pick(rng, &["IN", "CH"]), pick(rng, &["IN", "in"])),
        13 | 14 => format!("ttl {} {}", matcher(rng), pick(rng, &["30", "10-50", "100-", "-25", "0"])),
        15 => {
            let codes = ["NXDOMAIN", "NOERROR", "SERVFAIL", "REFUSED", "5", "3", "notimp"];
            format!("rcode {} {} {}", matcher(rng), pick(rng, &codes), pick(rng, &codes))
        }
        16 => {
            let rule = [
                "cname exact edge.net. b.test.",
                "cname edge.net www.client",
                "cname exact edge.net nx.client",
                "cname suffix ge.net. .b.test.",
                r"cname regex ^(ed)ge\.net\. {1}.a.test.",
                "cname prefix edge mail",
            ];
            pick(rng, &rule).to_owned()
        }
        _ => {
            let code = CODES[rng.usize(..CODES.len())];
            let action = pick(rng, &["set", "append", "replace"]);
            let revert = if rng.bool() { " revert" } else { "" };
            match rng.u8(..8) {
                0 => format!("edns0 local unset {code}"),
                1 => format!("edns0 nsid {action}{revert}"),
                2 => format!("edns0 subnet {action} {} {}{revert}", rng.u8(..33), rng.u8(..129)),
                3 => "edns0 subnet unset".to_owned(),
                4 | 5 => {
                    let data = pick(rng, &["{qname}", "{qtype}", "{client_ip}", "{protocol}", "{server_ip}"]);
                    format!("edns0 local {action} {code} {data}{revert}")
                }
                _ => format!("edns0 local {action} {code:#x} {}{revert}", pick(rng, &["abc", "0x0102ff", "0x"])),
            }
        }
    };
    format!("{mode}{rule}")
}

//--- Questions

struct Asked {
    packet: Vec<u8>,
    text: String,
}

fn question(rng: &mut Rng) -> Asked {
    let mut name = name(rng);
    if rng.u8(..4) == 0 {
        name = name.chars().map(|c| if rng.bool() { c.to_ascii_uppercase() } else { c }).collect();
    }
    let qtype = TYPES[rng.usize(..TYPES.len())];
    let edns = rng.bool();
    let mut options = Vec::new();
    if edns && rng.u8(..3) == 0 {
        let code = if rng.u8(..4) == 0 { 3 } else { CODES[rng.usize(..CODES.len())] };
        let data: &[u8] = if code == 3 { b"" } else { b"client" };
        options.extend(code.to_be_bytes());
        options.extend((data.len() as u16).to_be_bytes());
        options.extend(data);
    }
    let mut packet = rng.u16(..).to_be_bytes().to_vec();
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)]);
    packet.extend(NameBuf::from_text(&name).expect("a name").as_wire());
    packet.extend(qtype.0.to_be_bytes());
    packet.extend(Class::IN.0.to_be_bytes());
    if edns {
        packet.extend([0, 0, 41, 4, 208, 0, 0, 0, 0]);
        packet.extend((options.len() as u16).to_be_bytes());
        packet.extend(&options);
    }
    let text = format!("{name} {qtype}{} {options:02x?}", if edns { " with EDNS" } else { "" });
    Asked { packet, text }
}

/// A response, for comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    rcode: u16,
    flags: String,
    /// The question, with its letter case.
    question: Vec<u8>,
    has_edns: bool,
    /// The codes and data of its EDNS options.
    options: Vec<(u16, String)>,
    sections: [Vec<String>; 3],
}

/// Sends a query, up to this number of times.
fn ask(socket: &UdpSocket, packet: &[u8], times: usize) -> Option<Seen> {
    let mut bytes = [0; 4_096];
    for _ in 0..times {
        socket.send(packet).ok()?;
        while let Ok(len) = socket.recv(&mut bytes) {
            if bytes[..2] == packet[..2] {
                return Some(seen(&bytes[..len]));
            }
        }
    }
    None
}

/// Returns a response as a query, which is parsed with its options.
fn as_query(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[2] &= 0x7f;
    bytes
}

fn seen(bytes: &[u8]) -> Seen {
    let message = decode(bytes).unwrap_or_else(|| panic!("hickory cannot read {bytes:02x?}"));
    let question = Query::readable_question(bytes).map(<[u8]>::to_vec).unwrap_or_default();
    let head = &message.metadata;
    let flags = [("aa", head.authoritative), ("tc", head.truncation), ("ra", head.recursion_available)];
    let sections = [&message.answers, &message.authorities, &message.additionals].map(|records| {
        let line = |record: &Record| {
            format!("{} {} {} {}", record.name, record.ttl, record.record_type(), record.data).to_lowercase()
        };
        let mut lines: Vec<String> = records.iter().map(line).collect();
        lines.sort();
        lines
    });
    let edns = Query::parse(&as_query(bytes)).ok().and_then(|query| {
        let options = query.edns?.options().map(|(code, data)| (code, format!("{data:02x?}")));
        Some(options.collect())
    });
    Seen {
        rcode: u16::from(head.response_code),
        flags: flags.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect::<Vec<_>>().join(" "),
        question,
        has_edns: message.edns.is_some(),
        options: edns.unwrap_or_default(),
        sections,
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = NameBuf::from_text(".").expect("the root");
        let question = clusterdns::wire::Name::split_from(&self.question).map_or(name, |(name, _)| name.to_owned());
        let (rcode, edns) = (clusterdns::wire::Rcode(self.rcode), if self.has_edns { " opt" } else { "" });
        write!(
            f,
            "{rcode} {} for {question} {:?}{edns} {:?}",
            self.flags,
            &self.question.iter().rev().take(4).collect::<Vec<_>>(),
            self.options
        )?;
        for (name, lines) in ["answer", "authority", "additional"].into_iter().zip(&self.sections) {
            lines.iter().try_for_each(|line| write!(f, "\n        {name} {line}"))?;
        }
        Ok(())
    }
}

/// Removes what is known to differ (`docs/differences.md`), of both responses.
fn without_known(ours: &mut Seen, theirs: &mut Seen, asked: &Asked, rules: &[String]) {
    // The client's question always comes back.
    assert_eq!(ours.question, Query::parse(&asked.packet).expect("a query").question_wire(), "{}", asked.text);
    theirs.question.clone_from(&ours.question);
    // A client without EDNS gets no OPT.
    if !ours.has_edns {
        theirs.has_edns = false;
        theirs.options.clear();
    }
    // A server block repeats the options that its own rules name, and none after a rule has made an invalid name.
    let names = |code: u16| {
        let texts = [format!(" {code} "), format!(" {code:#x} "), format!(" {code}")];
        rules.iter().any(|rule| rule.contains(&texts[0]) || rule.contains(&texts[1]) || rule.ends_with(&texts[2]))
    };
    theirs.options.retain(|(code, _)| names(*code));
    if ours.rcode == 2 && ours.options.is_empty() {
        theirs.options.clear();
    }
    // The code is that of the last name of a chain.
    let has_cname = rules.iter().any(|rule| rule.contains("cname"));
    if has_cname && theirs.rcode == 0 && ours.rcode != 0 && !theirs.sections[0].is_empty() {
        theirs.rcode = ours.rcode;
        if ours.rcode == 2 {
            (theirs.sections, theirs.flags) = (ours.sections.clone(), ours.flags.clone());
        }
    }
    // A denial has the SOA of that name.
    if has_cname && !theirs.sections[0].is_empty() && matches!(&ours.sections[1][..], [soa] if soa.contains(" soa ")) {
        theirs.sections[1].clone_from(&ours.sections[1]);
    }
}

//--- The tests

fn as_coredns() -> Result<(), Failed> {
    let (seed, count) = (number("SEED", 1), number("BLOCKS", BLOCKS as u64) as usize);
    let mut rng = Rng::with_seed(seed);
    let upstream = Upstream::start();
    let blocks: Vec<Vec<String>> = (0..count).map(|_| (0..rng.usize(1..5)).map(|_| rule(&mut rng)).collect()).collect();
    let start = |software| {
        let ports: Vec<u16> = blocks.iter().map(|_| ports::free()).collect();
        let block = |(rules, port): (&Vec<String>, &u16)| {
            let rules: String = rules.iter().map(|rule| format!("    rewrite {rule}\n")).collect();
            format!(".:{port} {{\n    bind 127.0.0.1\n{rules}    forward . {}\n}}\n", upstream.at)
        };
        let text: String = blocks.iter().zip(&ports).map(block).collect();
        let folder = shared::folder().join(format!("rewrites-{software:?}-{seed}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        (Server::start(software, &text, ports[0], folder), ports)
    };
    let (ours, our_ports) = start(Software::Clusterdns);
    let (theirs, their_ports) = start(Software::CoreDns);
    let (mut different, mut asked_in_all, mut answered) = (Vec::new(), 0, 0);
    for (at, rules) in blocks.iter().enumerate() {
        let connect = |port: u16| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
            socket.connect(on_loopback(port)).expect("an address");
            socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
            socket
        };
        let (our, their) = (connect(our_ports[at]), connect(their_ports[at]));
        for _ in 0..QUESTIONS {
            let asked = question(&mut rng);
            asked_in_all += 1;
            let first = ask(&our, &asked.packet, 10);
            // CoreDNS cannot encode some names that rules make, and then sends nothing.
            let is_failure = first.as_ref().is_some_and(|seen| seen.rcode == 2);
            let second = ask(&their, &asked.packet, if is_failure { 1 } else { 10 });
            let text = |seen: &Option<Seen>| seen.as_ref().map_or("no response".to_owned(), Seen::to_string);
            let shown = (text(&first), text(&second));
            let is_same = match (first, second) {
                (Some(mut ours), Some(mut theirs)) => {
                    answered += usize::from(!ours.sections[0].is_empty());
                    without_known(&mut ours, &mut theirs, &asked, rules);
                    ours == theirs
                }
                (Some(_), None) => is_failure,
                (None, _) => false,
            };
            if !is_same {
                let rules: String = rules.iter().map(|rule| format!("    rewrite {rule}\n")).collect();
                different.push(format!("{}\n{rules}    ours: {}\n    CoreDNS: {}\n", asked.text, shown.0, shown.1));
            }
        }
    }
    assert!(answered * 3 > asked_in_all, "only {answered} of {asked_in_all} questions have answers");
    drop((ours, theirs));
    if different.is_empty() {
        return Ok(());
    }
    let first: String = different.iter().take(15).cloned().collect();
    Err(format!("SEED={seed}: {} of {asked_in_all} differ\n{first}", different.len()).into())
}

/// Stanzas, right and wrong.
const STANZAS: &[&str] = &[
    "",
    "stop",
    "name",
    "name a",
    "name a b",
    "name a b c",
    "NAME EXACT a b",
    "name exact a b answer auto",
    "name exact a b answer name a",
    "name exact a b answer auto answer name a b",
    "name exact a b answer value a b name c d",
    "name exact a b answer",
    "name exact a b answers auto",
    "name exact a *.b",
    "name exact a.{1} b",
    "name exact a.{1} (b)",
    "name suffix a b answer auto value c d",
    "name suffix a b answer auto answer",
    "name suffix a b answer other c d",
    "name regex a( b",
    "name regex (a) {1}{0}",
    "name regex (a) {1}",
    "name regex a {0}",
    "name regex a {1}",
    "name regex (a) {2}",
    "name regex (a)(b) {7}{8}",
    "name regex a (?i b",
    "name regex a b metadata",
    "name regex (a) {1}.{b/c} metadata",
    "name regex (a) {2} metadata",
    "name regex (a) {+1} metadata",
    "name regex a {b metadata",
    "name regex a b} metadata",
    "name regex a {bc} metadata",
    "name regex a {/b} metadata",
    "name prefix a b metadata",
    "name regex a b metadata answer auto",
    "name regex a b metadata auto",
    "name infix a b",
    "type A AAAA",
    "type a ANY",
    "type A",
    "type A B C",
    "type A TYPE65280",
    "type A TLSA",
    "class IN CH",
    "class IN CS",
    "class IN XX",
    "ttl a 5",
    "ttl a 5-",
    "ttl a -",
    "ttl a 9-5",
    "ttl a +5",
    "ttl exact a 5",
    "ttl regex a( 5",
    "ttl infix a 5",
    "ttl a",
    "ttl exact a 5 6",
    "rcode a NXDOMAIN NOERROR",
    "rcode a 3 0",
    "rcode a 24 0",
    "rcode a nxdomain NOTIMPL",
    "rcode a BADVERS NOERROR",
    "rcode a BADSIG DSOTYPENI",
    "rcode suffix a 3 0",
    "rcode a 3",
    "rcode infix a 3 0",
    "rcode suffix a 3 0 1",
    "cname a b",
    "cname suffix a b",
    "cname infix a b",
    "cname a",
    "cname regex (a {1}",
    "cname regex (a) {3}",
    "edns0",
    "edns0 local",
    "edns0 local set 1",
    "edns0 local set 0xffee abc",
    "edns0 local set 0xffee 0xabc",
    "edns0 local set 0xffee 0xabcd",
    "edns0 local set 65536 a",
    "edns0 local set 0b11 a",
    "edns0 local set 08 a",
    "edns0 LOCAL SET 1 {qname}",
    "edns0 local set 1 {name}",
    "edns0 local set 1 {a/b}",
    "edns0 local set 1 a revert",
    "edns0 local set 1 revert",
    "edns0 local unset 1",
    "edns0 local unset 1 revert",
    "edns0 local put 1 a",
    "edns0 nsid set",
    "edns0 nsid set a",
    "edns0 nsid set revert",
    "edns0 nsid unset",
    "edns0 subnet set 24 56",
    "edns0 subnet set 33 56",
    "edns0 subnet set 24 129",
    "edns0 subnet set 24",
    "edns0 subnet unset",
    "edns0 subnet unset 24 56",
    "edns0 cookie set",
    "answer name a b",
    "names a b",
    "stop {\n        name a b\n    }",
    "{\n        name exact a b\n        answer auto\n    }",
    "continue {\n        name regex (a) {1}\n        answer name a b\n    }",
    "name {\n        exact a b\n    }",
    "name a b {\n        answer auto\n    }",
    "{\n    }",
];

/// Stanzas are accepted or refused as by CoreDNS.
fn same_errors() -> Result<(), Failed> {
    let is_accepted = |software, stanza: &str| {
        let port = ports::free();
        let folder = shared::folder().join(format!("rewrite-errors-{port}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let text = format!(".:{port} {{\n    bind 127.0.0.1\n    rewrite {stanza}\n    whoami\n}}\n");
        let mut server = Server::launch(software, &text, port, folder);
        for _ in 0..500 {
            if !server.is_running() {
                return false;
            }
            if server.ask("localhost. A").is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("neither refused nor served: {stanza}\n{}", server.last_words());
    };
    let mut different = String::new();
    for stanza in STANZAS {
        let (ours, theirs) = (is_accepted(Software::Clusterdns, stanza), is_accepted(Software::CoreDns, stanza));
        if ours != theirs {
            different += &format!("{stanza}: accepted {ours}, by CoreDNS {theirs}\n");
        }
    }
    if different.is_empty() { Ok(()) } else { Err(different.into()) }
}
