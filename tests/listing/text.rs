//! Paths and tokens as texts.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{GenericArgument, Path, PathArguments};

/// Returns the identifiers of a path, without arguments.
pub fn segments(path: &Path) -> Vec<String> {
    path.segments.iter().map(|segment| segment.ident.to_string()).collect()
}

/// Returns the last identifier of a path with its arguments. Lifetimes are left out: a derived `Deserialize` has none.
pub fn last_with_arguments(path: &Path) -> String {
    let Some(last) = path.segments.last() else { return String::new() };
    let arguments = match &last.arguments {
        PathArguments::None => String::new(),
        PathArguments::AngleBracketed(list) => {
            let kept = list.args.iter().filter(|argument| !matches!(argument, GenericArgument::Lifetime(_)));
            let kept: Vec<String> = kept.map(compact).collect();
            if kept.is_empty() { String::new() } else { format!("<{}>", kept.join(", ")) }
        }
        PathArguments::Parenthesized(list) => compact(list),
    };
    format!("{}{arguments}", last.ident)
}

/// Returns the source text with spaces only where they are needed, and behind commas.
pub fn compact(tokens: &impl ToTokens) -> String {
    let mut text = String::new();
    append(tokens.to_token_stream(), &mut text);
    text
}

fn append(tokens: TokenStream, text: &mut String) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::None => ("", ""),
                };
                separate(text, open);
                text.push_str(open);
                append(group.stream(), text);
                text.push_str(close);
            }
            other => {
                let other = other.to_string();
                separate(text, &other);
                text.push_str(&other);
            }
        }
    }
}

fn separate(text: &mut String, next: &str) {
    let is_of_a_word = |char: char| char.is_alphanumeric() || "_'".contains(char);
    let meet =
        text.ends_with(|char: char| char.is_alphanumeric() || char == '_') && next.starts_with(is_of_a_word);
    if meet || text.ends_with([',', ';']) && !next.is_empty() {
        text.push(' ');
    }
}

#[test]
fn types_read_as_they_are_written() {
    for text in ["Vec<u8>", "&'a mut A", "[u8; 4]", "HashMap<String, dyn Fn(A, B)>", "(A, &'static str)"] {
        let parsed: syn::Type = syn::parse_str(text).expect(text);
        assert_eq!(compact(&parsed), text);
    }
}

#[test]
fn of_a_trait_its_last_identifier_and_its_types_are_kept() {
    let table = [
        ("std::fmt::Debug", "Debug"),
        ("serde::Deserialize<'de>", "Deserialize"),
        ("a::B<'c, D<'e>, F>", "B<D<'e>, F>"),
    ];
    for (path, expected) in table {
        let parsed = syn::parse_str(path).expect(path);
        assert_eq!(last_with_arguments(&parsed), expected);
    }
}
