//! Decodes our bytes with hickory-proto, which is the oracle of tests.

use hickory_proto::op::Message;

/// Decodes a message that [`super::header::accept`] accepts, or that this server wrote.
///
/// The header must have been checked: `Message::from_vec` reserves as many questions as the header claims.
pub fn decode(bytes: &[u8]) -> Option<Message> {
    Message::from_vec(bytes).ok()
}
