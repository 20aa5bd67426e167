//! docs/PROMISES.md defines the promises, and tests name those that they prove in their doc comments.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::markdown;
use crate::sources::{at, read, rust_files};

const PAGE: &str = "docs/PROMISES.md";

#[test]
fn every_promise_is_named_by_a_test_and_no_test_names_another() {
    let promises = defined();
    let named = named();
    let unproved: Vec<&String> = promises.iter().filter(|id| !named.contains_key(*id)).collect();
    assert!(unproved.is_empty(), "no test names {unproved:?} of {PAGE}");
    let unknown: Vec<_> = named.iter().filter(|(id, _)| !promises.contains(*id)).collect();
    assert!(unknown.is_empty(), "{PAGE} has no {unknown:?}");
}

/// The ids of the page: the first cells of its tables that are one.
fn defined() -> BTreeSet<String> {
    let page = read(&at(PAGE));
    let mut found = BTreeSet::new();
    for row in markdown::prose(&page).lines().filter_map(|line| line.strip_prefix('|')) {
        let id = row.split('|').next().unwrap_or_default().trim();
        if is_id(id) {
            assert!(found.insert(id.to_owned()), "{PAGE} defines {id} twice");
            let has_text = row.split('|').nth(1).is_some_and(|text| !text.trim().is_empty());
            assert!(has_text, "{PAGE} does not say what {id} is");
        }
    }
    assert!(!found.is_empty(), "{PAGE} defines promises");
    found
}

/// The ids that tests name, each with the files in which they do.
fn named() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in ["tests", "src", "actors"].into_iter().flat_map(rust_files) {
        let proofs = proofs(&read(&file));
        for id in proofs.split(|char: char| !char.is_ascii_alphanumeric()).filter(|word| is_id(word)) {
            let place = Path::new(&file).strip_prefix(at("")).unwrap_or(&file).display().to_string();
            found.entry(id.to_owned()).or_default().insert(place);
        }
    }
    found
}

/// A promise's group, a capital letter, and its number there.
fn is_id(word: &str) -> bool {
    let number = word.strip_prefix(|char: char| char.is_ascii_uppercase()).unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// The doc comments right above `#[test]` attributes, where tests name what they prove, or above the functions that a
/// test program with a `main` of its own lists with `tests!`.
fn proofs(text: &str) -> String {
    let listed: Vec<&str> = match text.split_once("tests! {").and_then(|(_, rest)| rest.split_once('}')) {
        Some((list, _)) => list.split(',').map(str::trim).collect(),
        None => Vec::new(),
    };
    let is_listed = |line: &str| {
        let name = line.strip_prefix("fn ").and_then(|rest| rest.split('(').next());
        name.is_some_and(|name| listed.contains(&name))
    };
    let mut found = String::new();
    let mut comment = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(line) = line.strip_prefix("///") {
            comment.push_str(line);
            comment.push('\n');
        } else if line.starts_with("#[") && line.contains("test]") || is_listed(line) {
            found.push_str(&comment);
        } else if !line.starts_with("#[") {
            comment.clear();
        }
    }
    found
}

#[test]
fn ids_are_told_from_other_words() {
    let table =
        [("C4", true), ("W12", true), ("c4", false), ("C", false), ("4", false), ("C4a", false), ("", false)];
    for (word, expected) in table {
        assert_eq!(is_id(word), expected, "{word:?}");
    }
}

#[test]
fn proofs_are_the_comments_of_tests_alone() {
    let text = "/// C1\n#[test]\nfn a() {}\n\n/// C2\nfn b() {}\n/// C3: why\n#[ignore]\n#[actix::test]\nasync fn c() {}\n\
        tests! { d, e }\n/// C4\nfn d() {}\n";
    assert_eq!(proofs(text), " C1\n C3: why\n C4\n");
}
