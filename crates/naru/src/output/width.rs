//! How wide text is on a terminal, as Docker's tables count it: characters of East Asian scripts and pictures take two
//! columns, all others one.

use unicode_width::UnicodeWidthChar;

/// Columns of a character. Docker's give one also to what a terminal draws upon the character before it.
pub fn of_char(character: char) -> usize {
    if character.width() == Some(2) { 2 } else { 1 }
}

/// Columns of a text.
pub fn of(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().map(of_char).sum() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_differ() {
        for (text, width) in [("", 0), ("abc", 3), ("Ünï…", 4), ("日本語", 6), ("한글", 4), ("🐳 x", 4), ("\u{ff21}", 2), ("á", 1)]
        {
            assert_eq!(of(text), width, "{text}");
        }
    }
}
