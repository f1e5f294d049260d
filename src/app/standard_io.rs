//! Standard input, output and error, and the text of errors there and in the log.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use crate::corefile::read_source;
use crate::explain::printable;

/// Ends a command: prints its text, or the line of its error. The exit status is 1 after an error, also one of writing.
/// A reader that has closed the pipe, such as `head`, has what it wants.
pub(super) fn finish(result: Result<String, String>) -> ExitCode {
    let error = match result {
        Ok(text) => match print(&text) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                let reason = error.to_string();
                format!("cannot write to standard output: {}", reason.split(" (os error").next().unwrap_or(&reason))
            }
            _ => return ExitCode::SUCCESS,
        },
        Err(error) => error,
    };
    // The line quotes the words of the user, who may have pasted them.
    print_error(format_args!("{}\n", printable(&error)));
    ExitCode::from(1)
}

/// Writes to standard output, and waits until it is written.
pub(super) fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes to standard error. Errors are ignored: there is no reader.
pub(super) fn print_error(text: std::fmt::Arguments<'_>) {
    let _ = std::io::stderr().write_fmt(text);
}

/// Reads the Corefile from standard input.
pub(super) fn read_stdin() -> std::io::Result<String> {
    read_source(std::io::stdin())
}

/// Formats an error with its causes, without those that its text repeats.
pub(super) fn format_with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // "address already in use" repeats "Address already in use (os error 98)".
        let message = cause.split(" (os error").next().unwrap_or(&cause).to_lowercase();
        if !text.to_lowercase().contains(&message) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
