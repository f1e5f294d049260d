//! The upstreams of a scenario: their answers, and the queries that they got.

use std::net::IpAddr;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clusterdns::upstream::{Answered, Attempts, BoxFuture, Dispatch, Error, NextStep, ReplyResult, Verdict};
use clusterdns::wire::header::flag;
use clusterdns::wire::{Class, Message, NameBuf, Query, QueryChange, Reply, Type};
use hickory_proto::op::{Message as Typed, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// The answer of upstreams for a name.
#[derive(Clone, Debug)]
pub struct UpstreamAnswer {
    /// The server; every one if `None`.
    server: Option<String>,
    name: String,
    /// The query type; every one if `None`.
    qtype: Option<Type>,
    /// The response without ID and question; `None` for no response.
    answer: Option<Typed>,
}

impl UpstreamAnswer {
    /// Parses `[@SERVER] NAME TYPE|* CODE FLAG… ; SECTION RECORD ; …`, with `timeout` in place of the code for no
    /// response.
    pub fn parse(line: &str) -> Result<UpstreamAnswer, String> {
        let mut parts = line.split(" ; ");
        let mut words = parts.next().unwrap_or_default().split_whitespace().peekable();
        let server = words.next_if(|word| word.starts_with('@')).map(|word| word[1..].to_owned());
        let (Some(name), Some(qtype), Some(code)) = (words.next(), words.next(), words.next()) else {
            return Err("expected a name, a type and a code".to_owned());
        };
        let qtype = match qtype {
            "*" => None,
            text => Some(Type::from_mnemonic(text).ok_or(format!("'{text}' is not a type"))?),
        };
        let name = NameBuf::from_text(name).map_err(|error| format!("'{name}': {error}"))?.to_string();
        if code == "timeout" {
            return Ok(UpstreamAnswer { server, name, qtype, answer: None });
        }
        let mut answer = Typed::new(0, MessageType::Response, OpCode::Query);
        answer.metadata.response_code = match code {
            "NOERROR" => ResponseCode::NoError,
            "NXDOMAIN" => ResponseCode::NXDomain,
            "SERVFAIL" => ResponseCode::ServFail,
            "REFUSED" => ResponseCode::Refused,
            "NOTIMP" => ResponseCode::NotImp,
            _ => return Err(format!("'{code}' is not a code")),
        };
        for flag in words {
            match flag {
                "aa" => answer.metadata.authoritative = true,
                "tc" => answer.metadata.truncation = true,
                "ra" => answer.metadata.recursion_available = true,
                "ad" => answer.metadata.authentic_data = true,
                _ => return Err(format!("'{flag}' is not a flag")),
            }
        }
        for part in parts {
            let mut words = part.splitn(5, ' ');
            let (Some(section), Some(owner), Some(ttl), Some(rtype)) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                return Err(format!("'{part}': expected a section, a name, a TTL, a type and data"));
            };
            let owner = Name::from_ascii(owner).map_err(|error| error.to_string())?;
            let ttl = ttl.parse().map_err(|_| format!("'{ttl}' is not a TTL"))?;
            let rtype = RecordType::from_str(rtype).map_err(|error| error.to_string())?;
            let data =
                RData::try_from_str(rtype, words.next().unwrap_or_default()).map_err(|error| error.to_string())?;
            let record = Record::from_rdata(owner, ttl, data);
            match section {
                "answer" => answer.answers.push(record),
                "authority" => answer.authorities.push(record),
                "additional" => answer.additionals.push(record),
                _ => return Err(format!("'{section}' is not a section")),
            };
        }
        Ok(UpstreamAnswer { server, name, qtype, answer: Some(answer) })
    }
}

/// All upstreams. A name without an answer is NXDOMAIN.
#[derive(Default)]
pub struct Outside {
    /// The answers; the first one that matches counts. Steps change them.
    pub says: Mutex<Vec<UpstreamAnswer>>,
    /// The queries since the last call of [`Outside::asked`].
    asked: Mutex<Vec<String>>,
    /// The questions and EDNS options of queries are shown.
    pub shows_questions: AtomicBool,
    /// The time of the scenario.
    now: Mutex<Option<Instant>>,
}

impl Outside {
    /// Sets the time.
    pub fn set_now(&self, now: Instant) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Returns the time.
    pub fn now(&self) -> Instant {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(Instant::now)
    }

    /// Replaces the answers.
    pub fn say(&self, says: Vec<UpstreamAnswer>) {
        *self.says.lock().unwrap_or_else(PoisonError::into_inner) = says;
    }

    /// Returns the queries since the last call: the server of each, and how it was sent.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the response of a server to a query, encoded.
    fn answer(&self, server: &str, query: &Query<'_>) -> Option<Vec<u8>> {
        let says = self.says.lock().unwrap_or_else(PoisonError::into_inner);
        let name = query.question.name().to_string();
        let fits = |says: &&UpstreamAnswer| {
            says.server.as_deref().is_none_or(|of| server.starts_with(of))
                && says.name == name
                && says.qtype.is_none_or(|qtype| qtype == query.question.qtype)
        };
        let mut answer = match says.iter().find(fits) {
            Some(says) => says.answer.clone()?,
            None => {
                let line = format!("{name} * NXDOMAIN ra ; authority . 60 SOA a. b. 1 2 3 4 60");
                UpstreamAnswer::parse(&line).ok()?.answer?
            }
        };
        let asked = Typed::from_vec(query.packet()).ok()?;
        answer.metadata.id = asked.metadata.id;
        answer.queries = asked.queries;
        answer.to_vec().ok()
    }
}

/// Sends queries to the upstreams.
pub struct Paths(pub Arc<Outside>);

impl Dispatch for Paths {
    fn dispatch(
        &self, packet: Box<[u8]>, change: QueryChange, _: IpAddr, mut attempts: Attempts,
    ) -> BoxFuture<ReplyResult> {
        let outside = self.0.clone();
        Box::pin(async move {
            let query = Query::parse(&packet).map_err(|_| Error::Malformed("query".into()))?;
            let mut now = outside.now();
            loop {
                let (until, how) = match attempts.next(now) {
                    NextStep::Udp(until) => (until, ""),
                    NextStep::Stream(read_timeout) => (now + read_timeout, " stream"),
                    NextStep::End(error) => return Err(error),
                };
                let server = attempts.upstream().label.to_string();
                // A bit that is not as the client sent it, AD aside, which a cache always sets.
                let bits = query.flags();
                let mut forwarded = packet.clone();
                change.apply(&mut forwarded);
                let forwarded = Query::parse(&forwarded).expect("a query still");
                attempts.record_sent(!how.is_empty(), None, forwarded.packet(), now);
                let norec = if bits & !forwarded.flags() & flag::RD != 0 { " norec" } else { "" };
                let size = |query: &Query<'_>| query.edns.map_or(0, |edns| edns.size);
                let offers = (size(&query) != size(&forwarded)).then(|| format!(" edns={}", size(&forwarded)));
                let question = outside.shows_questions.load(Ordering::Relaxed).then(|| question_of(&forwarded));
                let asked =
                    format!("{server}{how}{norec}{}{}", offers.unwrap_or_default(), question.unwrap_or_default());
                outside.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
                let Some(response) = outside.answer(&server, &query) else {
                    now = until;
                    attempts.record_failure(Error::Timeout(attempts.upstream().label.clone()));
                    continue;
                };
                let message = Message::parse(&response, &query.question).expect("an answer to the question");
                let upstream = attempts.current();
                let over_udp = how.is_empty();
                let answered = Answered { upstream, took: Duration::ZERO, over_udp, is_last: true };
                if attempts.judge(message.rcode(), message.is_truncated(), answered) == Verdict::Deliver {
                    let mut reply = Box::new(Reply::new());
                    reply.read(&message).map_err(|_| Error::Malformed(attempts.upstream().label.clone()))?;
                    return Ok(reply);
                }
            }
        })
    }
}

/// Returns the question of a query, and its EDNS options if it has an OPT.
fn question_of(query: &Query<'_>) -> String {
    let question = &query.question;
    let class = if question.qclass == Class::IN { String::new() } else { format!(" {}", question.qclass) };
    let options = query.edns.iter().flat_map(|edns| edns.options());
    let options = options.map(|(code, data)| {
        let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        format!(" {code}={hex}")
    });
    let edns = if query.edns.is_some() { " opt" } else { "" };
    format!(" {} {}{class}{edns}{}", query.sent_name(), question.qtype, options.collect::<String>())
}
