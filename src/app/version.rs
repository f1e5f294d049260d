//! The versions that this program reports, and the machine that it was built for.

/// This server's name and version.
pub const VERSION: &str = concat!("clusterdns-", env!("CARGO_PKG_VERSION"));
/// The revision of the source, if it was known when this was built (`deploy/build-image`).
pub(super) const REVISION: &str = match option_env!("CLUSTERDNS_REVISION") {
    Some(revision) => revision,
    None => "",
};
/// The version of CoreDNS that this server is compatible with.
pub(super) const COREDNS: &str = "CoreDNS-1.15.0";

/// Returns the operating system and the architecture that this binary was built for.
pub(super) fn platform() -> String {
    format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH)
}

/// Returns the text of `-version`.
pub(super) fn text() -> String {
    let revision = Some(REVISION).filter(|revision| !revision.is_empty());
    let revision = revision.map(|revision| format!(", commit {revision}")).unwrap_or_default();
    format!("{VERSION}\n{COREDNS} compatible\n{}{revision}\n", platform())
}
