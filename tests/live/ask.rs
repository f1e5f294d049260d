//! Questions to a server over the network, one or thousands.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use clusterdns::wire::hickory::decode;
use clusterdns::wire::{NameBuf, Type};
use hickory_proto::rr::{RData, Record};

/// After how long a question is asked again.
const AGAIN: Duration = Duration::from_secs(2);
/// How often a question is asked before silence is its answer.
const TRIES: u32 = 4;
/// How many questions a socket waits for at a time.
const WINDOW: usize = 64;
/// How many threads ask.
const THREADS: usize = 2;

/// A question and how it is put.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    pub name: String,
    pub rtype: Type,
    pub tcp: bool,
    /// With EDNS, and what size it offers.
    pub edns: Option<u16>,
}

/// An answer, for comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub rcode: u16,
    /// AA, TC and RA, as far as they are set.
    pub flags: String,
    /// The size that its OPT offers, if it has one.
    pub edns: Option<u16>,
    /// The records of each section, sorted; empty where the answer was cut.
    pub sections: [Vec<String>; 3],
}

/// A part of an answer, as `docs/differences.allow` names it.
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
    /// The part of this name.
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
    /// The plainest question: over UDP, without EDNS.
    pub fn new(name: &str, rtype: Type) -> Question {
        Question { name: name.to_owned(), rtype, tcp: false, edns: None }
    }

    /// Whether its name can stand in a message.
    pub fn can_be_asked(&self) -> bool {
        NameBuf::from_text(&self.name).is_ok()
    }

    fn packet(&self, id: u16) -> Vec<u8> {
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
    /// Reads a message.
    fn read(octets: &[u8]) -> Answer {
        let message = decode(octets).unwrap_or_else(|| panic!("hickory cannot read {octets:02x?}"));
        let head = &message.metadata;
        let rcode = u16::from(head.response_code);
        let flags = [("aa", head.authoritative), ("tc", head.truncation), ("ra", head.recursion_available)].into_iter();
        let flags: Vec<&str> = flags.filter(|(_, set)| *set).map(|(name, _)| name).collect();
        let edns = message.edns.as_ref().map(|edns| edns.max_payload());
        // What is left out of a message that does not hold all is the server's choice.
        let is_cut = head.truncation || octets.len() > 50_000;
        let sections = [&message.answers, &message.authorities, &message.additionals].map(|records| {
            let mut lines: Vec<String> = records.iter().filter(|_| !is_cut).map(line_of).collect();
            lines.sort();
            lines
        });
        Answer { rcode, flags: flags.join(" "), edns, sections }
    }

    /// The same with every owner and target in lower case.
    pub fn in_lower_case(&self) -> Answer {
        let sections = self.sections.clone().map(|lines| {
            let mut lines: Vec<String> = lines.iter().map(|line| line.to_lowercase()).collect();
            lines.sort();
            lines
        });
        Answer { sections, ..self.clone() }
    }

    /// The rcode, the flags and the EDNS size in one line.
    pub fn head(&self) -> String {
        let edns = self.edns.map_or(String::new(), |size| format!(" edns={size}"));
        format!("{} {}{edns}", clusterdns::wire::Rcode(self.rcode), self.flags)
    }

    /// The parts in which another answer is not the same.
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

    /// The rcode and the data of the answer section, in few words: `NOERROR 10.96.0.1`.
    pub fn brief(&self) -> String {
        let rcode = clusterdns::wire::Rcode(self.rcode).to_string();
        // After owner, TTL and type.
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

/// A record: owner, TTL, type, data. The serial of an SOA changes with the clock.
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

/// Asks once; `None` where nothing comes within two seconds.
pub fn ask(at: SocketAddr, question: &Question) -> Option<Answer> {
    let packet = question.packet(fastrand::u16(..));
    let octets = if question.tcp { tcp(at, &[packet]).pop()? } else { udp(at, &packet).ok()? };
    Some(Answer::read(&octets))
}

/// Asks all questions as fast as the server answers; what got lost again. The answers stand in the questions' order.
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
        for octets in tcp(at, &packets) {
            answers[id_of(&octets)] = Some(Answer::read(&octets));
        }
    }
    let socket = connected(at).expect("a socket");
    socket.set_read_timeout(Some(AGAIN / 4)).expect("a timeout");
    let mut octets = vec![0; 65_535];
    let mut next = over_udp.into_iter();
    // Those that are waited for, the longest first.
    let mut waiting: VecDeque<(usize, Instant, u32)> = VecDeque::new();
    loop {
        while waiting.len() < WINDOW
            && let Some(id) = next.next()
        {
            // Refused: nobody listens. It is asked again like what got lost.
            let _ = socket.send(&packet(id));
            waiting.push_back((id, Instant::now(), 1));
        }
        if waiting.is_empty() {
            return;
        }
        if let Ok(len) = socket.recv(&mut octets) {
            let id = id_of(&octets[..len]);
            // A second answer to what was asked twice is not waited for.
            if let Some(place) = waiting.iter().position(|(waiting, ..)| *waiting == id) {
                waiting.remove(place);
                answers[id] = Some(Answer::read(&octets[..len]));
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

fn id_of(octets: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([octets[0], octets[1]]))
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
    let mut octets = vec![0; 65_535];
    let len = socket.recv(&mut octets)?;
    octets.truncate(len);
    Ok(octets)
}

/// Asks over one connection, one question behind the other; gives the answers that come.
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
            let mut octets = vec![0; usize::from(u16::from_be_bytes(len))];
            stream.read_exact(&mut octets)?;
            if octets.len() < 12 {
                return Err(ErrorKind::InvalidData.into());
            }
            answers.push(octets);
        }
        Ok(())
    };
    // What did not come is not among the answers.
    let _ = all();
    answers
}
