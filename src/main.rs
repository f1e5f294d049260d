//! The binary; everything is in the library.

use std::process::ExitCode;

/// What is known of a cluster is many small blocks, of which each event replaces some: this one takes less time for that
/// than the C library's, and keeps less memory for itself.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    clusterdns::app::main(std::env::args_os().skip(1))
}
