//! hickory-proto's view of our bytes: the oracle of tests.

use hickory_proto::op::Message;

/// Decodes a message whose header [`super::header::accept`] has passed, or one that this server wrote.
///
/// Not for a header that was not checked: `Message::from_vec` reserves as many questions as the header claims.
pub fn decode(bytes: &[u8]) -> Option<Message> {
    Message::from_vec(bytes).ok()
}
