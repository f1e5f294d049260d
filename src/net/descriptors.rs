//! The descriptors that this process may have.

use nix::sys::resource::{Resource, getrlimit};

/// Returns the maximum number of open descriptors of this process: its soft limit.
pub(crate) fn descriptor_limit() -> usize {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX))
}
