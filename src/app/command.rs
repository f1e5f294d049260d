//! The words of a subcommand (`clusterdns explain …`): flags, in any order with the other words.

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::corefile::suggest;

/// A flag of a subcommand.
pub(super) struct CommandFlag {
    /// The name without dashes.
    pub name: &'static str,
    /// The name of its value in the help; `None` for a switch.
    pub value: Option<&'static str>,
    /// The description.
    pub help: &'static str,
}

/// The parsed words of a subcommand.
#[derive(Debug, Default)]
pub(super) struct CommandWords {
    values: BTreeMap<&'static str, Vec<String>>,
    /// The words that are no flags.
    pub rest: Vec<String>,
}

impl CommandWords {
    /// Parses words. An error is a line for the user.
    pub(super) fn parse(words: impl Iterator<Item = OsString>, flags: &[CommandFlag]) -> Result<CommandWords, String> {
        let mut parsed = CommandWords::default();
        let mut words = words.map(|word| word.into_string().map_err(|word| format!("{word:?} is not UTF-8")));
        let mut only_rest = false;
        while let Some(word) = words.next() {
            let word = word?;
            let Some(name) = word.strip_prefix('-').filter(|name| !only_rest && !name.is_empty()) else {
                parsed.rest.push(word);
                continue;
            };
            if name == "-" {
                only_rest = true;
                continue;
            }
            let name = name.strip_prefix('-').unwrap_or(name);
            let (name, value) =
                name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value.to_owned())));
            let Some(flag) = flags.iter().find(|flag| flag.name == name) else {
                let near = suggest(name, flags.iter().map(|flag| flag.name));
                let near = near.map(|near| format!(", did you mean -{near}?")).unwrap_or_default();
                return Err(format!("there is no flag -{name}{near}"));
            };
            let value = match (value, flag.value) {
                (Some(_), None) => return Err(format!("-{name} takes no value")),
                (None, None) => String::new(),
                (Some(value), Some(_)) => value,
                (None, Some(what)) => words.next().ok_or_else(|| format!("-{name} needs a value: {what}"))??,
            };
            parsed.values.entry(flag.name).or_default().push(value);
        }
        Ok(parsed)
    }

    /// Returns whether a switch is set.
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Returns an error if one of `others` is given together with `flag`: one of them would have no effect.
    pub(super) fn exclude(&self, flag: &str, others: &[&str]) -> Result<(), String> {
        match others.iter().find(|other| self.has(flag) && self.has(other)) {
            Some(other) => Err(format!("-{flag} and -{other} exclude each other")),
            None => Ok(()),
        }
    }

    /// Returns the last value of a flag.
    pub(super) fn last(&self, name: &str) -> Option<&str> {
        self.all(name).last().map(String::as_str)
    }

    /// Returns all values of a flag.
    pub(super) fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }
}

/// Returns the help of a subcommand.
pub(super) fn help(usage: &str, about: &str, flags: &[CommandFlag]) -> String {
    let mut text = format!("usage: clusterdns {usage}\n\n{about}\n\n");
    for flag in flags {
        let value = flag.value.map(|value| format!(" {value}")).unwrap_or_default();
        text.push_str(&format!("  {:<22} {}\n", format!("-{}{value}", flag.name), flag.help));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[CommandFlag] = &[
        CommandFlag { name: "from", value: Some("POD"), help: "" },
        CommandFlag { name: "json", value: None, help: "" },
    ];

    fn parse(line: &str) -> Result<CommandWords, String> {
        CommandWords::parse(line.split_whitespace().map(OsString::from), FLAGS)
    }

    #[test]
    fn flags_stand_anywhere() {
        for line in ["-from a/b -json web A", "web -from=a/b A --json", "web A -json --from a/b"] {
            let words = parse(line).expect(line);
            assert_eq!((words.last("from"), words.has("json")), (Some("a/b"), true), "{line}");
            assert_eq!(words.rest, ["web", "A"], "{line}");
        }
        assert_eq!(parse("-- -json").expect("good").rest, ["-json"]);
    }

    #[test]
    fn errors_are_one_line() {
        for (line, message) in [
            ("-form x", "there is no flag -form, did you mean -from?"),
            ("web -from", "-from needs a value: POD"),
            ("-json=yes", "-json takes no value"),
        ] {
            assert_eq!(parse(line).expect_err(line), message);
        }
    }
}
