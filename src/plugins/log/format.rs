//! What a log line shows: a format with placeholders, read once (CoreDNS `plugin/pkg/replacer`).

/// CoreDNS's `{common}`, the default.
const COMMON: &str = r#"{remote}:{port} - {>id} "{type} {class} {name} {proto} {size} {>do} {>bufsize}" {rcode} {>rflags} {rsize} {duration}"#;
/// What `{combined}` has more.
const COMBINED_MORE: &str = r#" "{>opcode}""#;

/// A format that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    pub(super) parts: Vec<Part>,
}

/// A piece of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Text as it stands.
    Text(String),
    /// A fact of the query or its answer.
    Value(Value),
    /// A metadata label, `plugin/name`.
    Metadata(String),
}

macro_rules! values {
    ($($(#[$doc:meta])* $name:ident = $text:literal),* $(,)?) => {
        /// A placeholder.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Value { $($(#[$doc])* $name,)* }

        impl Value {
            /// The placeholder that is written so, in braces.
            fn of(text: &str) -> Option<Value> {
                match text { $($text => Some(Value::$name),)* _ => None }
            }

            /// All placeholders, for suggestions.
            pub(super) const NAMES: &[&str] = &[$($text),*];
        }
    };
}

values! {
    /// The type asked for.
    Type = "{type}",
    /// The name asked for, in lower case.
    Name = "{name}",
    /// The class asked for.
    Class = "{class}",
    /// `udp` or `tcp`.
    Proto = "{proto}",
    /// The query's length in octets.
    Size = "{size}",
    /// The client's address.
    Remote = "{remote}",
    /// The client's port.
    Port = "{port}",
    /// The address that it asked.
    Local = "{local}",
    /// The message ID.
    Id = "{>id}",
    /// The operation code, a number.
    Opcode = "{>opcode}",
    /// Whether DNSSEC records are wanted.
    Do = "{>do}",
    /// How long an answer the client takes.
    Bufsize = "{>bufsize}",
    /// The answer's code.
    Rcode = "{rcode}",
    /// The answer's length in octets.
    Rsize = "{rsize}",
    /// How long it took.
    Duration = "{duration}",
    /// The answer's flags.
    Rflags = "{>rflags}",
}

impl Default for Format {
    fn default() -> Format {
        Format::new("{common}")
    }
}

impl Format {
    /// Reads a format. What is no placeholder is text, braces and all.
    ///
    /// A closing brace belongs to the last opening one before it, so that `{ {type} }` shows the type in braces.
    pub fn new(text: &str) -> Format {
        let text = text.replace("{common}", COMMON).replace("{combined}", &format!("{COMMON}{COMBINED_MORE}"));
        let mut format = Format { parts: Vec::new() };
        let mut rest = text.as_str();
        while let Some(end) = rest.find('}').map(|at| at + 1) {
            let (head, tail) = rest.split_at(end);
            rest = tail;
            let open = head.rfind('{').unwrap_or(end);
            let (before, placeholder) = head.split_at(open);
            let label = placeholder.strip_prefix("{/").and_then(|label| label.strip_suffix('}'));
            match (Value::of(placeholder), label) {
                (Some(value), _) => format.push(before, Some(Part::Value(value))),
                (None, Some(label)) => format.push(before, Some(Part::Metadata(label.to_owned()))),
                (None, None) => format.push(head, None),
            }
        }
        format.push(rest, None);
        format
    }

    /// What stands in braces and is no placeholder: probably a slip.
    pub(super) fn unknown(text: &str) -> Vec<&str> {
        let mut unknown = Vec::new();
        let mut rest = text;
        while let Some(end) = rest.find('}').map(|at| at + 1) {
            let (head, tail) = rest.split_at(end);
            rest = tail;
            let Some(word) = head.rfind('{').map(|open| &head[open..]) else { continue };
            let known =
                Value::of(word).is_some() || word.starts_with("{/") || matches!(word, "{common}" | "{combined}");
            if !known {
                unknown.push(word);
            }
        }
        unknown
    }

    /// Adds text, joined to text before it, and a part. A line end would forge a line.
    fn push(&mut self, text: &str, part: Option<Part>) {
        if !text.is_empty() {
            let text = text.replace(['\n', '\r'], " ");
            match self.parts.last_mut() {
                Some(Part::Text(last)) => last.push_str(&text),
                _ => self.parts.push(Part::Text(text)),
            }
        }
        self.parts.extend(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> String {
        let parts = Format::new(text).parts;
        parts.iter().map(|part| format!("[{part:?}]")).collect::<String>().replace('"', "'")
    }

    #[test]
    fn placeholders_and_text_are_told_apart() {
        assert_eq!(show("a {type}b"), "[Text('a ')][Value(Type)][Text('b')]");
        assert_eq!(show("{ {type} }"), "[Text('{ ')][Value(Type)][Text(' }')]");
        assert_eq!(show("a } {foo}{>id}{"), "[Text('a } {foo}')][Value(Id)][Text('{')]");
        assert_eq!(show("{/a/b}{TYPE}\n"), "[Metadata('a/b')][Text('{TYPE} ')]");
        assert_eq!(show(""), "");
        assert_eq!(Format::unknown("{type} {foo} } {/x} {combined} {id}"), ["{foo}", "{id}"]);
    }

    #[test]
    fn combined_is_common_and_the_opcode() {
        let common = Format::default().parts.len();
        let combined = Format::new("{combined}").parts;
        assert_eq!(combined[..common], Format::default().parts);
        assert_eq!(combined[common..].len(), 3);
        assert_eq!(combined[common + 1], Part::Value(Value::Opcode));
    }
}
