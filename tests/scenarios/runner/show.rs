//! Formats a response as text for comparison, and checks rules that hold for every response.

use std::collections::BTreeMap;

use clusterdns::chain::Transport;
use clusterdns::wire::hickory::decode;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{RData, Record};

/// A response as text.
pub struct Shown {
    /// The lines; records of each section are sorted.
    pub lines: Vec<String>,
    /// TC is set.
    pub truncated: bool,
}

/// What of a response is shown and checked.
#[derive(Clone, Copy, Default)]
pub struct Look {
    /// Only the numbers of records and the length are shown.
    pub brief: bool,
    /// The answer may be about another name than the question.
    pub renamed: bool,
}

/// Formats the response to `packet`, or returns the rule that it breaks. A missing response is `no response`.
pub fn show(packet: &[u8], answer: Option<&[u8]>, transport: Transport, look: Look) -> Result<Shown, String> {
    let Some(answer) = answer else { return Ok(Shown { lines: vec!["no response".to_owned()], truncated: false }) };
    let word = |bytes: &[u8], at: usize| bytes.get(at..at + 2).map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]));
    if answer.len() < 12 || answer[..2] != packet[..2] || answer[2] & 0x80 == 0 {
        return Err(format!("not a response to this ID: {answer:02x?}"));
    }
    if word(answer, 4) > 1 {
        return Err("more than one question".to_owned());
    }
    let Some(message) = decode(answer) else { return Err(format!("hickory cannot read {answer:02x?}")) };
    let asked = (word(packet, 4) == 1).then(|| decode(packet)).flatten();
    rules(packet, answer, &message, asked.as_ref(), transport, look)?;
    Ok(Shown { lines: lines(answer, &message, look.brief), truncated: message.metadata.truncation })
}

/// Checks rules that hold for every response.
fn rules(
    packet: &[u8], answer: &[u8], message: &Message, asked: Option<&Message>, transport: Transport, look: Look,
) -> Result<(), String> {
    if packet[2] & 0x78 != answer[2] & 0x78 {
        return Err("the opcode is not that of the query".to_owned());
    }
    if !message.queries.is_empty() {
        let len = packet[12..].iter().position(|byte| *byte == 0).unwrap_or(0) + 5;
        if answer.get(12..12 + len) != packet.get(12..12 + len) {
            return Err("the question is not echoed byte for byte".to_owned());
        }
    }
    let Some(asked) = asked else { return Ok(()) };
    if message.queries.is_empty() {
        // hickory follows pointers in questions, where they are invalid.
        if message.metadata.response_code == ResponseCode::FormErr {
            return Ok(());
        }
        return Err("the question is not echoed".to_owned());
    }
    if asked.edns.is_some() != message.edns.is_some() {
        return Err("OPT in only one of query and response".to_owned());
    }
    let limit = if transport.is_datagram() {
        asked.edns.as_ref().map_or(512, |edns| usize::from(edns.max_payload()).max(512))
    } else {
        65_535
    };
    if answer.len() > limit {
        return Err(format!("{} bytes, where {limit} are allowed", answer.len()));
    }
    // A stub resolver that reads from top to bottom must find a name before its records.
    let mut known: Vec<_> = asked.queries.iter().map(|query| query.name().clone()).collect();
    for record in &message.answers {
        if !known.contains(&record.name) && !look.renamed {
            return Err(format!("the answer starts with a record of another name: {}", record_text(record)));
        }
        if let RData::CNAME(target) = &record.data {
            known.push(target.0.clone());
        }
    }
    for section in [&message.answers, &message.authorities, &message.additionals] {
        let mut seen: Vec<String> = section.iter().map(|record| record_text(record).to_lowercase()).collect();
        seen.sort();
        if let Some(pair) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("the same record twice: {}", pair[0]));
        }
    }
    Ok(())
}

/// Formats the lines.
fn lines(answer: &[u8], message: &Message, brief: bool) -> Vec<String> {
    let head = &message.metadata;
    let code = u16::from(head.response_code);
    let mut first = clusterdns::wire::Rcode(code).to_string();
    let flags = [
        ("aa", head.authoritative),
        ("tc", head.truncation),
        ("rd", head.recursion_desired),
        ("ra", head.recursion_available),
        ("ad", head.authentic_data),
        ("cd", head.checking_disabled),
    ];
    for (name, _) in flags.into_iter().filter(|(_, set)| *set) {
        first = format!("{first} {name}");
    }
    let mut options = Vec::new();
    if let Some(edns) = &message.edns {
        first += &format!(" edns={}", edns.max_payload());
        if edns.flags().dnssec_ok {
            first += " do";
        }
        options.extend(edns.options().as_ref().iter().map(|(_, option)| option_text(option)));
        options.sort();
    }
    if brief {
        first += &format!(" len={}", answer.len());
    }
    if message.queries.is_empty() {
        first += " no question";
    }
    let mut lines = vec![first];
    for (name, section) in
        [("answer", &message.answers), ("authority", &message.authorities), ("additional", &message.additionals)]
    {
        if brief {
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            section.iter().for_each(|record| *counts.entry(record.record_type().to_string()).or_default() += 1);
            lines.extend(counts.iter().map(|(rtype, count)| format!("{name} {count} {rtype}")));
            continue;
        }
        let mut records: Vec<String> = section.iter().map(|record| format!("{name} {}", record_text(record))).collect();
        records.sort();
        lines.extend(records);
    }
    lines.extend(options);
    lines
}

/// Formats a record: owner, TTL, type, data. The serial of an SOA depends on the clock, so that any but 0 is `_`. The
/// usual values of the SOA of a cluster zone are left out.
fn record_text(record: &Record) -> String {
    let data = match &record.data {
        RData::SOA(soa) => {
            let serial = if soa.serial == 0 { "0" } else { "_" };
            let owner = &record.name;
            let minimum = soa.minimum;
            let text = format!("{} {} {serial} {} {} {} ", soa.mname, soa.rname, soa.refresh, soa.retry, soa.expire);
            let usual = format!("ns.dns.{owner} hostmaster.{owner} {serial} 7200 1800 86400 ");
            format!("{}{minimum}", if text == usual { format!("... {serial} ... ") } else { text })
        }
        data => data.to_string(),
    };
    let class = match record.dns_class {
        hickory_proto::rr::DNSClass::IN => String::new(),
        other => format!("{other} "),
    };
    format!("{} {} {class}{} {data}", record.name, record.ttl, record.record_type())
}

/// Formats an EDNS option.
fn option_text(option: &EdnsOption) -> String {
    match option {
        EdnsOption::NSID(data) => format!("nsid {}", String::from_utf8_lossy(data.as_ref())),
        EdnsOption::Unknown(15, data) if data.len() >= 2 => {
            format!("ede {} {}", u16::from_be_bytes([data[0], data[1]]), String::from_utf8_lossy(&data[2..]))
        }
        EdnsOption::Unknown(code, data) => {
            let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("option {code} {hex}")
        }
        other => format!("option {other:?}"),
    }
}
