//! `-check`: everything that is wrong with a Corefile, with nothing served.
//!
//! What only this machine lacks is a warning, because the Corefile may be for another: an address, an interface, a
//! certificate. The start makes errors of the same findings.

use std::net::UdpSocket;
use std::process::ExitCode;

use super::args::{Args, Task};
use super::build::listen_addresses;
use super::configuration::{self, Configuration};
use super::machine;
use super::run::{print, read_stdin};
use super::sockets::{Place, check_certificates};
use crate::corefile::{Diagnostic, Diagnostics, RealFiles, Severity, Stage, render_json, render_text};
use crate::net::{self, Address};
use crate::source::Manifests;

/// Prints everything that is wrong; exit status 0 or 1.
pub fn check(args: &Args) -> ExitCode {
    let mut diagnostics = Diagnostics::default();
    let configuration = configuration::read(args, &RealFiles, read_stdin, &mut diagnostics);
    let mut here = Diagnostics::default();
    check_here(&configuration, args, &mut here);
    for found in &here {
        // What no plugin is named for is wrong everywhere, such as blocks in each other's way.
        let severity = if found.plugin.is_some() { Severity::Warning } else { found.severity };
        diagnostics.push(Diagnostic { severity, ..found.clone() });
    }
    diagnostics.sort();
    let sources = &configuration.corefile.sources;
    if args.task == Task::CheckJson {
        print(format_args!("{}\n", render_json(&diagnostics, sources)));
    } else {
        print(format_args!("{}", render_text(&diagnostics, sources)));
        let errors = diagnostics.iter().filter(|found| found.severity == Severity::Error).count();
        let warnings = diagnostics.iter().count() - errors;
        let count = |number, what| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        let (errors, warnings) = (count(errors, "error"), count(warnings, "warning"));
        print(format_args!("{}: {errors}, {warnings}\n", args.conf_name()));
    }
    if diagnostics.has_errors() { ExitCode::from(1) } else { ExitCode::SUCCESS }
}

/// Reports what a start would find on this machine.
fn check_here(configuration: &Configuration, args: &Args, diagnostics: &mut Diagnostics) {
    let binds = listen_addresses(configuration, args.port, &machine::interfaces(), diagnostics);
    check_certificates(configuration, false, diagnostics);
    for ((block, tree), addresses) in configuration.blocks.iter().zip(&configuration.corefile.blocks).zip(binds) {
        let mut report = |name: &str, message: String| {
            let span = tree.directives_named(name).next().map(|found| found.span);
            diagnostics.push(Diagnostic::error(Stage::Setup, span, message).plugin(name));
        };
        for address in addresses.into_iter().flatten() {
            if let Err(error) = bind(address) {
                report("bind", format!("cannot listen on {address}: {}", net::reason(&error)));
            }
        }
        for directive in &block.directives {
            directive.check().into_iter().for_each(|error| report(directive.name, error.to_string()));
        }
    }
    if !args.manifests.is_empty()
        && let Err(error) = Manifests::load(&args.manifests)
    {
        diagnostics.push(Diagnostic::error(Stage::Setup, None, error.to_string()));
    }
}

/// Whether this machine can listen on an address: any port shows it. A list of interfaces does not, since routes may
/// make whole networks local.
fn bind(address: Address) -> std::io::Result<()> {
    let place = Place { address: Some(address), ..Place::default() };
    UdpSocket::bind(place.socket_address()).map(drop)
}
