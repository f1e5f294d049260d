//! The command line: CoreDNS's flags, parsed as Go's `flag` package does, and this server's own.
//!
//! A flag has one dash or two; its value is the next word or follows `=`. A switch takes a value only after `=`. `--`
//! ends the flags. Only one word may follow the flags: the file that `-check` reads.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::corefile::suggest;
use crate::telemetry::log::LogFormat;

/// The parsed command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// The Corefile. `None` means `Corefile` in the working directory, or the built-in one if that file is missing.
    pub conf: Option<Conf>,
    /// The port of `dns://` zones that name none.
    pub port: u16,
    /// The file that the process ID is written to.
    pub pidfile: Option<PathBuf>,
    /// Print less at start.
    pub quiet: bool,
    /// The form of log lines.
    pub log_format: LogFormat,
    /// Count who asks what, for `clusterdns top`.
    pub top: bool,
    /// The number of keys of each list of `clusterdns top` that `/metrics` has; 0 for none.
    pub top_metrics: usize,
    /// Manifests to serve from: files or directories.
    pub manifests: Vec<PathBuf>,
    /// What the program does.
    pub task: Task,
}

/// The place of the Corefile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conf {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

impl Conf {
    fn from_word(word: &str) -> Conf {
        if word == "stdin" { Conf::Stdin } else { Conf::File(word.into()) }
    }
}

/// What the program does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Task {
    /// Answers queries.
    #[default]
    Serve,
    /// Checks the Corefile and prints its errors and warnings as text.
    Check,
    /// Checks the Corefile and prints its errors and warnings as JSON.
    CheckJson,
    /// Prints the version.
    Version,
    /// Prints the list of directives.
    Plugins,
    /// Prints the description of the flags.
    Help,
}

impl Default for Args {
    fn default() -> Args {
        Args {
            conf: None,
            port: 53,
            pidfile: None,
            quiet: false,
            log_format: LogFormat::Text,
            top: true,
            top_metrics: 0,
            manifests: Vec::new(),
            task: Task::Serve,
        }
    }
}

/// An error on the command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// No flag has this name.
    #[error("flag provided but not defined: -{name}{}", format_suggestion(suggestion))]
    Unknown {
        /// The name given.
        name: String,
        /// The existing flag that is most similar.
        suggestion: Option<String>,
    },
    /// The flag needs a value.
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    /// The value is not what the flag takes.
    #[error("invalid value \"{value}\" for flag -{name}: expected {expected}")]
    BadValue {
        /// The flag.
        name: String,
        /// The value given.
        value: String,
        /// The values that the flag takes.
        expected: &'static str,
    },
    /// A word is not UTF-8.
    #[error("{0:?} is not UTF-8")]
    NotUtf8(OsString),
    /// Words follow the flags.
    #[error("extra command line arguments: [{words}]{advice}")]
    Extra {
        /// The words.
        words: String,
        /// What to write instead.
        advice: String,
    },
}

fn format_suggestion(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map(|name| format!(", did you mean -{name}?")).unwrap_or_default()
}

/// The commands, for suggestions.
const COMMANDS: [&str; 3] = ["explain", "resolve", "top"];

/// The largest value of `-top.metrics`.
const MAX_TOP_METRICS: usize = 100;

/// A flag.
struct Flag {
    name: &'static str,
    /// The name of its value in the help; `None` for a switch.
    value: Option<&'static str>,
    help: &'static str,
    /// Sets the value; the error names the expected values.
    set: fn(&mut Args, &str) -> Result<(), &'static str>,
}

/// Every flag, in the order of the help.
const FLAGS: &[Flag] = &[
    Flag {
        name: "conf",
        value: Some("FILE"),
        help: "Corefile to load; \"stdin\" reads standard input (default \"Corefile\")",
        set: |args, value| {
            args.conf = Some(Conf::from_word(value));
            Ok(())
        },
    },
    Flag { name: "dns.port", value: Some("PORT"), help: "port of zones that name none (default 53)", set: set_port },
    Flag { name: "p", value: Some("PORT"), help: "same as -dns.port", set: set_port },
    Flag {
        name: "manifests",
        value: Some("PATH"),
        help: "serve the cluster that this file or directory of manifests describes; may be repeated",
        set: |args, value| {
            args.manifests.push(value.into());
            Ok(())
        },
    },
    Flag {
        name: "check",
        value: None,
        help: "check the Corefile, or the FILE after the flags, print every error and warning, serve nothing; \
               -check=json prints JSON",
        set: |args, value| {
            match (value, parse_switch(value)) {
                ("json", _) => args.task = Task::CheckJson,
                (_, Ok(true)) => args.task = Task::Check,
                (_, Ok(false)) => {}
                _ => return Err("true, false or json"),
            }
            Ok(())
        },
    },
    Flag {
        name: "pidfile",
        value: Some("PATH"),
        help: "write the process ID to this file",
        set: |args, value| {
            args.pidfile = Some(value.into());
            Ok(())
        },
    },
    Flag {
        name: "quiet",
        value: None,
        help: "print less at start",
        set: |args, value| parse_switch(value).map(|on| args.quiet = on),
    },
    Flag {
        name: "log-format",
        value: Some("FORMAT"),
        help: "text or json (default text)",
        set: |args, value| {
            args.log_format = match value {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err("text or json"),
            };
            Ok(())
        },
    },
    Flag {
        name: "plugins",
        value: None,
        help: "list the directives",
        set: |args, value| set_task(args, value, Task::Plugins),
    },
    Flag {
        name: "top",
        value: None,
        help: "count who asks what, for 'clusterdns top' (default true); -top=false does not",
        set: |args, value| parse_switch(value).map(|on| args.top = on),
    },
    Flag {
        name: "top.metrics",
        value: Some("K"),
        help: "show the K most frequent keys of each list of 'clusterdns top' in /metrics, 0 to 100 (default 0)",
        set: |args, value| {
            let number = value.parse().ok().filter(|number| *number <= MAX_TOP_METRICS);
            args.top_metrics = number.ok_or("a number from 0 to 100")?;
            Ok(())
        },
    },
    Flag {
        name: "version",
        value: None,
        help: "print the version",
        set: |args, value| set_task(args, value, Task::Version),
    },
    Flag { name: "help", value: None, help: "print this", set: |args, value| set_task(args, value, Task::Help) },
    Flag { name: "h", value: None, help: "same as -help", set: |args, value| set_task(args, value, Task::Help) },
];

fn set_port(args: &mut Args, value: &str) -> Result<(), &'static str> {
    args.port = value.parse().map_err(|_| "a port, 0 to 65535")?;
    Ok(())
}

fn set_task(args: &mut Args, value: &str, task: Task) -> Result<(), &'static str> {
    if parse_switch(value)? {
        args.task = task;
    }
    Ok(())
}

/// Parses the value of a switch as Go's `strconv.ParseBool` does.
fn parse_switch(value: &str) -> Result<bool, &'static str> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("true or false"),
    }
}

impl Args {
    /// Parses the words after the program's name.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Args, ArgsError> {
        let mut args = Args::default();
        let words: Result<Vec<String>, OsString> = words.into_iter().map(OsString::into_string).collect();
        let mut words = words.map_err(ArgsError::NotUtf8)?.into_iter();
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix('-').filter(|name| !name.is_empty()) else {
                return args.with_rest(word, words);
            };
            if name == "-" {
                return match words.next() {
                    Some(word) => args.with_rest(word, words),
                    None => Ok(args),
                };
            }
            let name = name.strip_prefix('-').unwrap_or(name);
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            let Some(flag) = FLAGS.iter().find(|flag| flag.name == name) else {
                let suggestion = suggest(name, FLAGS.iter().map(|flag| flag.name));
                return Err(ArgsError::Unknown { name: name.to_owned(), suggestion });
            };
            let value = match (value, flag.value) {
                (Some(value), _) => value,
                (None, None) => "true".to_owned(),
                (None, Some(_)) => words.next().ok_or_else(|| ArgsError::NoValue(name.to_owned()))?,
            };
            (flag.set)(&mut args, &value).map_err(|expected| ArgsError::BadValue {
                name: name.to_owned(),
                value,
                expected,
            })?;
        }
        Ok(args)
    }

    /// Takes the words after the flags: the file to check; anything else is an error.
    fn with_rest(mut self, word: String, mut rest: impl Iterator<Item = String>) -> Result<Args, ArgsError> {
        match rest.next() {
            None if self.is_check() && self.conf.is_none() && word != "-" => {
                self.conf = Some(Conf::from_word(&word));
                Ok(self)
            }
            next => {
                let advice = self.advise_on_rest(&word);
                let words = [word].into_iter().chain(next).chain(rest).collect::<Vec<_>>().join(" ");
                Err(ArgsError::Extra { words, advice })
            }
        }
    }

    /// Returns whether the Corefile is only checked.
    fn is_check(&self) -> bool {
        matches!(self.task, Task::Check | Task::CheckJson)
    }

    /// Returns what to write instead of words after the flags of which this is the first.
    fn advise_on_rest(&self, word: &str) -> String {
        if COMMANDS.contains(&word) {
            return format!(", '{word}' must be the first word: 'clusterdns {word}'");
        }
        if let Some(name) = suggest(word, COMMANDS) {
            return format!(", did you mean 'clusterdns {name}'?");
        }
        if FLAGS.iter().any(|flag| flag.name == word) {
            return format!(", did you mean the flag -{word}?");
        }
        match (&self.conf, self.is_check()) {
            (None, true) if word == "-" => ", write 'stdin' for standard input",
            (None, true) => ", -check reads one file",
            (None, false) if word == "-" => ", write '-conf stdin' for a Corefile on standard input",
            (None, false) => ", write '-conf FILE' for a Corefile",
            (Some(_), _) => ", -conf has named the Corefile already",
        }
        .to_owned()
    }

    /// Returns the name of the Corefile for messages.
    pub fn conf_name(&self) -> String {
        match &self.conf {
            Some(Conf::File(path)) => path.display().to_string(),
            Some(Conf::Stdin) => "stdin".to_owned(),
            None => "Corefile".to_owned(),
        }
    }

    /// Returns the description of all flags.
    pub fn help() -> String {
        let mut help = "usage: clusterdns [flags]\n       clusterdns explain [flags] NAME [TYPE]\n       clusterdns resolve [flags] NAME\n       clusterdns top [flags]\n\n".to_owned();
        for flag in FLAGS {
            let value = flag.value.map(|value| format!(" {value}")).unwrap_or_default();
            let _ = writeln!(help, "  {:<18} {}", format!("-{}{value}", flag.name), flag.help);
        }
        help
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, ArgsError> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_are_parsed_as_go_parses_them() {
        let expected = Args {
            conf: Some(Conf::File("a".into())),
            port: 1053,
            manifests: vec!["x".into(), "y".into()],
            ..Args::default()
        };
        assert_eq!(parse("-conf a --dns.port 1053 -manifests=x --manifests y"), Ok(expected.clone()));
        assert_eq!(parse("--conf=a -p=1053 -manifests x -manifests=y --"), Ok(expected));
        assert!(parse("").expect("good").top && !parse("-top=false").expect("good").top);
        assert_eq!(parse("-top.metrics 20").expect("good").top_metrics, 20);
        assert_eq!(parse("-conf stdin").expect("good").conf, Some(Conf::Stdin));
        assert_eq!(parse("-check").expect("good").task, Task::Check);
        assert_eq!(parse("-check=json").expect("good").task, Task::CheckJson);
        let of_file = Args { conf: Some(Conf::File("a".into())), task: Task::Check, ..Args::default() };
        assert_eq!(parse("-check a"), Ok(of_file.clone()));
        assert_eq!(parse("--check -- a"), Ok(of_file));
        assert_eq!(parse("-check=json stdin").expect("good").conf, Some(Conf::Stdin));
        assert_eq!(parse("-check=false -quiet").expect("good"), Args { quiet: true, ..Args::default() });
    }

    #[test]
    fn errors_have_messages() {
        for (line, message) in [
            ("-manifest x", "flag provided but not defined: -manifest, did you mean -manifests?"),
            ("-conf", "flag needs an argument: -conf"),
            ("-p 70000", "invalid value \"70000\" for flag -p: expected a port, 0 to 65535"),
            ("-check=xml", "invalid value \"xml\" for flag -check: expected true, false or json"),
            ("-quiet=maybe", "invalid value \"maybe\" for flag -quiet: expected true or false"),
            ("-top.metrics 101", "invalid value \"101\" for flag -top.metrics: expected a number from 0 to 100"),
            ("-quiet no", "extra command line arguments: [no], write '-conf FILE' for a Corefile"),
            ("explian web", "extra command line arguments: [explian web], did you mean 'clusterdns explain'?"),
            ("-conf a top", "extra command line arguments: [top], 'top' must be the first word: 'clusterdns top'"),
            ("check a", "extra command line arguments: [check a], did you mean the flag -check?"),
            ("-- a b", "extra command line arguments: [a b], write '-conf FILE' for a Corefile"),
            ("-", "extra command line arguments: [-], write '-conf stdin' for a Corefile on standard input"),
            ("-check a b", "extra command line arguments: [a b], -check reads one file"),
            ("-check -conf a b", "extra command line arguments: [b], -conf has named the Corefile already"),
            ("-check -", "extra command line arguments: [-], write 'stdin' for standard input"),
            ("-check=false a", "extra command line arguments: [a], write '-conf FILE' for a Corefile"),
        ] {
            assert_eq!(parse(line).expect_err(line).to_string(), message);
        }
    }
}
