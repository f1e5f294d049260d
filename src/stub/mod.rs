//! Stub resolvers: the resolv.conf of a Pod, and the queries that a C library or runtime sends for a name.
//!
//! ```text
//! Pod (dnsPolicy, dnsConfig) ─ pod.rs ─► StubConf ─ library.rs ─► names in their order,
//! verdict of each answer ─ resolution.rs ─► queries and result
//! ```
//!
//! Pure: the answers are given as arguments. Names in `/etc/hosts`, mDNS and other sources than DNS are not modelled.

mod conf;
mod library;
mod pod;
mod resolution;

pub use conf::StubConf;
pub use library::{Code, Library, StubVerdict, UnsentName};
pub use pod::{ClusterDns, DnsConfig, DnsPolicy, PodDns, Rendered};
pub use resolution::{AddressLookUp, Resolution, StubQuery, resolve};
