//! Text for a terminal or a log line, whatever the user, a file or the network has put into it.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Returns whether a terminal or a browser does not show a character as itself: a control character, which can also
/// move the cursor or change colors, or a mark of direction, which can disguise a text.
pub fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns a line of text, with escapes such as `\n` and `\u{1b}` in place of characters that cannot be shown.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        // Writing to a `String` cannot fail.
        let _ = match is_unprintable(c) {
            true => write!(line, "{}", c.escape_default()),
            false => line.write_char(c),
        };
    }
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(printable("a\u{1b}[2Jb\r\nc\td\u{7f}\u{9b}1m"), r"a\u{1b}[2Jb\r\nc\td\u{7f}\u{9b}1m");
        assert_eq!(printable("\u{202e}gnp\u{2069}"), r"\u{202e}gnp\u{2069}");
        assert!(matches!(printable("größer 'a' \\ \"►\" …"), Cow::Borrowed(_)));
    }
}
