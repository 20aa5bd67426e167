//! Texts of others on lines of our own: what a worker, a peer or a file wrote is data wherever it is shown.

use std::borrow::Cow;

/// Returns the text on one line: line breaks become spaces, and other characters that are not shown become escapes.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |char, line| match char {
        '\n' | '\r' => line.push(' '),
        _ => line.extend(char.escape_default()),
    })
}

/// Returns the text with its lines, and other characters that are not shown as escapes.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |char, lines| match char {
        '\n' => lines.push(char),
        _ => lines.extend(char.escape_default()),
    })
}

/// Returns the text with all characters as escapes that are not shown, line breaks included.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |char, line| line.extend(char.escape_default()))
}

fn escaped(text: &str, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        match is_hidden(char) {
            true => escape(char, &mut line),
            false => line.push(char),
        }
    }
    Cow::Owned(line)
}

/// Returns whether a character moves a terminal's cursor, ends a line, or changes the direction of the text around it.
fn is_hidden(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G8
    #[test]
    fn what_is_not_shown_is_escaped_and_everything_else_stays() {
        let table = [
            ("plain ünïcödé 😀 \\u", "plain ünïcödé 😀 \\u", "plain ünïcödé 😀 \\u"),
            ("a\nb\rc", "a b c", "a\\nb\\rc"),
            ("\x1b[31m\tred\x07", "\\u{1b}[31m\\tred\\u{7}", "\\u{1b}[31m\\tred\\u{7}"),
            ("\u{9b}2J\u{7f}\0", "\\u{9b}2J\\u{7f}\\u{0}", "\\u{9b}2J\\u{7f}\\u{0}"),
            ("\u{202e}txt\u{2028}", "\\u{202e}txt\\u{2028}", "\\u{202e}txt\\u{2028}"),
        ];
        for (text, line, shown) in table {
            assert_eq!((&*one_line(text), &*printable(text)), (line, shown));
            assert_eq!(lines(text).replace('\n', "\\n"), shown);
            assert_eq!(one_line(&one_line(text)), one_line(text), "a second time changes nothing");
        }
    }
}
