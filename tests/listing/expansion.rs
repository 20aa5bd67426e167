//! Expands a `macro_rules!`, so that the implementations which a macro of the library writes are found.

use std::collections::BTreeMap;

use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser, discouraged::Speculative};
use syn::{Error, Result};

use crate::text;

/// One element of the left side of a rule.
enum Matcher {
    Fragment(String, String),
    Repeated(Vec<Matcher>, Option<TokenTree>, char),
    Group(Delimiter, Vec<Matcher>),
    Token(TokenTree),
}

/// What a name of the left side stands for.
#[derive(Clone)]
enum Binding {
    Tokens(TokenStream),
    Repeated(Vec<Bindings>),
}

type Bindings = BTreeMap<String, Binding>;

/// Returns what the first rule that fits makes of a call.
pub fn expand(name: &str, rules: TokenStream, call: TokenStream) -> TokenStream {
    let mut rules = rules.into_iter().filter_map(|token| match token {
        TokenTree::Group(group) => Some(group.stream()),
        _ => None,
    });
    while let (Some(left), Some(right)) = (rules.next(), rules.next()) {
        let matchers = matchers(left);
        let matched = |input: ParseStream| {
            let mut bindings = Bindings::new();
            take_all(&matchers, input, &mut bindings)?;
            Ok(bindings)
        };
        if let Ok(bindings) = matched.parse2(call.clone()) {
            return transcribe(right, &bindings);
        }
    }
    panic!("the listing finds no rule of {name}! for the call {name}!({call})")
}

fn matchers(left: TokenStream) -> Vec<Matcher> {
    let mut tokens = left.into_iter().peekable();
    let mut found = Vec::new();
    while let Some(token) = tokens.next() {
        let after_dollar = if is(&token, '$') { tokens.next() } else { None };
        found.push(match (after_dollar, token) {
            (Some(TokenTree::Group(group)), _) => {
                let (separator, operator) = repetition(&mut tokens);
                Matcher::Repeated(matchers(group.stream()), separator, operator)
            }
            (Some(name), _) => {
                tokens.next(); // The colon.
                let kind = tokens.next().map(|kind| kind.to_string()).unwrap_or_default();
                Matcher::Fragment(name.to_string(), kind)
            }
            (None, TokenTree::Group(group)) => Matcher::Group(group.delimiter(), matchers(group.stream())),
            (None, token) => Matcher::Token(token),
        });
    }
    found
}

/// Takes what stands behind `$(…)`: a separator, if there is one, and `*`, `+` or `?`.
fn repetition(tokens: &mut impl Iterator<Item = TokenTree>) -> (Option<TokenTree>, char) {
    let operator = |token: &TokenTree| ['*', '+', '?'].into_iter().find(|operator| is(token, *operator));
    let first = tokens.next().expect("a repetition has an operator");
    match operator(&first) {
        Some(found) => (None, found),
        None => {
            let found = tokens.next().as_ref().and_then(operator);
            (Some(first), found.expect("a repetition has an operator"))
        }
    }
}

fn is(token: &TokenTree, char: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == char)
}

/// Matches all of the input.
fn take_all(matchers: &[Matcher], input: ParseStream, bindings: &mut Bindings) -> Result<()> {
    take(matchers, input, bindings)?;
    if input.is_empty() { Ok(()) } else { Err(input.error("more than the rule takes")) }
}

fn take(matchers: &[Matcher], input: ParseStream, bindings: &mut Bindings) -> Result<()> {
    for matcher in matchers {
        match matcher {
            Matcher::Fragment(name, kind) => {
                bindings.insert(name.clone(), Binding::Tokens(fragment(kind, input)?));
            }
            Matcher::Repeated(inner, separator, operator) => {
                let rounds = rounds(inner, separator.as_ref(), *operator, input)?;
                for name in names(inner) {
                    bindings.insert(name, Binding::Repeated(rounds.clone()));
                }
            }
            Matcher::Group(delimiter, inner) => {
                let group: Group = input.parse()?;
                if group.delimiter() != *delimiter {
                    return Err(Error::new(group.span(), "another bracket"));
                }
                let matched = |input: ParseStream| take_all(inner, input, bindings);
                matched.parse2(group.stream())?;
            }
            Matcher::Token(expected) => {
                let found: TokenTree = input.parse()?;
                if found.to_string() != expected.to_string() {
                    return Err(Error::new(found.span(), "another token"));
                }
            }
        }
    }
    Ok(())
}

fn rounds(
    inner: &[Matcher],
    separator: Option<&TokenTree>,
    operator: char,
    input: ParseStream,
) -> Result<Vec<Bindings>> {
    let mut found = Vec::new();
    while !input.is_empty() && (operator != '?' || found.is_empty()) {
        let ahead = input.fork();
        if let (Some(separator), false) = (separator, found.is_empty()) {
            let next: TokenTree = ahead.parse()?;
            if next.to_string() != separator.to_string() {
                break;
            }
        }
        let mut bindings = Bindings::new();
        if take(inner, &ahead, &mut bindings).is_err() {
            break;
        }
        input.advance_to(&ahead);
        found.push(bindings);
    }
    let is_enough = operator != '+' || !found.is_empty();
    if is_enough { Ok(found) } else { Err(input.error("none of what the rule repeats")) }
}

fn names(matchers: &[Matcher]) -> Vec<String> {
    let found = matchers.iter().flat_map(|matcher| match matcher {
        Matcher::Fragment(name, _) => vec![name.clone()],
        Matcher::Repeated(inner, ..) | Matcher::Group(_, inner) => names(inner),
        Matcher::Token(_) => Vec::new(),
    });
    found.collect()
}

fn fragment(kind: &str, input: ParseStream) -> Result<TokenStream> {
    Ok(match kind {
        "block" => input.parse::<syn::Block>()?.into_token_stream(),
        "expr" => input.parse::<syn::Expr>()?.into_token_stream(),
        "ident" => input.call(Ident::parse_any)?.into_token_stream(),
        "item" => input.parse::<syn::Item>()?.into_token_stream(),
        "lifetime" => input.parse::<syn::Lifetime>()?.into_token_stream(),
        "literal" => input.parse::<syn::Lit>()?.into_token_stream(),
        "meta" => input.parse::<syn::Meta>()?.into_token_stream(),
        "pat" => syn::Pat::parse_multi_with_leading_vert(input)?.into_token_stream(),
        "path" => input.parse::<syn::Path>()?.into_token_stream(),
        "tt" => input.parse::<TokenTree>()?.into_token_stream(),
        "ty" => input.parse::<syn::Type>()?.into_token_stream(),
        "vis" => input.parse::<syn::Visibility>()?.into_token_stream(),
        other => panic!("the listing cannot read a fragment of kind {other:?}"),
    })
}

fn transcribe(right: TokenStream, bindings: &Bindings) -> TokenStream {
    let mut tokens = right.into_iter();
    let mut text = TokenStream::new();
    while let Some(token) = tokens.next() {
        let after_dollar = if is(&token, '$') { tokens.next() } else { None };
        match (after_dollar, token) {
            (Some(TokenTree::Group(group)), _) => {
                let (separator, _) = repetition(&mut tokens);
                text.extend(repeated(&group, separator.as_ref(), bindings));
            }
            (Some(name), _) => text.extend(match bindings.get(&name.to_string()) {
                Some(Binding::Tokens(tokens)) => tokens.clone(),
                // `$crate`; any other name makes the text unreadable, which the reader of the items reports.
                _ => name.into_token_stream(),
            }),
            (None, TokenTree::Group(group)) => {
                let inner = transcribe(group.stream(), bindings);
                text.extend(Group::new(group.delimiter(), inner).into_token_stream());
            }
            (None, token) => text.extend(token.into_token_stream()),
        }
    }
    text
}

fn repeated(group: &Group, separator: Option<&TokenTree>, bindings: &Bindings) -> TokenStream {
    let used = used(group.stream());
    let rounds = bindings.iter().find_map(|(name, binding)| match binding {
        Binding::Repeated(rounds) if used.contains(name) => Some(rounds.clone()),
        _ => None,
    });
    let mut text = TokenStream::new();
    for (number, round) in rounds.unwrap_or_default().into_iter().enumerate() {
        if number > 0 {
            text.extend(separator.map(ToTokens::to_token_stream));
        }
        // Names from other repetitions go along: two of equal length may be used side by side.
        let mut inner = bindings.clone();
        for (name, binding) in bindings {
            if let Binding::Repeated(rounds) = binding {
                let same = rounds.get(number).and_then(|round| round.get(name));
                inner.extend(same.map(|binding| (name.clone(), binding.clone())));
            }
        }
        inner.extend(round);
        text.extend(transcribe(group.stream(), &inner));
    }
    text
}

/// Returns the names behind dollar signs, at any depth.
fn used(tokens: TokenStream) -> Vec<String> {
    let mut tokens = tokens.into_iter().peekable();
    let mut found = Vec::new();
    while let Some(token) = tokens.next() {
        match (&token, tokens.peek()) {
            (TokenTree::Group(group), _) => found.extend(used(group.stream())),
            (_, Some(TokenTree::Ident(name))) if is(&token, '$') => found.push(name.to_string()),
            _ => {}
        }
    }
    found
}

#[test]
fn calls_are_expanded_by_the_first_rule_that_fits() {
    let table = [
        ("($a:ident) => { struct $a; }", "B", "struct B;"),
        ("(one) => { fn a() {} }; ($t:ty) => { impl C for $t {} }", "Vec<u8>", "impl C for Vec<u8> {}"),
        ("($($a:ident),+ $(,)?) => { $(struct $a;)+ }", "B, C,", "struct B; struct C;"),
        ("($($l:ident)? | $t:ty) => { impl<M $(, $l)?> A for $t {} }", "| B<M>", "impl<M> A for B<M> {}"),
        ("($($l:ident)? | $t:ty) => { impl<M $(, $l)?> A for $t {} }", "D | B", "impl<M, D> A for B {}"),
        (
            "($($a:ident { $($b:ident),* })*) => { $(enum $a { $($b),* })* }",
            "A { B, C } D { }",
            "enum A { B, C } enum D {}",
        ),
        (
            "($($a:ident),*; $($b:ty),*) => { $(type $a = $b;)* }",
            "A, B; u8, u16",
            "type A = u8; type B = u16;",
        ),
        (
            "([$a:literal, $p:pat] => $e:expr) => { const A: [u8; $a] = $e; }",
            "[1, Some(x)] => [2 + 3]",
            "const A: [u8; 1] = [2 + 3];",
        ),
        ("($v:vis $a:ident) => { $v fn $a() -> $crate::B {} }", "pub c", "pub fn c() -> crate::B {}"),
    ];
    let tokens = |text: &str| text.parse::<TokenStream>().expect("the text is tokens");
    for (rules, call, expected) in table {
        let found = expand("a", tokens(rules), tokens(call));
        assert_eq!(text::compact(&found), text::compact(&tokens(expected)), "{rules}");
    }
}

#[test]
#[should_panic = "the listing finds no rule of a! for the call a!(1)"]
fn a_call_that_no_rule_fits_is_reported() {
    let rules = "($a:ident) => { struct $a; }".parse().expect("the text is tokens");
    expand("a", rules, "1".parse().expect("the text is tokens"));
}
