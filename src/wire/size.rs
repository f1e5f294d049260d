//! The sizes of messages.

/// The maximum length of a DNS message in bytes (RFC 1035 4.2.2: a 16-bit length).
pub const MAX_MESSAGE: usize = 65_535;
/// The maximum length of a UDP response in bytes, whatever the client offers. Longer ones consist of many fragments
/// (RFC 9715).
pub const MAX_UDP: usize = 4_096;
/// The UDP payload size of a client that sends no OPT or a smaller size (RFC 1035 4.2.1, RFC 6891 6.2.3).
pub const MIN_UDP: usize = 512;
