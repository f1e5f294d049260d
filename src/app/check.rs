//! `-check`: reports every error and warning of a Corefile and serves nothing.
//!
//! What only this machine lacks (an address, an interface, a certificate) is a warning, because the Corefile may be
//! meant for another machine. At start the same diagnostics are errors.

use std::net::UdpSocket;
use std::path::Path;
use std::process::ExitCode;

use super::args::{Args, Task};
use super::build::listen_addresses;
use super::configuration::{self, Configuration};
use super::machine;
use super::sockets::{ListenerAddress, check_certificates};
use super::standard_io::{finish, read_stdin};
use crate::corefile::{Diagnostic, DiagnosticSeverity, Diagnostics, RealFiles, Stage, render_json, render_text};
use crate::net::{self, Address};
use crate::source::Manifests;

/// Prints all errors and warnings. The exit status is 1 if there is an error.
pub(super) fn check(args: &Args) -> ExitCode {
    let mut diagnostics = Diagnostics::default();
    let configuration = configuration::read(args, &RealFiles, read_stdin, &mut diagnostics);
    // The start without a Corefile serves the built-in one, as CoreDNS does; a check of nothing is a wrong directory.
    if args.conf.is_none() && args.manifests.is_empty() && !Path::new(&args.conf_name()).exists() {
        let message = format!("there is no file {} in this directory", args.conf_name());
        let error = Diagnostic::error(Stage::Setup, None, message);
        diagnostics.push(error.expected("the name of the file, as in 'clusterdns -check FILE'"));
    } else if let Some(message) = configuration.without_cluster(args).filter(|_| !diagnostics.has_errors()) {
        diagnostics.push(Diagnostic::warning(Stage::Setup, None, message).expected(configuration::BLOCK_EXPECTED));
    }
    let mut of_machine = Diagnostics::default();
    check_machine(&configuration, args, &mut of_machine);
    for found in &of_machine {
        // A diagnostic without a plugin, such as a conflict of two blocks, is an error on every machine.
        let severity = if found.plugin.is_some() { DiagnosticSeverity::Warning } else { found.severity };
        diagnostics.push(Diagnostic { severity, ..found.clone() });
    }
    diagnostics.sort();
    let sources = &configuration.corefile.sources;
    let text = if args.task == Task::CheckJson {
        render_json(&diagnostics, sources) + "\n"
    } else {
        let errors = diagnostics.errors();
        let warnings = diagnostics.iter().count() - errors;
        let count = |number, what| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        let counted = format!("{}: {}, {}\n", args.conf_name(), count(errors, "error"), count(warnings, "warning"));
        render_text(&diagnostics, sources) + &counted
    };
    let written = finish(Ok(text));
    if diagnostics.has_errors() { ExitCode::from(1) } else { written }
}

/// Reports what a start on this machine would fail for.
fn check_machine(configuration: &Configuration, args: &Args, diagnostics: &mut Diagnostics) {
    let binds = listen_addresses(configuration, args.port, &machine::interfaces(), diagnostics);
    check_certificates(configuration, false, diagnostics);
    for ((block, tree), addresses) in configuration.blocks.iter().zip(&configuration.corefile.blocks).zip(binds) {
        let mut report = |name: &str, message: String| {
            let span = tree.directives_named(name).next().map(|found| found.span);
            diagnostics.push(Diagnostic::error(Stage::Setup, span, message).plugin(name));
        };
        for address in addresses.into_iter().flatten() {
            if let Err(error) = try_bind(address) {
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

/// Checks whether this machine can listen on an address, with any free port. The list of interfaces is not enough: a
/// route may make a whole network local.
fn try_bind(address: Address) -> std::io::Result<()> {
    let address = ListenerAddress { host: Some(address), ..ListenerAddress::default() };
    UdpSocket::bind(address.socket_address()).map(drop)
}
