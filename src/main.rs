//! The binary; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    clusterdns::app::main(std::env::args_os().skip(1))
}
