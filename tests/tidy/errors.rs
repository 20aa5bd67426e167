//! Public error types cross threads, all of them.

use std::any::type_name;
use std::collections::BTreeSet;

use crate::sources::{read, rust_files, tokens};

/// Returns the type's own name, if it may be sent anywhere and kept for ever.
fn crossing<T: std::error::Error + Send + Sync + 'static>() -> &'static str {
    type_name::<T>().rsplit("::").next().unwrap_or_default()
}

#[test]
fn every_public_error_type_crosses_threads() {
    let crossing = BTreeSet::from([
        crossing::<forkpool::AddressError>(),
        crossing::<forkpool::BaggageError>(),
        crossing::<forkpool::CertificateError>(),
        crossing::<forkpool::ConsoleError>(),
        crossing::<forkpool::ContextFailure>(),
        crossing::<forkpool::Failure>(),
        crossing::<forkpool::ListenError>(),
        crossing::<forkpool::ServerError>(),
        crossing::<forkpool::StartError>(),
        crossing::<forkpool::OptionError>(),
        crossing::<forkpool::PayloadError>(),
        #[cfg(feature = "actix-web")]
        crossing::<forkpool::web::UploadError>(),
    ]);
    let mut public: BTreeSet<String> = ["src", "actors"]
        .into_iter()
        .flat_map(rust_files)
        .flat_map(|file| errors(&tokens(&read(&file))))
        .collect();
    if cfg!(not(feature = "actix-web")) {
        assert!(public.remove("UploadError"), "it is behind a feature");
    }
    let crossing: BTreeSet<String> = crossing.into_iter().map(str::to_owned).collect();
    assert_eq!(crossing, public, "the types of this list, and those that the sources declare");
}

/// Returns the public types of a file that are errors, by derivation or by an `impl` in the same file.
fn errors(tokens: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in tokens.match_indices("pub enum ").chain(tokens.match_indices("pub struct ")) {
        let name = word(tokens[at..].splitn(3, ' ').nth(2).unwrap_or_default());
        // Attributes stand between the end of the item before and this one.
        let before = &tokens[tokens[..at].rfind([';', '}']).map_or(0, |end| end + 1)..at];
        let derives = before.split("derive(").skip(1).filter_map(|rest| rest.split(')').next());
        let is_derived = derives.flat_map(|list| list.split(',')).any(|item| last(item) == "Error");
        if is_derived || is_implemented(tokens, name) {
            found.push(name.to_owned());
        }
    }
    found
}

/// Whether there is an `impl … Error for` a type of this name.
fn is_implemented(tokens: &str, name: &str) -> bool {
    tokens.match_indices("Error for ").any(|(at, matched)| {
        let line = tokens[..at].rsplit('\n').next().unwrap_or_default();
        let bound = line.rsplit([' ', '>']).next().unwrap_or_default();
        line.trim_start().starts_with("impl")
            && matches!(bound, "" | "std::error::" | "error::" | "core::error::")
            && word(&tokens[at + matched.len()..]) == name
    })
}

fn word(text: &str) -> &str {
    text.split(|char: char| !char.is_alphanumeric() && char != '_').next().unwrap_or_default()
}

fn last(path: &str) -> &str {
    path.rsplit("::").next().unwrap_or_default().trim()
}

#[test]
fn errors_are_found_however_they_are_made() {
    let text = "#[derive(Debug, thiserror::Error)]\n#[error(\"\")]\npub enum A { B }\n#[derive(Error)]\npub struct C;\n\
        #[derive(Debug)]\npub struct D<T>(T);\nimpl<T: Debug> std::error::Error for D<T> {}\n\
        #[derive(thiserror::Error)]\npub(crate) enum E { F }\npub struct G;\nimpl Display for G {}\n\
        struct H;\nimpl Error for H {}\n";
    assert_eq!(errors(&tokens(text)), ["A", "C", "D"]);
}
