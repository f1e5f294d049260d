//! The other name servers of a scenario: what they say, and which of them were asked.

use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clusterdns::upstream::{Attempts, BoxFuture, Carrier, Error, Judgement, NextStep, Outcome};
use clusterdns::wire::header::{Change, flag};
use clusterdns::wire::{Message, NameBuf, Query, Reply, Type};
use hickory_proto::op::{Message as Typed, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// What the servers say of a name.
#[derive(Clone, Debug)]
pub struct Says {
    /// The server that says so; any without.
    server: Option<String>,
    name: String,
    /// Of which type; of all without.
    qtype: Option<Type>,
    /// The answer without ID and question; nothing where there is none.
    answer: Option<Typed>,
}

impl Says {
    /// `[@SERVER] NAME TYPE|* CODE FLAG… ; SECTION RECORD ; …`, or `silence` in the place of the code.
    pub fn parse(line: &str) -> Result<Says, String> {
        let mut parts = line.split(" ; ");
        let mut words = parts.next().unwrap_or_default().split_whitespace().peekable();
        let server = words.next_if(|word| word.starts_with('@')).map(|word| word[1..].to_owned());
        let (Some(name), Some(qtype), Some(code)) = (words.next(), words.next(), words.next()) else {
            return Err("a name, a type and a code are expected".to_owned());
        };
        let qtype = match qtype {
            "*" => None,
            text => Some(Type::from_mnemonic(text).ok_or(format!("'{text}' is no type"))?),
        };
        let name = NameBuf::from_text(name).map_err(|error| format!("'{name}': {error}"))?.to_string();
        if code == "silence" {
            return Ok(Says { server, name, qtype, answer: None });
        }
        let mut answer = Typed::new(0, MessageType::Response, OpCode::Query);
        answer.metadata.response_code = match code {
            "NOERROR" => ResponseCode::NoError,
            "NXDOMAIN" => ResponseCode::NXDomain,
            "SERVFAIL" => ResponseCode::ServFail,
            "REFUSED" => ResponseCode::Refused,
            "NOTIMP" => ResponseCode::NotImp,
            _ => return Err(format!("'{code}' is no code")),
        };
        for flag in words {
            match flag {
                "aa" => answer.metadata.authoritative = true,
                "tc" => answer.metadata.truncation = true,
                "ra" => answer.metadata.recursion_available = true,
                "ad" => answer.metadata.authentic_data = true,
                _ => return Err(format!("'{flag}' is no flag")),
            }
        }
        for part in parts {
            let mut words = part.splitn(5, ' ');
            let (Some(section), Some(owner), Some(ttl), Some(rtype)) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                return Err(format!("'{part}': a section, a name, a TTL, a type and data are expected"));
            };
            let owner = Name::from_ascii(owner).map_err(|error| error.to_string())?;
            let ttl = ttl.parse().map_err(|_| format!("'{ttl}' is no TTL"))?;
            let rtype = RecordType::from_str(rtype).map_err(|error| error.to_string())?;
            let data =
                RData::try_from_str(rtype, words.next().unwrap_or_default()).map_err(|error| error.to_string())?;
            let record = Record::from_rdata(owner, ttl, data);
            match section {
                "answer" => answer.answers.push(record),
                "authority" => answer.authorities.push(record),
                "additional" => answer.additionals.push(record),
                _ => return Err(format!("'{section}' is no section")),
            };
        }
        Ok(Says { server, name, qtype, answer: Some(answer) })
    }
}

/// All other servers. They say NXDOMAIN of a name of which nothing is said.
#[derive(Default)]
pub struct Outside {
    /// What they say; the first line that fits counts. Changed by steps.
    pub says: Mutex<Vec<Says>>,
    /// Which were asked, since somebody last looked.
    asked: Mutex<Vec<String>>,
    /// The scenario's time.
    now: Mutex<Option<Instant>>,
}

impl Outside {
    /// Sets the time.
    pub fn set_now(&self, now: Instant) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(Instant::now)
    }

    /// Says something else from now on.
    pub fn say(&self, says: Vec<Says>) {
        *self.says.lock().unwrap_or_else(PoisonError::into_inner) = says;
    }

    /// The servers that were asked since the last time.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The answer of a server to a query, as octets.
    fn answer(&self, server: &str, query: &Query<'_>) -> Option<Vec<u8>> {
        let says = self.says.lock().unwrap_or_else(PoisonError::into_inner);
        let name = query.question.name().to_string();
        let fits = |says: &&Says| {
            says.server.as_deref().is_none_or(|of| server.starts_with(of))
                && says.name == name
                && says.qtype.is_none_or(|qtype| qtype == query.question.qtype)
        };
        let mut answer = match says.iter().find(fits) {
            Some(says) => says.answer.clone()?,
            None => {
                let line = format!("{name} * NXDOMAIN ra ; authority . 60 SOA a. b. 1 2 3 4 60");
                Says::parse(&line).ok()?.answer?
            }
        };
        let asked = Typed::from_vec(query.packet()).ok()?;
        answer.metadata.id = asked.metadata.id;
        answer.queries = asked.queries;
        answer.to_vec().ok()
    }
}

/// Carries queries to them.
pub struct Paths(pub Arc<Outside>);

impl Carrier for Paths {
    fn carry(&self, packet: Box<[u8]>, flags: Change, mut attempts: Attempts) -> BoxFuture<Outcome> {
        let outside = self.0.clone();
        Box::pin(async move {
            let query = Query::parse(&packet).map_err(|_| Error::Malformed("query".into()))?;
            let mut now = outside.now();
            loop {
                let (until, how) = match attempts.next(now) {
                    NextStep::Udp(until) => (until, ""),
                    NextStep::Stream(until) => (until, " stream"),
                    NextStep::End(error) => return Err(error),
                };
                let server = attempts.upstream().label.to_string();
                // A bit that is not as the client sent it, AD aside, which a cache always sets.
                let bits = query.flags();
                let norec = if bits & !flags.of(bits) & flag::RD != 0 { " norec" } else { "" };
                let asked = format!("{server}{how}{norec}");
                outside.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
                let Some(octets) = outside.answer(&server, &query) else {
                    now = until;
                    attempts.failed(Error::Timeout(attempts.upstream().label.clone()));
                    continue;
                };
                let message = Message::parse(&octets, &query.question).expect("an answer to the question");
                if attempts.judge(&message, Duration::ZERO) == Judgement::Deliver {
                    let mut reply = Box::new(Reply::new());
                    reply.read(&message).map_err(|_| Error::Malformed(attempts.upstream().label.clone()))?;
                    return Ok(reply);
                }
            }
        })
    }
}
