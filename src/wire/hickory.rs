//! Decodes our bytes with hickory-proto, which is the oracle of tests, and encodes record data whose presentation form
//! this server does not read itself.

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::{HTTPS, SVCB};
use hickory_proto::rr::{RData, RecordType};
use hickory_proto::serialize::binary::BinEncodable;

/// Decodes a message that [`super::header::accept`] accepts, or that this server wrote.
///
/// The header must have been checked: `Message::from_vec` reserves as many questions as the header claims.
pub fn decode(bytes: &[u8]) -> Option<Message> {
    Message::from_vec(bytes).ok()
}

/// Whether hickory can decode bytes as data of this type.
pub fn is_data(rtype: u16, class: u16, data: &[u8]) -> bool {
    let Ok(length) = u16::try_from(data.len()) else { return false };
    // A response with one record of the root.
    let mut message = vec![0, 0, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0];
    message.extend([rtype, class, 0, 0, length].iter().flat_map(|number| number.to_be_bytes()));
    message.extend(data);
    Message::from_vec(&message).is_ok()
}

/// Returns the data of an SVCB or HTTPS record from its presentation form, or `None` if the form is invalid.
pub fn service_data(rtype: u16, text: &str) -> Option<Vec<u8>> {
    // Keys that hickory knows by number only (RFC 9461 5, RFC 9540 4).
    let text = text.replace(" dohpath=", " key7=").replace(" ohttp", " key8");
    let data = match RData::try_from_str(RecordType::from(rtype), &text).ok()? {
        RData::SVCB(data) => data,
        RData::HTTPS(HTTPS(data)) => data,
        _ => return None,
    };
    // Parameters may be written in any order; they are sent in the order of their keys, each once (RFC 9460 2.1, 2.2).
    let mut parameters = data.svc_params.clone();
    parameters.sort_by_key(|(key, _)| u16::from(*key));
    let repeats = parameters.windows(2).any(|pair| pair[0].0 == pair[1].0);
    let data = SVCB::new(data.svc_priority, data.target_name, parameters);
    if repeats { None } else { RData::SVCB(data).to_bytes().ok() }
}
