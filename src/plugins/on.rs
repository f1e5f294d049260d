//! *on*: runs commands when the server starts and when it stops (Caddy's plugin `onevent`, which CoreDNS includes).
//!
//! Commands run without a shell, on a thread that answers no queries, and for a limited time. Each command line runs
//! once at a time, so that reloads do not add up processes.

use std::collections::BTreeSet;
use std::fmt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Context;
use super::build::{BlockBuilder, BuildError, Setting};
use crate::corefile::{Arguments, Directive};

/// The longest time between two looks at a command that runs.
const POLL: Duration = Duration::from_millis(100);

/// The configuration of a server block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The commands, in the order of the file.
    pub commands: Vec<EventCommand>,
}

/// A command and its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventCommand {
    /// When it runs.
    pub event: CommandEvent,
    /// The program and its arguments; not empty.
    pub words: Vec<String>,
    /// Nothing waits for the end of the command.
    pub in_background: bool,
}

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandEvent {
    /// The server has started, or a reload has put this configuration into use.
    Startup,
    /// SIGTERM or SIGINT has arrived.
    Shutdown,
    /// Certificates of ACME were renewed, which this server does not do.
    CertRenew,
}

/// Parses the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let had_errors = context.diagnostics.has_errors();
    let mut config = Config::default();
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        config.commands.extend(parse_line(&mut line));
        line.finish();
    }
    (had_errors == context.diagnostics.has_errors()).then_some(config)
}

/// Parses `EVENT COMMAND [&]`. The words are joined and split again as by a shell, as in CoreDNS.
fn parse_line(line: &mut Arguments<'_, '_>) -> Option<EventCommand> {
    let word = line.word("an event: startup or shutdown")?;
    let event = match word.text.to_ascii_lowercase().as_str() {
        "startup" => CommandEvent::Startup,
        "shutdown" => CommandEvent::Shutdown,
        "certrenew" => {
            line.warning(word, "'certrenew' never happens: this server does not renew certificates");
            CommandEvent::CertRenew
        }
        _ => {
            let message = format!("Wrong event name or event not supported: '{}'", word.text);
            line.error_expected(word, message, "startup or shutdown");
            return None;
        }
    };
    let rest = line.rest();
    let first = rest.first().unwrap_or(word);
    let text = rest.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ");
    let Some(mut words) = shlex::split(&text) else {
        let message = "error parsing command: a quotation or an escape has no end";
        line.error_expected(first, message, "a command with complete quotations");
        return None;
    };
    let in_background = words.len() > 1 && words.last().is_some_and(|last| last == "&");
    if in_background {
        words.pop();
    }
    if words.is_empty() {
        line.error_expected(first, format!("no command contained in '{text}'"), "a command and its arguments");
        return None;
    }
    if words.iter().any(|word| word.contains('\0')) {
        line.error_expected(first, "a command with the byte 0", "a command without it");
        return None;
    }
    Some(EventCommand { event, words, in_background })
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        for command in &self.commands {
            let command = command.clone();
            match command.event {
                CommandEvent::Startup => block.at_start(Arc::new(move |limit| command.run(limit))),
                CommandEvent::Shutdown => block.at_stop(Arc::new(move |limit| command.run(limit))),
                CommandEvent::CertRenew => {}
            }
        }
        Ok(())
    }
}

/// The command lines that run, of all configurations.
static RUNNING: Mutex<BTreeSet<Vec<String>>> = Mutex::new(BTreeSet::new());

/// A command line that runs, until this is dropped.
struct RunningCommand(Vec<String>);

impl RunningCommand {
    /// Marks a command line as running, unless it is.
    fn begin(words: &[String]) -> Option<RunningCommand> {
        RUNNING.lock().insert(words.to_vec()).then(|| RunningCommand(words.to_vec()))
    }
}

impl Drop for RunningCommand {
    fn drop(&mut self) {
        RUNNING.lock().remove(&self.0);
    }
}

impl fmt::Display for EventCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.words.join(" "))
    }
}

impl EventCommand {
    /// Runs the command. Waits for its end for this time, and then kills it; a command in the background has no limit.
    fn run(&self, limit: Duration) {
        let Some(running) = RunningCommand::begin(&self.words) else {
            return tracing::warn!(plugin = "on", "{self} is still running, and is not started again");
        };
        let mut command = std::process::Command::new(&self.words[0]);
        command.args(&self.words[1..]).stdin(Stdio::null());
        tracing::info!(plugin = "on", "running {self}");
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return tracing::error!(plugin = "on", "cannot run {self}: {error}"),
        };
        if !self.in_background {
            return self.log_end(wait(&mut child, limit));
        }
        let command = self.clone();
        let waiting = move || {
            let _running = running;
            command.log_end(child.wait().map(Some));
        };
        if let Err(error) = std::thread::Builder::new().name("command".into()).spawn(waiting) {
            tracing::error!(plugin = "on", "cannot wait for {self}: {error}");
        }
    }

    /// Logs the end of the command, unless it was successful.
    fn log_end(&self, end: std::io::Result<Option<ExitStatus>>) {
        match end {
            Ok(Some(status)) if status.success() => {}
            Ok(Some(status)) => tracing::error!(plugin = "on", "{self}: {status}"),
            Ok(None) => tracing::error!(plugin = "on", "{self}: killed at the end of its time"),
            Err(error) => tracing::error!(plugin = "on", "{self}: {error}"),
        }
    }
}

/// Waits for a process. After `limit` it is killed, and the result is `None`.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let until = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{Folder, config, read};

    #[test]
    fn commands_are_parsed_as_in_coredns() {
        let commands = |lines: &str| config(lines, parse).commands;
        let parsed = commands("on startup echo $HOME \"two words\" a&b\non SHUTDOWN sh -c \"'echo x; sleep 1'\" &");
        let words: Vec<Vec<&str>> =
            parsed.iter().map(|command| command.words.iter().map(String::as_str).collect()).collect();
        assert_eq!(words, [vec!["echo", "$HOME", "two", "words", "a&b"], vec!["sh", "-c", "echo x; sleep 1"]]);
        assert_eq!(parsed.iter().map(|command| command.in_background).collect::<Vec<_>>(), [false, true]);
        assert_eq!((parsed[0].event, parsed[1].event), (CommandEvent::Startup, CommandEvent::Shutdown));
        for (line, message) in [
            ("on", "Wrong argument count or unexpected line ending after 'on'"),
            ("on start x", "Wrong event name or event not supported: 'start'"),
            ("on startup", "no command contained in ''"),
            ("on startup \"# x\"", "no command contained in '# x'"),
            ("on startup \"'x\"", "error parsing command: a quotation or an escape has no end"),
        ] {
            assert_eq!(read(line, parse).1, [message], "{line}");
        }
        assert_eq!(read("on certrenew x", parse).1.len(), 1);
    }

    fn command(words: &[&str]) -> EventCommand {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        EventCommand { event: CommandEvent::Startup, words, in_background: false }
    }

    #[test]
    fn a_command_runs_without_a_shell_until_its_end() {
        let folder = Folder::new("on");
        let path = folder.write("$HOME", "");
        std::fs::remove_file(&path).expect("removed");
        command(&["touch", &path.display().to_string()]).run(Duration::from_secs(60));
        assert!(path.exists(), "a shell would have replaced the variable");
        command(&["clusterdns-no-such-command"]).run(Duration::from_secs(60));
        assert!(!RUNNING.lock().iter().any(|words| words[0] == "touch" || words[0] == "clusterdns-no-such-command"));
    }

    #[test]
    fn a_command_that_does_not_end_is_killed() {
        let mut child = std::process::Command::new("sleep").arg("3600").spawn().expect("a process");
        assert!(wait(&mut child, Duration::from_millis(50)).expect("waited").is_none());
        assert!(!child.try_wait().expect("waited").expect("killed").success());
    }

    #[test]
    fn a_command_line_runs_once_at_a_time() {
        let words = ["x".to_owned()];
        let running = RunningCommand::begin(&words).expect("not running");
        assert!(RunningCommand::begin(&words).is_none());
        drop(running);
        assert!(RunningCommand::begin(&words).is_some());
    }
}
