//! The versions that this program reports, and the machine that it was built for.

/// This server's name and version.
pub const VERSION: &str = concat!("clusterdns-", env!("CARGO_PKG_VERSION"));
/// The version of CoreDNS that this server is compatible with.
pub(super) const COREDNS: &str = "CoreDNS-1.15.0";

/// Returns the operating system and the architecture that this binary was built for.
pub(super) fn platform() -> String {
    format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH)
}
