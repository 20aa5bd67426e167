//! Rust sources as the walls read them: without comments, without literals, without test code.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The path below the root of the repository.
pub fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns all Rust files below a folder, or the one file that is named.
pub fn rust_files(place: &str) -> Vec<PathBuf> {
    let place = at(place);
    if place.is_file() {
        return vec![place];
    }
    let mut found = Vec::new();
    collect(&place, &mut found);
    found.sort();
    found
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Reads a text file of the repository.
pub fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Reads a source file without its comments and its test code. Line numbers stay as they are.
pub fn code(file: &Path) -> String {
    let is_test_module = ["src", "actors"].iter().any(|room| {
        let inside = file.strip_prefix(at(room));
        inside.is_ok_and(|path| path.iter().any(|part| part == "tests" || part == "tests.rs"))
    });
    if is_test_module { String::new() } else { without_comments_and_tests(&read(file)) }
}

fn without_comments_and_tests(text: &str) -> String {
    let mut blanked = pieces(text, &[Kind::Comment]);
    blanked.extend(test_items(&without_comments_and_literals(text)));
    blank(text, blanked)
}

/// Blanks comments and the contents of strings and characters, so that what remains are tokens of Rust.
pub fn without_comments_and_literals(text: &str) -> String {
    blank(text, pieces(text, &[Kind::Comment, Kind::Literal]))
}

/// The same without test code.
pub fn tokens(text: &str) -> String {
    let bare = without_comments_and_literals(text);
    let tests = test_items(&bare);
    blank(&bare, tests)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// Puts spaces in the place of these ranges, whose ends are ends of characters. Line breaks stay.
fn blank(text: &str, ranges: Vec<Range<usize>>) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for range in ranges {
        bytes[range].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    }
    String::from_utf8(bytes).expect("whole characters were replaced")
}

fn pieces(text: &str, wanted: &[Kind]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let is_in_word = text[..start].ends_with(is_of_a_word);
        let (kind, length) = piece(&text[start..], is_in_word);
        if wanted.contains(&kind) {
            found.push(start..start + length);
        }
        start += length;
    }
    found
}

fn is_of_a_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// Returns the kind and the length of what stands at the beginning of a text.
fn piece(text: &str, is_in_word: bool) -> (Kind, usize) {
    if text.starts_with("//") {
        (Kind::Comment, text.find('\n').unwrap_or(text.len()))
    } else if text.starts_with("/*") {
        (Kind::Comment, block_comment(text))
    } else if text.starts_with('"') {
        (Kind::Literal, escaped(text, '"'))
    } else if let Some(length) = raw_string(text).filter(|_| !is_in_word) {
        (Kind::Literal, length)
    } else if let Some(length) = character(text) {
        (Kind::Literal, length)
    } else {
        // All others begin with one of these.
        let first = text.chars().next().map_or(0, char::len_utf8);
        let next = text[first..].find(['/', '"', '\'', 'b', 'c', 'r']);
        (Kind::Code, next.map_or(text.len(), |next| first + next))
    }
}

/// Comments of this kind nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut end) = (0, 0);
    loop {
        let rest = &text[end..];
        match (rest.find("/*"), rest.find("*/")) {
            (Some(opens), closes) if closes.is_none_or(|closes| opens < closes) => {
                depth += 1;
                end += opens + 2;
            }
            (_, Some(closes)) => {
                depth -= 1;
                end += closes + 2;
            }
            _ => return text.len(),
        }
        if depth == 0 {
            return end;
        }
    }
}

/// The length of a literal between two of these quotes.
fn escaped(text: &str, quote: char) -> usize {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, char)) = chars.next() {
        if char == '\\' {
            chars.next();
        } else if char == quote {
            return at + 1;
        }
    }
    text.len()
}

/// `r"…"`, `r#"…"#`, and these with a `b` or `c` in front.
fn raw_string(text: &str) -> Option<usize> {
    let inner = text.strip_prefix(['b', 'c']).unwrap_or(text).strip_prefix('r')?;
    let hashes = inner.len() - inner.trim_start_matches('#').len();
    let opened = inner[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = opened.find(&end).map_or(opened.len(), |at| at + end.len());
    Some(text.len() - opened.len() + length)
}

/// `'x'` or `'\n'`, and not a lifetime.
fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    if inner.starts_with('\\') {
        return Some(escaped(text, '\''));
    }
    let char = inner.chars().next()?;
    inner[char.len_utf8()..].starts_with('\'').then_some(char.len_utf8() + 2)
}

/// Finds what stands behind `#[cfg(test)]` in a text without comments and literals, with the attribute.
fn test_items(bare: &str) -> Vec<Range<usize>> {
    const ATTRIBUTE: &str = "#[cfg(test)]";
    let mut found: Vec<Range<usize>> = Vec::new();
    for (start, _) in bare.match_indices(ATTRIBUTE) {
        if found.last().is_none_or(|last| last.end <= start) {
            let behind = start + ATTRIBUTE.len();
            found.push(start..behind + item(&bare[behind..]));
        }
    }
    found
}

/// The length of an item with the attributes in front of it, or of a field, a variant or an arm.
fn item(bare: &str) -> usize {
    let attributes = attributes(bare);
    let is_item = begins_an_item(&bare[attributes..]);
    let mut depth = 0;
    for (at, char) in bare.char_indices().skip_while(|(at, _)| *at < attributes) {
        match char {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => return at,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        let ends = char == '}' || char == ';' || char == ',' && !is_item;
        if depth == 0 && ends {
            return at + 1;
        }
    }
    bare.len()
}

fn attributes(bare: &str) -> usize {
    let trimmed = bare.trim_start();
    let skipped = bare.len() - trimmed.len();
    let Some(inner) = trimmed.strip_prefix("#[") else { return skipped };
    let mut depth = 1;
    let end = inner.find(|char| {
        depth += i32::from(char == '[') - i32::from(char == ']');
        depth == 0
    });
    match end {
        Some(end) => skipped + 2 + end + 1 + attributes(&inner[end + 1..]),
        None => bare.len(),
    }
}

fn begins_an_item(bare: &str) -> bool {
    const WORDS: [&str; 14] = [
        "async",
        "const",
        "enum",
        "extern",
        "fn",
        "impl",
        "macro_rules",
        "mod",
        "static",
        "struct",
        "trait",
        "type",
        "unsafe",
        "use",
    ];
    let mut words = bare.split(|char| !is_of_a_word(char)).filter(|word| !word.is_empty());
    let is_visibility = |word: &&str| ["pub", "crate", "super", "in", "self"].contains(word);
    words.find(|word| !is_visibility(word)).is_some_and(|word| WORDS.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_blanked_and_what_looks_like_one_in_a_literal_is_kept() {
        let table = [
            ("a // b\nc", "a     \nc"),
            ("a /* b\n // c */ d", "a     \n         d"),
            ("a /* b /* c */ d */ e", "a                   e"),
            ("/* never closed", "               "),
            (r#"let a = "unix://"; // b"#, r#"let a = "unix://";     "#),
            (r#"let a = "\"//"; // b"#, r#"let a = "\"//";     "#),
            (r#"let a = "\\"; // b"#, r#"let a = "\\";     "#),
            (r##"r#"" // "# // b"##, r##"r#"" // "#     "##),
            (r#"br"\" // b"#, r#"br"\"     "#),
            (r#"c"//" b"//" // b"#, r#"c"//" b"//"     "#),
            (r#"['"', '/', '\'', '\\'] // b"#, r#"['"', '/', '\'', '\\']     "#),
            (r#"fn a<'a>(b: &'a str) { "'" } // b"#, r#"fn a<'a>(b: &'a str) { "'" }     "#),
            (r#"let r#type = "//"; // b"#, r#"let r#type = "//";     "#),
            (r#"concat!(for"//") // b"#, r#"concat!(for"//")     "#),
            ("'ä' // ä", "'ä'      "),
        ];
        for (text, expected) in table {
            assert_eq!(blank(text, pieces(text, &[Kind::Comment])), expected, "{text}");
        }
    }

    #[test]
    fn of_literals_nothing_is_a_token() {
        let table = [
            (r#"a("b{", '{') // {"#, "a(    ,    )     "),
            ("a(r#\"b\"#)", "a(      )"),
            ("a\"b\nc\"d", "a  \n  d"),
        ];
        for (text, expected) in table {
            assert_eq!(without_comments_and_literals(text), expected, "{text}");
        }
    }

    #[test]
    fn test_items_are_blanked_and_the_code_around_them_is_kept() {
        let table = [
            ("#[cfg(test)]\nmod tests;\nfn kept() {}", "\n\nfn kept() {}"),
            (
                "fn kept() {}\n#[cfg(test)]\nmod tests { fn a() { \"}\" } }\nfn also() {}",
                "fn kept() {}\n\n\nfn also() {}",
            ),
            ("#[cfg(test)]\n#[path = \"[a\"]\npub(crate) mod a;\nmod b;", "\n\n\nmod b;"),
            ("#[cfg(test)]\nfn a<B, C>(b: [B; 2]) -> C { c }\nfn kept() {}", "\n\nfn kept() {}"),
            ("struct A {\n#[cfg(test)]\nb: C,\nd: E }", "struct A {\n\n\nd: E }"),
            ("struct A {\n#[cfg(test)]\npub(crate) b: Vec<(C, D)>\n}", "struct A {\n\n\n}"),
            ("match a {\n#[cfg(test)]\nB => { c, d }\nE => f, }", "match a {\n\n\nE => f, }"),
            ("#[cfg(any(test, feature))]\nmod kept;", "#[cfg(any(test, feature))]\nmod kept;"),
            ("// #[cfg(test)]\nmod kept;", "\nmod kept;"),
            ("let a = \"#[cfg(test)]\";\nmod kept;", "let a = \"#[cfg(test)]\";\nmod kept;"),
        ];
        for (text, expected) in table {
            let found = without_comments_and_tests(text);
            let found: Vec<&str> = found.lines().map(str::trim_end).collect();
            assert_eq!(found, expected.split('\n').collect::<Vec<_>>(), "{text}");
        }
    }
}
