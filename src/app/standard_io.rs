//! Standard input, output and error, and the text of errors there and in the log.

use std::io::Write;

use crate::corefile::read_source;

/// Writes to standard output. Errors are ignored: there is no reader.
pub(super) fn print(text: std::fmt::Arguments<'_>) {
    let _ = std::io::stdout().write_fmt(text);
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
