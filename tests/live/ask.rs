//! Sends queries to a server over the network, one or thousands.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use clusterdns::wire::hickory::decode;
use clusterdns::wire::{NameBuf, Type};
use hickory_proto::rr::{RData, Record};

/// The timeout after which a query is repeated.
const AGAIN: Duration = Duration::from_secs(2);
/// How often a query is sent before it counts as unanswered.
const TRIES: u32 = 4;
/// The number of queries in flight on a socket.
const WINDOW: usize = 64;
/// The number of threads.
const THREADS: usize = 2;

/// A question and how it is sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    pub name: String,
    pub rtype: Type,
    pub tcp: bool,
    /// The size offered in EDNS, if there is an OPT.
    pub edns: Option<u16>,
}

/// A response, for comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub rcode: u16,
    /// Those of AA, TC and RA that are set.
    pub flags: String,
    /// The size in its OPT, if it has one.
    pub edns: Option<u16>,
    /// The records of each section, sorted; empty if the response is truncated.
    pub sections: [Vec<String>; 3],
}

/// A part of a response, as in `docs/differences.allow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Rcode,
    Flags,
    Edns,
    Answer,
    Authority,
    Additional,
}

impl Part {
    /// Returns the part with a name.
    pub fn of(name: &str) -> Option<Part> {
        Some(match name {
            "rcode" => Part::Rcode,
            "flags" => Part::Flags,
            "edns" => Part::Edns,
            "answer" => Part::Answer,
            "authority" => Part::Authority,
            "additional" => Part::Additional,
            _ => return None,
        })
    }
}

impl Question {
    /// Creates a query over UDP, without EDNS.
    pub fn new(name: &str, rtype: Type) -> Question {
        Question { name: name.to_owned(), rtype, tcp: false, edns: None }
    }

    /// Returns whether the name is valid in a message.
    pub fn is_encodable(&self) -> bool {
        NameBuf::from_text(&self.name).is_ok()
    }

    pub fn packet(&self, id: u16) -> Vec<u8> {
        let name = NameBuf::from_text(&self.name).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let additional = u8::from(self.edns.is_some());
        let mut packet = id.to_be_bytes().to_vec();
        packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, additional]);
        packet.extend(name.as_wire());
        packet.extend(self.rtype.0.to_be_bytes());
        packet.extend([0, 1]);
        if let Some(size) = self.edns {
            packet.extend([0, 0, 41]);
            packet.extend(size.to_be_bytes());
            packet.extend([0; 6]);
        }
        packet
    }
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}{}", self.name, self.rtype, if self.tcp { " over TCP" } else { "" })?;
        self.edns.map_or(Ok(()), |size| write!(f, " with EDNS {size}"))
    }
}

impl Answer {
    /// Parses a message.
    pub fn read(bytes: &[u8]) -> Answer {
        let message = decode(bytes).unwrap_or_else(|| panic!("hickory cannot read {bytes:02x?}"));
        let head = &message.metadata;
        let rcode = u16::from(head.response_code);
        let flags = [("aa", head.authoritative), ("tc", head.truncation), ("ra", head.recursion_available)].into_iter();
        let flags: Vec<&str> = flags.filter(|(_, set)| *set).map(|(name, _)| name).collect();
        let edns = message.edns.as_ref().map(|edns| edns.max_payload());
        // Which records are missing from a truncated response is the server's choice.
        let is_cut = head.truncation || bytes.len() > 50_000;
        let sections = [&message.answers, &message.authorities, &message.additionals].map(|records| {
            let mut lines: Vec<String> = records.iter().filter(|_| !is_cut).map(line_of).collect();
            lines.sort();
            lines
        });
        Answer { rcode, flags: flags.join(" "), edns, sections }
    }

    /// Returns the response with all owners and targets in lower case.
    pub fn in_lower_case(&self) -> Answer {
        let sections = self.sections.clone().map(|lines| {
            let mut lines: Vec<String> = lines.iter().map(|line| line.to_lowercase()).collect();
            lines.sort();
            lines
        });
        Answer { sections, ..self.clone() }
    }

    /// Returns code, flags and EDNS size on one line.
    pub fn head(&self) -> String {
        let edns = self.edns.map_or(String::new(), |size| format!(" edns={size}"));
        format!("{} {}{edns}", clusterdns::wire::Rcode(self.rcode), self.flags)
    }

    /// Returns the parts in which another response differs.
    pub fn differing(&self, other: &Answer) -> Vec<Part> {
        let [answer, authority, additional] = [0, 1, 2].map(|at| self.sections[at] != other.sections[at]);
        let parts = [
            (Part::Rcode, self.rcode != other.rcode),
            (Part::Flags, self.flags != other.flags),
            (Part::Edns, self.edns != other.edns),
            (Part::Answer, answer),
            (Part::Authority, authority),
            (Part::Additional, additional),
        ];
        parts.into_iter().filter(|(_, differs)| *differs).map(|(part, _)| part).collect()
    }

    /// Returns code and data of the answer section, such as `NOERROR 10.96.0.1`.
    pub fn brief(&self) -> String {
        let rcode = clusterdns::wire::Rcode(self.rcode).to_string();
        // The text after owner, TTL and type.
        let data = self.sections[0].iter().filter_map(|line| line.splitn(4, ' ').nth(3));
        std::iter::once(&*rcode).chain(data).collect::<Vec<_>>().join(" ")
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.head())?;
        for (name, lines) in ["answer", "authority", "additional"].into_iter().zip(&self.sections) {
            lines.iter().try_for_each(|line| write!(f, "\n        {name} {line}"))?;
        }
        Ok(())
    }
}

/// Formats a record: owner, TTL, type, data. The serial of an SOA depends on the clock.
fn line_of(record: &Record) -> String {
    let data = match &record.data {
        RData::SOA(soa) => {
            let (mname, rname, refresh, retry, expire, minimum) =
                (&soa.mname, &soa.rname, soa.refresh, soa.retry, soa.expire, soa.minimum);
            format!("{mname} {rname} SERIAL {refresh} {retry} {expire} {minimum}")
        }
        data => data.to_string(),
    };
    format!("{} {} {} {data}", record.name, record.ttl, record.record_type())
}

/// Sends a query once; returns `None` without a response within two seconds.
pub fn ask(at: SocketAddr, question: &Question) -> Option<Answer> {
    let packet = question.packet(fastrand::u16(..));
    let bytes = if question.tcp { tcp(at, &[packet]).pop()? } else { udp(at, &packet).ok()? };
    Some(Answer::read(&bytes))
}

/// Sends all queries as fast as the server responds, and repeats lost ones. Responses have the order of the queries.
pub fn ask_all(at: SocketAddr, questions: &[Question]) -> Vec<Option<Answer>> {
    let mut answers = vec![None; questions.len()];
    let size = questions.len().div_ceil(THREADS).max(1);
    std::thread::scope(|scope| {
        for (questions, answers) in questions.chunks(size).zip(answers.chunks_mut(size)) {
            scope.spawn(move || {
                for (questions, answers) in questions.chunks(60_000).zip(answers.chunks_mut(60_000)) {
                    ask_some(at, questions, answers);
                }
            });
        }
    });
    answers
}

fn ask_some(at: SocketAddr, questions: &[Question], answers: &mut [Option<Answer>]) {
    let packet = |id: usize| questions[id].packet(id as u16);
    let (over_tcp, over_udp): (Vec<usize>, Vec<usize>) = (0..questions.len()).partition(|&id| questions[id].tcp);
    for ids in over_tcp.chunks(WINDOW) {
        let packets: Vec<Vec<u8>> = ids.iter().map(|&id| packet(id)).collect();
        for bytes in tcp(at, &packets) {
            answers[id_of(&bytes)] = Some(Answer::read(&bytes));
        }
    }
    let socket = connected(at).expect("a socket");
    socket.set_read_timeout(Some(AGAIN / 4)).expect("a timeout");
    let mut bytes = vec![0; 65_535];
    let mut next = over_udp.into_iter();
    // Queries in flight, the oldest first.
    let mut waiting: VecDeque<(usize, Instant, u32)> = VecDeque::new();
    loop {
        while waiting.len() < WINDOW
            && let Some(id) = next.next()
        {
            // Refused, since nothing listens; it is repeated like a lost one.
            let _ = socket.send(&packet(id));
            waiting.push_back((id, Instant::now(), 1));
        }
        if waiting.is_empty() {
            return;
        }
        if let Ok(len) = socket.recv(&mut bytes) {
            let id = id_of(&bytes[..len]);
            // A second response to a repeated query is ignored.
            if let Some(place) = waiting.iter().position(|(waiting, ..)| *waiting == id) {
                waiting.remove(place);
                answers[id] = Some(Answer::read(&bytes[..len]));
            }
        }
        while let Some(&(id, since, tries)) = waiting.front()
            && since.elapsed() > AGAIN
        {
            waiting.pop_front();
            if tries < TRIES {
                let _ = socket.send(&packet(id));
                waiting.push_back((id, Instant::now(), tries + 1));
            }
        }
    }
}

fn id_of(bytes: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn connected(at: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(at)?;
    Ok(socket)
}

fn udp(at: SocketAddr, packet: &[u8]) -> std::io::Result<Vec<u8>> {
    let socket = connected(at)?;
    socket.set_read_timeout(Some(AGAIN))?;
    socket.send(packet)?;
    let mut bytes = vec![0; 65_535];
    let len = socket.recv(&mut bytes)?;
    bytes.truncate(len);
    Ok(bytes)
}

/// Sends queries over one connection, one after the other; returns the responses.
fn tcp(at: SocketAddr, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut answers = Vec::new();
    let mut all = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&at, AGAIN)?;
        stream.set_read_timeout(Some(AGAIN * TRIES))?;
        let messages = packets.iter().flat_map(|packet| [&(packet.len() as u16).to_be_bytes()[..], packet].concat());
        stream.write_all(&messages.collect::<Vec<u8>>())?;
        for _ in packets {
            let mut len = [0; 2];
            stream.read_exact(&mut len)?;
            let mut bytes = vec![0; usize::from(u16::from_be_bytes(len))];
            stream.read_exact(&mut bytes)?;
            if bytes.len() < 12 {
                return Err(ErrorKind::InvalidData.into());
            }
            answers.push(bytes);
        }
        Ok(())
    };
    // Missing responses are not in the result.
    let _ = all();
    answers
}
