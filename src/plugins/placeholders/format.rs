//! A text with placeholders, parsed when the configuration is.

/// CoreDNS's `{common}`, the default.
const COMMON: &str = r#"{remote}:{port} - {>id} "{type} {class} {name} {proto} {size} {>do} {>bufsize}" {rcode} {>rflags} {rsize} {duration}"#;
/// The rest of `{combined}`, after `{common}`.
const COMBINED_REST: &str = r#" "{>opcode}""#;

/// A parsed format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    pub(super) parts: Vec<FormatPart>,
}

/// A part of a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FormatPart {
    /// Text that is written as it is.
    Text(String),
    /// A property of the query or the response.
    Value(Placeholder),
    /// The value of a metadata label, `plugin/name`.
    Metadata(String),
}

macro_rules! placeholders {
    ($($(#[$doc:meta])* $name:ident = $text:literal),* $(,)?) => {
        /// A placeholder of a format.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(in crate::plugins) enum Placeholder { $($(#[$doc])* $name,)* }

        impl Placeholder {
            /// Parses a placeholder with its braces.
            fn of(text: &str) -> Option<Placeholder> {
                match text { $($text => Some(Placeholder::$name),)* _ => None }
            }

            /// All placeholders with their braces, for suggestions.
            pub(in crate::plugins) const NAMES: &[&str] = &[$($text),*];
        }
    };
}

placeholders! {
    /// The type of the question.
    Type = "{type}",
    /// The name of the question, in lower case.
    Name = "{name}",
    /// The class of the question.
    Class = "{class}",
    /// `udp` or `tcp`.
    Proto = "{proto}",
    /// The length of the query in bytes.
    Size = "{size}",
    /// The address of the client.
    Remote = "{remote}",
    /// The port of the client.
    Port = "{port}",
    /// The address that the query was sent to.
    Local = "{local}",
    /// The message ID.
    Id = "{>id}",
    /// The operation code, a number.
    Opcode = "{>opcode}",
    /// The DO bit of the query: `true` or `false`.
    Do = "{>do}",
    /// The maximum length of a response in bytes.
    Bufsize = "{>bufsize}",
    /// The response code.
    Rcode = "{rcode}",
    /// The length of the response in bytes.
    Rsize = "{rsize}",
    /// The time between query and response, in seconds.
    Duration = "{duration}",
    /// The flags of the response.
    Rflags = "{>rflags}",
}

impl Default for Format {
    fn default() -> Format {
        Format::new("{common}")
    }
}

impl Format {
    /// Parses a format. Unknown placeholders are text, with their braces.
    ///
    /// A closing brace belongs to the last opening one before it, so that `{ {type} }` is the type in braces.
    pub fn new(text: &str) -> Format {
        let text = text.replace("{common}", COMMON).replace("{combined}", &format!("{COMMON}{COMBINED_REST}"));
        let mut format = Format { parts: Vec::new() };
        let mut rest = text.as_str();
        while let Some(end) = rest.find('}').map(|at| at + 1) {
            let (head, tail) = rest.split_at(end);
            rest = tail;
            let open = head.rfind('{').unwrap_or(end);
            let (before, placeholder) = head.split_at(open);
            let label = placeholder.strip_prefix("{/").and_then(|label| label.strip_suffix('}'));
            match (Placeholder::of(placeholder), label) {
                (Some(value), _) => format.push(before, Some(FormatPart::Value(value))),
                (None, Some(label)) => format.push(before, Some(FormatPart::Metadata(label.to_owned()))),
                (None, None) => format.push(head, None),
            }
        }
        format.push(rest, None);
        format
    }

    /// Returns words in braces that are not placeholders, which is probably an error.
    pub(in crate::plugins) fn unknown_placeholders(text: &str) -> Vec<&str> {
        let mut unknown = Vec::new();
        let mut rest = text;
        while let Some(end) = rest.find('}').map(|at| at + 1) {
            let (head, tail) = rest.split_at(end);
            rest = tail;
            let Some(word) = head.rfind('{').map(|open| &head[open..]) else { continue };
            let is_known =
                Placeholder::of(word).is_some() || word.starts_with("{/") || matches!(word, "{common}" | "{combined}");
            if !is_known {
                unknown.push(word);
            }
        }
        unknown
    }

    /// Adds text and a part. Line breaks become spaces, so that a format cannot produce a line that looks like another
    /// entry of the log.
    fn push(&mut self, text: &str, part: Option<FormatPart>) {
        if !text.is_empty() {
            let text = text.replace(['\n', '\r'], " ");
            match self.parts.last_mut() {
                Some(FormatPart::Text(last)) => last.push_str(&text),
                _ => self.parts.push(FormatPart::Text(text)),
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
    fn placeholders_and_text_are_distinguished() {
        assert_eq!(show("a {type}b"), "[Text('a ')][Value(Type)][Text('b')]");
        assert_eq!(show("{ {type} }"), "[Text('{ ')][Value(Type)][Text(' }')]");
        assert_eq!(show("a } {foo}{>id}{"), "[Text('a } {foo}')][Value(Id)][Text('{')]");
        assert_eq!(show("{/a/b}{TYPE}\n"), "[Metadata('a/b')][Text('{TYPE} ')]");
        assert_eq!(show(""), "");
        assert_eq!(Format::unknown_placeholders("{type} {foo} } {/x} {combined} {id}"), ["{foo}", "{id}"]);
    }

    #[test]
    fn combined_is_common_and_the_opcode() {
        let common = Format::default().parts.len();
        let combined = Format::new("{combined}").parts;
        assert_eq!(combined[..common], Format::default().parts);
        assert_eq!(combined[common..].len(), 3);
        assert_eq!(combined[common + 1], FormatPart::Value(Placeholder::Opcode));
    }
}
