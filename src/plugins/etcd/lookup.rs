//! The look-ups of *etcd*: from a question to records (CoreDNS `plugin/backend_lookup.go` and `plugin/etcd/etcd.go`).

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use super::config::Config;
use super::service::{HostKind, KeyPath, SkyService, of_one_group};
use super::store::{Caller, EtcdClient};
use crate::chain::Resolver;
use crate::net::MemoryPermit;
use crate::net::grpc::GrpcStatus;
use crate::wire::record::SoaNumbers;
use crate::wire::{Class, Name, NameBuf, NameRef, Question, Rdata, Record, Reply, Section, Type};

/// The maximum length of a chain of CNAMEs (CoreDNS `maxCnameChainLength`).
const MAX_CHAIN: usize = 10;
/// The maximum number of requests to etcd and of internal look-ups for one query.
pub(super) const MAX_LOOK_UPS: u32 = 128;
/// The maximum number of leases whose times are requested for one query. Records of further ones have their own TTLs.
pub(super) const MAX_LEASES: usize = 1_024;
/// The TTL of SOA records and of denials, in seconds (CoreDNS `Etcd.MinTTL`).
const SOA_TTL: u32 = 30;

/// Why a look-up has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LookupError {
    /// The name does not exist.
    NotFound,
    /// A record is at fault; the reason. As in CoreDNS, an alias of such a name is left out.
    Invalid(String),
    /// etcd does not answer, or a limit is reached; the reason. The whole query fails, since the name may exist.
    Failed(String),
}

impl From<String> for LookupError {
    fn from(reason: String) -> LookupError {
        LookupError::Invalid(reason)
    }
}

impl From<GrpcStatus> for LookupError {
    fn from(status: GrpcStatus) -> LookupError {
        LookupError::Failed(format!("etcd: {status}"))
    }
}

/// The answer to a question.
#[derive(Default)]
pub(super) struct EtcdAnswer {
    /// The records of the answer section.
    pub(super) records: Vec<EtcdRecord>,
    /// The records of the additional section.
    pub(super) extra: Vec<EtcdRecord>,
    /// Some records are missing.
    pub(super) truncated: bool,
}

/// A record, or several ones that another server has.
pub(super) enum EtcdRecord {
    Own {
        owner: NameBuf,
        ttl: u32,
        data: EtcdData,
    },
    /// The answer section of a reply to a question, with or without its CNAMEs.
    Found {
        question: Box<Question>,
        reply: Box<Reply>,
        with_aliases: bool,
    },
}

/// The data of a record.
#[derive(Debug)]
pub(super) enum EtcdData {
    Address(IpAddr),
    /// CNAME, NS or PTR.
    Name(Type, NameBuf),
    Srv {
        priority: u16,
        weight: u16,
        port: u16,
        target: NameBuf,
    },
    Mx {
        preference: u16,
        host: NameBuf,
    },
    /// The strings, each after its length.
    Txt(Vec<u8>),
    Soa {
        mailbox: NameBuf,
        primary: NameBuf,
    },
}

/// The records of a name, and the permit for their memory.
struct FoundServices {
    services: Vec<SkyService>,
    _held: MemoryPermit,
}

/// The look-ups for one query.
pub(super) struct EtcdLookup {
    pub(super) config: Arc<Config>,
    pub(super) client: Arc<EtcdClient>,
    pub(super) resolver: Resolver,
    pub(super) caller: Caller,
    /// The zone of the query.
    pub(super) zone: NameBuf,
    /// The number of requests and internal look-ups so far.
    used: u32,
    /// The TTLs that follow from leases, where their times are known.
    leases: HashMap<i64, Option<u32>>,
}

type LookupFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl EtcdLookup {
    /// Creates the look-ups for a query.
    pub(super) fn new(
        config: Arc<Config>, client: Arc<EtcdClient>, resolver: Resolver, caller: Caller, zone: NameBuf,
    ) -> EtcdLookup {
        EtcdLookup { config, client, resolver, caller, zone, used: 0, leases: HashMap::new() }
    }

    /// Answers a question. `name` is in the client's letter case.
    pub(super) async fn answer(&mut self, name: NameBuf, qtype: Type) -> Result<EtcdAnswer, LookupError> {
        let is_zone = name.as_name().eq_ignore_case(self.zone.as_name());
        match qtype {
            Type::A | Type::AAAA | Type::TXT => self.addresses(name, qtype, Vec::new()).await,
            Type::CNAME => self.alias(name).await,
            Type::PTR => self.pointers(name).await,
            Type::MX => self.mail_servers(name).await,
            Type::SRV => self.servers(name).await,
            Type::SOA => Ok(EtcdAnswer { records: vec![soa(&self.zone)], ..EtcdAnswer::default() }),
            Type::NS if is_zone => self.name_servers(name).await,
            // Only whether the name exists matters.
            _ => self.apex_or_name(&name, qtype).await.map(|_| EtcdAnswer::default()),
        }
    }

    /// Counts a request or an internal look-up, unless there were too many or the time is over.
    fn count(&mut self) -> Result<(), LookupError> {
        self.used += 1;
        if self.used > MAX_LOOK_UPS {
            return Err(LookupError::Failed(format!("etcd: more than {MAX_LOOK_UPS} look-ups for one query")));
        }
        if Instant::now() >= self.caller.until {
            return Err(LookupError::Failed("etcd: i/o timeout".to_owned()));
        }
        Ok(())
    }

    /// Returns the records of a name, and with `exact` false those below it.
    async fn services(&mut self, name: Name<'_>, exact: bool, qtype: Type) -> Result<FoundServices, LookupError> {
        let path = KeyPath::new(&self.config.path, name.to_owned().to_lower().as_name());
        self.count()?;
        let mut found = self
            .client
            .range(if exact { path.key.clone() } else { path.key.clone() + "/" }, !exact, self.caller)
            .await?;
        if found.records.is_empty() && !exact {
            self.count()?;
            found = self.client.range(path.key.clone(), false, self.caller).await?;
        }
        if found.records.is_empty() {
            return Err(LookupError::NotFound);
        }
        let (mut services, mut leases) = (Vec::new(), Vec::new());
        for record in found.records {
            let key = String::from_utf8_lossy(&record.key);
            if !path.covers(&key) {
                continue;
            }
            let service = SkyService::parse(&key, &record.value)?;
            if service.host.is_empty() && (qtype != Type::TXT || service.text.is_empty()) {
                continue;
            }
            services.push(service);
            leases.push(record.lease);
        }
        self.request_lease_times(&leases).await;
        for (service, lease) in services.iter_mut().zip(leases) {
            service.limit_ttl(self.leases.get(&lease).copied().flatten());
        }
        Ok(FoundServices { services: of_one_group(services), _held: found.held })
    }

    /// Requests the times of leases that are not known yet, as far as the limit allows. 0 is none.
    async fn request_lease_times(&mut self, leases: &[i64]) {
        let mut wanted = Vec::new();
        for &lease in leases {
            let is_known = lease == 0 || self.leases.contains_key(&lease);
            if !is_known && self.leases.len() < MAX_LEASES {
                self.leases.insert(lease, None);
                wanted.push(lease);
            }
        }
        if wanted.is_empty() || Instant::now() >= self.caller.until {
            return;
        }
        for (lease, seconds) in self.client.lease_times(wanted, self.caller).await {
            self.leases.insert(lease, Some(self.config.lease_ttl.limit(seconds)));
        }
    }

    /// Returns the records of a name. Those of the zone itself are below `apex.dns.ZONE`, or anywhere in the zone.
    async fn apex_or_name(&mut self, name: &NameBuf, qtype: Type) -> Result<FoundServices, LookupError> {
        if name.as_name().eq_ignore_case(self.zone.as_name()) {
            let apex = below_zone("apex.dns", &self.zone)?;
            match self.services(apex.as_name(), false, qtype).await {
                Err(LookupError::NotFound) if !self.config.no_apex_fallback => {}
                found => return found,
            }
        }
        self.services(name.as_name(), false, qtype).await
    }

    /// Looks up a name by the whole chain of this server.
    async fn elsewhere(&mut self, name: &NameBuf, qtype: Type) -> Result<Option<EtcdReply>, LookupError> {
        self.count()?;
        let reply = self.resolver.resolve(name.as_name(), qtype).await;
        let question = Box::new(Question::new(name.as_name(), qtype, Class::IN));
        Ok(reply.map(|reply| EtcdReply { question, reply }))
    }

    /// Answers A, AAAA and TXT, with the targets of names. `previous` has the targets so far.
    fn addresses(
        &mut self, name: NameBuf, qtype: Type, previous: Vec<NameBuf>,
    ) -> LookupFuture<'_, Result<EtcdAnswer, LookupError>> {
        Box::pin(async move {
            let found = match qtype {
                Type::TXT => self.services(name.as_name(), false, qtype).await?,
                _ => self.apex_or_name(&name, qtype).await?,
            };
            let mut answer = EtcdAnswer::default();
            let mut seen = HashSet::new();
            for service in &found.services {
                let own = |data| EtcdRecord::Own { owner: name.clone(), ttl: service.ttl, data };
                match (service.kind(), qtype) {
                    (HostKind::Address(ip @ IpAddr::V4(_)), Type::A)
                    | (HostKind::Address(ip @ IpAddr::V6(_)), Type::AAAA)
                        if seen.insert(service.host.as_str()) =>
                    {
                        answer.records.push(own(EtcdData::Address(ip)));
                    }
                    (HostKind::Text, Type::TXT) if seen.insert(service.text.as_str()) => {
                        answer.records.push(own(EtcdData::Txt(service.txt())));
                    }
                    (HostKind::Name, _) => {
                        let target = service.name()?;
                        // A name below this one would be found again.
                        if target.as_name().is_within(name.as_name())
                            || previous.len() > MAX_CHAIN
                            || previous.contains(&target)
                        {
                            continue;
                        }
                        let alias = own(EtcdData::Name(Type::CNAME, target.clone()));
                        if target.as_name().is_within(self.zone.as_name()) {
                            let mut chain = previous.clone();
                            chain.push(target.clone());
                            match self.addresses(target, qtype, chain).await {
                                Ok(next) => {
                                    answer.truncated |= next.truncated;
                                    if !next.records.is_empty() {
                                        answer.records.push(alias);
                                        answer.records.extend(next.records);
                                    }
                                }
                                Err(LookupError::NotFound | LookupError::Invalid(_)) => {}
                                Err(error @ LookupError::Failed(_)) => return Err(error),
                            }
                        } else if let Some(EtcdReply { question, reply }) = self.elsewhere(&target, qtype).await? {
                            answer.truncated |= reply.truncated;
                            answer.records.push(alias);
                            answer.records.push(EtcdRecord::Found { question, reply, with_aliases: true });
                        }
                    }
                    _ => {}
                }
            }
            Ok(answer)
        })
    }

    /// Answers CNAME: the first record, if its host is a name.
    async fn alias(&mut self, name: NameBuf) -> Result<EtcdAnswer, LookupError> {
        let found = self.services(name.as_name(), true, Type::CNAME).await?;
        let mut answer = EtcdAnswer::default();
        if let Some(service) = found.services.first().filter(|service| !service.is_address()) {
            let data = EtcdData::Name(Type::CNAME, service.name()?);
            answer.records.push(EtcdRecord::Own { owner: name, ttl: service.ttl, data });
        }
        Ok(answer)
    }

    /// Answers PTR.
    async fn pointers(&mut self, name: NameBuf) -> Result<EtcdAnswer, LookupError> {
        let found = self.services(name.as_name(), true, Type::PTR).await?;
        let mut answer = EtcdAnswer::default();
        let mut seen = HashSet::new();
        for service in found.services.iter().filter(|service| !service.is_address()) {
            if seen.insert(service.host.as_str()) {
                let data = EtcdData::Name(Type::PTR, service.name()?);
                answer.records.push(EtcdRecord::Own { owner: name.clone(), ttl: service.ttl, data });
            }
        }
        Ok(answer)
    }

    /// Answers SRV, with the addresses of targets.
    async fn servers(&mut self, name: NameBuf) -> Result<EtcdAnswer, LookupError> {
        let found = self.services(name.as_name(), false, Type::SRV).await?;
        let mut answer = EtcdAnswer::default();
        let mut sums: HashMap<i64, f64> = HashMap::new();
        for service in &found.services {
            *sums.entry(service.priority).or_default() +=
                if service.weight == 0 { 100.0 } else { service.weight as f64 };
        }
        let (mut seen, mut addresses, mut looked_up) = (HashSet::new(), HashSet::new(), HashSet::new());
        for service in found.services.iter().filter(|service| service.port != -1) {
            let share = if service.weight == 0 { 100.0 } else { service.weight as f64 };
            let weight = share * 100.0 / sums.get(&service.priority).copied().unwrap_or(1.0);
            // The share in percent, at least 1. As in Go, numbers that do not fit are cut to their low 16 bits.
            let weight = if weight.is_finite() { (weight.floor() as i64 as u16).max(1) } else { 1 };
            let (priority, port) = (service.priority as u16, service.port as u16);
            let own = |target: &NameBuf| EtcdRecord::Own {
                owner: name.clone(),
                ttl: service.ttl,
                data: EtcdData::Srv { priority, weight, port, target: target.clone() },
            };
            match service.kind() {
                HostKind::Name => {
                    let target = service.target()?;
                    answer.records.push(own(&target));
                    if looked_up.insert(target.clone()) {
                        self.add_target(target, &mut answer).await?;
                    }
                }
                HostKind::Address(ip) => {
                    let (_, target) = service.key_target()?;
                    if seen.insert((target.clone(), port)) {
                        answer.records.push(own(&target));
                    }
                    if addresses.insert((target.clone(), service.host.as_str())) {
                        answer.extra.push(EtcdRecord::Own {
                            owner: target,
                            ttl: service.ttl,
                            data: EtcdData::Address(ip),
                        });
                    }
                }
                HostKind::Text => {}
            }
        }
        Ok(answer)
    }

    /// Answers MX, with the addresses of hosts.
    async fn mail_servers(&mut self, name: NameBuf) -> Result<EtcdAnswer, LookupError> {
        let found = self.services(name.as_name(), false, Type::MX).await?;
        let mut answer = EtcdAnswer::default();
        let (mut seen, mut addresses, mut looked_up) = (HashSet::new(), HashSet::new(), HashSet::new());
        for service in found.services.iter().filter(|service| service.mail) {
            let preference = service.priority as u16;
            let own = |host: &NameBuf| EtcdRecord::Own {
                owner: name.clone(),
                ttl: service.ttl,
                data: EtcdData::Mx { preference, host: host.clone() },
            };
            match service.kind() {
                HostKind::Name => {
                    let host = service.target()?;
                    answer.records.push(own(&host));
                    if looked_up.insert(host.clone()) {
                        self.add_target(host, &mut answer).await?;
                    }
                }
                HostKind::Address(ip) => {
                    let (full, host) = service.key_target()?;
                    if seen.insert((host.clone(), preference)) {
                        answer.records.push(own(&host));
                    }
                    // As in CoreDNS, the address belongs to the complete name.
                    if addresses.insert((full.clone(), service.host.as_str())) {
                        answer.extra.push(EtcdRecord::Own {
                            owner: full,
                            ttl: service.ttl,
                            data: EtcdData::Address(ip),
                        });
                    }
                }
                HostKind::Text => {}
            }
        }
        Ok(answer)
    }

    /// Adds the addresses of a target to the additional section. As in CoreDNS, a target within the zone has only A.
    async fn add_target(&mut self, target: NameBuf, answer: &mut EtcdAnswer) -> Result<(), LookupError> {
        if target.as_name().is_within(self.zone.as_name()) {
            return match self.addresses(target, Type::A, Vec::new()).await {
                Ok(found) => {
                    answer.extra.extend(found.records);
                    Ok(())
                }
                Err(LookupError::NotFound | LookupError::Invalid(_)) => Ok(()),
                Err(error @ LookupError::Failed(_)) => Err(error),
            };
        }
        for qtype in [Type::A, Type::AAAA] {
            if let Some(EtcdReply { question, reply }) = self.elsewhere(&target, qtype).await? {
                answer.extra.push(EtcdRecord::Found { question, reply, with_aliases: qtype == Type::A });
            }
        }
        Ok(())
    }

    /// Answers NS of the zone: the records below `ns.dns.ZONE`, which have to be addresses.
    async fn name_servers(&mut self, name: NameBuf) -> Result<EtcdAnswer, LookupError> {
        let servers = below_zone("ns.dns", &self.zone)?;
        let found = self.services(servers.as_name(), false, Type::NS).await?;
        let mut answer = EtcdAnswer::default();
        let mut seen = HashSet::new();
        for service in &found.services {
            let ip = match service.kind() {
                HostKind::Address(ip) => ip,
                HostKind::Name => return Err(format!("NS record must be an IP address: {}", service.host).into()),
                HostKind::Text => continue,
            };
            let (_, target) = service.key_target()?;
            let (ttl, data) = (service.ttl, EtcdData::Address(ip));
            answer.extra.push(EtcdRecord::Own { owner: target.clone(), ttl, data });
            if seen.insert(target.clone()) {
                answer.records.push(EtcdRecord::Own {
                    owner: name.clone(),
                    ttl,
                    data: EtcdData::Name(Type::NS, target),
                });
            }
        }
        Ok(answer)
    }
}

/// A reply to an internal look-up.
struct EtcdReply {
    question: Box<Question>,
    reply: Box<Reply>,
}

/// Returns a name in the zone.
fn below_zone(labels: &str, zone: &NameBuf) -> Result<NameBuf, LookupError> {
    let text = if zone.as_name().is_root() { format!("{labels}.") } else { format!("{labels}.{zone}") };
    NameBuf::from_text(&text).map_err(|error| LookupError::Invalid(format!("{text}: {error}")))
}

/// Returns the SOA record of a zone.
pub(super) fn soa(zone: &NameBuf) -> EtcdRecord {
    // In a zone of 250 bytes these names are too long; the zone's takes their place.
    let name = |labels| below_zone(labels, zone).unwrap_or_else(|_| zone.clone());
    let data = EtcdData::Soa { mailbox: name("hostmaster"), primary: name("ns.dns") };
    EtcdRecord::Own { owner: zone.clone(), ttl: SOA_TTL, data }
}

impl EtcdRecord {
    /// Writes the record into a reply to a question of this name. `serial` is that of an SOA.
    pub(super) fn write(self, section: Section, question: &Question, serial: u32, reply: &mut Reply) {
        let (owner, ttl, data) = match self {
            EtcdRecord::Own { owner, ttl, data } => (owner, ttl, data),
            EtcdRecord::Found { question, reply: mut found, with_aliases } => {
                if !with_aliases {
                    found.records_mut().retain(|record| record.rtype != Type::CNAME);
                }
                return reply.append(&found, &question, Section::Answer, section);
            }
        };
        let owner = if owner.as_name().eq_ignore_case(question.name()) {
            NameRef::QUESTION
        } else {
            reply.store_name(owner.as_name())
        };
        let (rtype, rdata) = match data {
            EtcdData::Address(IpAddr::V4(ip)) => (Type::A, Rdata::A(ip.octets())),
            EtcdData::Address(IpAddr::V6(ip)) => (Type::AAAA, Rdata::Aaaa(ip.octets())),
            EtcdData::Name(rtype, name) => (rtype, Rdata::Name(reply.store_name(name.as_name()))),
            EtcdData::Srv { priority, weight, port, target } => {
                (Type::SRV, Rdata::Srv { priority, weight, port, target: reply.store_name(target.as_name()) })
            }
            EtcdData::Mx { preference, host } => {
                let data = [&preference.to_be_bytes(), host.as_wire()].concat();
                (Type::MX, Rdata::Bytes(reply.store(&data)))
            }
            // A longer text fits into no message.
            EtcdData::Txt(data) if data.len() > usize::from(u16::MAX) => {
                reply.truncated = true;
                return;
            }
            EtcdData::Txt(data) => (Type::TXT, Rdata::Bytes(reply.store(&data))),
            EtcdData::Soa { mailbox, primary } => {
                let (mname, rname) = (reply.store_name(primary.as_name()), reply.store_name(mailbox.as_name()));
                let numbers = SoaNumbers { serial, refresh: 7_200, retry: 1_800, expire: 86_400, minimum: SOA_TTL };
                (Type::SOA, Rdata::Soa { mname, rname, numbers: reply.store_soa_numbers(numbers) })
            }
        };
        reply.push(Record { section, owner, rtype, class: Class::IN, ttl, rdata });
    }
}
