//! Text that users type: limited in characters, without control characters, stored unchanged.

use serde::Serialize;

/// Why a text was refused; the client sees the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Empty or only white space.
    #[error("must not be empty")]
    Empty,
    #[error("must be at most {0} characters")]
    TooLong(usize),
    /// NUL or another control character.
    #[error("must not contain control characters")]
    Control,
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// In Unicode scalar values.
            pub const MAX_CHARS: usize = $max;

            /// Accepts a text unchanged.
            pub fn parse(text: impl Into<String>) -> Result<Self, TextError> {
                let text = text.into();
                check(&text, Self::MAX_CHARS).map(|()| Self(text))
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }
    };
}

text!(
    /// An album's title.
    Title,
    200
);
text!(
    /// A photo's caption. Line breaks are allowed.
    Caption,
    1000
);
text!(
    /// The host's name for an invite, for example `table 7`.
    Label,
    100
);
text!(
    /// A guest's display name.
    DisplayName,
    100
);

fn check(text: &str, max: usize) -> Result<(), TextError> {
    if text.trim().is_empty() {
        return Err(TextError::Empty);
    }
    if text.chars().count() > max {
        return Err(TextError::TooLong(max));
    }
    if text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(TextError::Control);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_emoji_and_bidi_text() {
        for text in ["👩‍👩‍👧‍👦 Hochzeit", "חתונה של דנה", "  padded  ", "e\u{301}"] {
            assert_eq!(Title::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn rejects_empty_long_and_control_text() {
        assert_eq!(Title::parse(" \u{3000}"), Err(TextError::Empty));
        assert_eq!(Title::parse("a\0b"), Err(TextError::Control));
        assert_eq!(Title::parse("é".repeat(201)), Err(TextError::TooLong(200)));
        assert!(Title::parse("é".repeat(200)).is_ok());
    }
}
