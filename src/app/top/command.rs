//! `clusterdns top`: a table that is refreshed, from the server that runs in this Pod.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use super::report::{MAX_ROWS, TopAsk, parse_rows};
use crate::app::command::{CommandFlag, CommandWords, help};
use crate::app::explain::ask_top;
use crate::app::standard_io::{finish, print};
use crate::corefile::suggest;
use crate::telemetry::top::{TopBy, TopWindow};

/// The flags.
const FLAGS: &[CommandFlag] = &[
    CommandFlag { name: "window", value: Some("WINDOW"), help: "minute or hour (default minute)" },
    CommandFlag {
        name: "by",
        value: Some("WHAT"),
        help: "only this list: client, pod, namespace, name, upstream, rcode or reason",
    },
    CommandFlag { name: "n", value: Some("NUMBER"), help: "rows of a list, 1 to 200 (default 10)" },
    CommandFlag { name: "once", value: None, help: "print once, also to a terminal" },
    CommandFlag { name: "server", value: Some("PID"), help: "the running server to ask, if several run here" },
    CommandFlag { name: "json", value: None, help: "print JSON, once" },
    CommandFlag { name: "help", value: None, help: "print this" },
    CommandFlag { name: "h", value: None, help: "same as -help" },
];

const USAGE: &str = "top [flags]";
const ABOUT: &str = "Shows who asks the server that runs in this Pod what: the most frequent clients, Pods, names, \
                     upstreams, response codes and reasons. A terminal is refreshed every two seconds.";
/// How often a terminal is refreshed.
const INTERVAL: Duration = Duration::from_secs(2);
/// Moves the cursor to the first line, and erases the screen.
const ERASE: &str = "\x1b[H\x1b[J";
/// Erases the whole screen and what has left it, at the start.
const ERASE_ALL: &str = "\x1b[2J";

/// The parsed words.
struct TopWords {
    ask: TopAsk,
    server: Option<u32>,
    is_json: bool,
    is_once: bool,
}

/// Runs `clusterdns top`. `words` are those after `top`.
pub(crate) fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    finish(run(words))
}

/// Returns what is printed at the end, or the line of an error. A terminal is refreshed until it has gone.
fn run(words: impl Iterator<Item = OsString>) -> Result<String, String> {
    let Some(words) = parse(words)? else {
        return Ok(help(USAGE, ABOUT, FLAGS));
    };
    let report = ask_top(&words.ask, words.server)?;
    if words.is_json {
        return Ok(report.to_json());
    }
    if words.is_once || !std::io::stdout().is_terminal() {
        return Ok(report.to_text());
    }
    let mut text = format!("{ERASE_ALL}{ERASE}{}", report.to_text());
    loop {
        // The terminal has gone.
        if print(&text).is_err() {
            return Ok(String::new());
        }
        std::thread::sleep(INTERVAL);
        text = format!("{ERASE}{}", ask_top(&words.ask, words.server)?.to_text());
    }
}

/// Parses the words; `None` if the user wants the help.
fn parse(words: impl Iterator<Item = OsString>) -> Result<Option<TopWords>, String> {
    let words = CommandWords::parse(words, FLAGS)?;
    if words.has("help") || words.has("h") {
        return Ok(None);
    }
    if let Some(extra) = words.rest.first() {
        return Err(format!("unexpected '{extra}'; usage: clusterdns {USAGE}"));
    }
    let window = match words.last("window") {
        None => TopWindow::Minute,
        Some(text) => text.parse().map_err(|()| format!("-window: '{text}' is not minute or hour"))?,
    };
    let by = match words.last("by") {
        None => None,
        Some(text) => Some(text.parse::<TopBy>().map_err(|()| {
            let near = suggest(text, TopBy::ALL.map(TopBy::name));
            let near = near.map(|near| format!(", did you mean {near}?")).unwrap_or_default();
            format!("-by: '{text}' is not {}{near}", TopBy::WORDS)
        })?),
    };
    let number = match words.last("n") {
        None => 10,
        Some(text) => parse_rows(text).ok_or_else(|| format!("-n: '{text}' is not a number from 1 to {MAX_ROWS}"))?,
    };
    let server = match words.last("server") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| format!("-server: '{text}' is no number"))?),
    };
    let (is_json, is_once) = (words.has("json"), words.has("once"));
    Ok(Some(TopWords { ask: TopAsk { window, by, number }, server, is_json, is_once }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> String {
        let words = parse(line.split_whitespace().map(OsString::from));
        words.err().expect("an error")
    }

    #[test]
    fn words_are_parsed() {
        let words = parse("-by rcode -n=5 -window hour --json -server 7".split_whitespace().map(OsString::from));
        let words = words.expect("right").expect("no help");
        assert_eq!((words.ask.by, words.ask.number, words.ask.window), (Some(TopBy::Rcode), 5, TopWindow::Hour));
        assert_eq!((words.server, words.is_json, words.is_once), (Some(7), true, false));
        assert!(parse(["-h".into()].into_iter()).expect("right").is_none());
        assert_eq!(
            error("-by clients"),
            "-by: 'clients' is not client, pod, namespace, name, upstream, rcode or reason, did you mean client?"
        );
        assert_eq!(error("-n 0"), "-n: '0' is not a number from 1 to 200");
        assert_eq!(error("-window day"), "-window: 'day' is not minute or hour");
        assert_eq!(error("x"), "unexpected 'x'; usage: clusterdns top [flags]");
    }
}
