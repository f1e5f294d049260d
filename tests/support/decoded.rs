//! Messages as decoded by hickory, in a form that can be compared: names and data in wire form, without compression.

use std::fmt;

use clusterdns::wire;
use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RData, Record};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

/// A record. Names keep their letter case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DecodedRecord {
    /// 0 answer, 1 authority, 2 additional, without OPT.
    pub section: usize,
    pub owner: Vec<u8>,
    pub rtype: u16,
    pub class: u16,
    pub ttl: u32,
    pub data: Vec<u8>,
}

impl fmt::Debug for DecodedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = wire::Name::from_wire(&self.owner);
        let rtype = wire::Type(self.rtype);
        let data = self.data.escape_ascii();
        write!(f, "[{} {owner:?} {} {} {rtype} {data}]", self.section, self.ttl, self.class)
    }
}

/// Decodes a message; panics if hickory cannot.
#[track_caller]
pub fn decode(bytes: &[u8]) -> Message {
    wire::hickory::decode(bytes).unwrap_or_else(|| panic!("hickory cannot read {bytes:02x?}"))
}

/// Returns the records of a message, in their order.
pub fn records(message: &Message) -> Vec<DecodedRecord> {
    let sections = [&message.answers, &message.authorities, &message.additionals];
    sections
        .iter()
        .enumerate()
        .flat_map(|(section, records)| records.iter().map(move |record| one(section, record)))
        .collect()
}

fn one(section: usize, record: &Record) -> DecodedRecord {
    DecodedRecord {
        section,
        owner: name(&record.name),
        rtype: record.record_type().into(),
        class: record.dns_class.into(),
        ttl: record.ttl,
        data: data(&record.data),
    }
}

/// Returns a name in wire form.
pub fn name(name: &Name) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.iter() {
        wire.push(label.len() as u8);
        wire.extend(label);
    }
    wire.push(0);
    wire
}

fn data(data: &RData) -> Vec<u8> {
    match data {
        RData::A(address) => address.octets().to_vec(),
        RData::AAAA(address) => address.octets().to_vec(),
        RData::CNAME(target) => name(&target.0),
        RData::NS(target) => name(&target.0),
        RData::PTR(target) => name(&target.0),
        RData::SRV(srv) => {
            let numbers = [srv.priority, srv.weight, srv.port].map(u16::to_be_bytes);
            [numbers.concat(), name(&srv.target)].concat()
        }
        RData::SOA(soa) => {
            let times = [soa.refresh, soa.retry, soa.expire].map(|seconds| seconds as u32);
            let numbers = [&[soa.serial][..], &times, &[soa.minimum]].concat();
            let numbers: Vec<u8> = numbers.into_iter().flat_map(u32::to_be_bytes).collect();
            [name(&soa.mname), name(&soa.rname), numbers].concat()
        }
        other => {
            let mut bytes = Vec::new();
            other.emit(&mut BinEncoder::new(&mut bytes)).expect("decoded data can be encoded");
            bytes
        }
    }
}
