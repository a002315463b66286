//! Shortens texts from other programs for the log.

use std::borrow::Cow;

/// The most bytes of a text that are logged.
const LIMIT: usize = 200;

/// The text, or its beginning with its length if it is long.
pub(super) fn brief(text: &str) -> Cow<'_, str> {
    if text.len() <= LIMIT {
        return text.into();
    }
    let is_boundary = |it: &usize| text.is_char_boundary(*it);
    let end = (0..=LIMIT).rev().find(is_boundary).unwrap_or_default();
    format!("{}… ({} bytes)", &text[..end], text.len()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_two_characters_and_its_length_is_said() {
        assert_eq!(brief("short"), "short");
        let exact = "x".repeat(LIMIT);
        assert_eq!(brief(&exact), exact);
        let long = format!("{}ä and more", "x".repeat(LIMIT - 1));
        let cut = format!("{}… (210 bytes)", "x".repeat(LIMIT - 1));
        assert_eq!(brief(&long), cut);
    }
}
