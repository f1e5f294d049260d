//! Text of an object, borrowed from its JSON where that is possible: endpoints are many, and most of what they say is
//! looked at once.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A text; empty where the object has `null`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text<'a>(Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Text<'a>, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_string<E: Error>(self, text: String) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text)))
            }
            fn visit_none<E: Error>(self) -> Result<Text<'de>, E> {
                Ok(Text::default())
            }
            fn visit_unit<E: Error>(self) -> Result<Text<'de>, E> {
                Ok(Text::default())
            }
            fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Text<'de>, D::Error> {
                from.deserialize_str(self)
            }
        }
        from.deserialize_option(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_borrowed_unless_it_has_escapes() {
        let texts: Vec<Text<'_>> = serde_json::from_str(r#"["plain", "a\nb", null]"#).unwrap();
        assert!(matches!(texts[0].0, Cow::Borrowed("plain")) && matches!(texts[1].0, Cow::Owned(_)));
        assert_eq!((&*texts[1], &*texts[2]), ("a\nb", ""));
        assert!(serde_json::from_str::<Text<'_>>("1").is_err());
    }
}
