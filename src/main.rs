//! The binary. Everything else is in the library.

use std::process::ExitCode;

/// The index of a cluster consists of many small allocations, and each event replaces some of them. For that, jemalloc
/// takes less time and holds less free memory than the C library's allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    clusterdns::app::main(std::env::args_os().skip(1))
}
