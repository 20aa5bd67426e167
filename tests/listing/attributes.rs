//! What attributes say of an item: whether it is built, hidden, derived or may grow.

use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, Lit, Meta, MetaList, Token};

use crate::text;

/// Whether users may meet the item. A condition that only tests, fuzzing and documentation tests fulfil excludes it; a
/// feature does not.
pub fn is_built(attributes: &[Attribute]) -> bool {
    !flat(attributes).iter().any(|meta| match meta {
        Meta::List(list) if list.path.is_ident("cfg") => {
            parts(list).iter().any(|condition| value(condition) == Some(false))
        }
        _ => false,
    })
}

pub fn is_hidden(attributes: &[Attribute]) -> bool {
    flat(attributes).iter().any(|meta| match meta {
        Meta::List(list) if list.path.is_ident("doc") => {
            parts(list).iter().any(|part| part.path().is_ident("hidden"))
        }
        _ => false,
    })
}

pub fn has(attributes: &[Attribute], name: &str) -> bool {
    flat(attributes).iter().any(|meta| meta.path().is_ident(name))
}

/// Returns the last identifiers of the derived traits.
pub fn derived(attributes: &[Attribute]) -> Vec<String> {
    let metas = flat(attributes);
    let lists = metas.iter().filter_map(|meta| match meta {
        Meta::List(list) if list.path.is_ident("derive") => Some(parts(list)),
        _ => None,
    });
    lists.flatten().filter_map(|meta| text::segments(meta.path()).pop()).collect()
}

/// Returns the file that a `#[path = "…"]` names.
pub fn file(attributes: &[Attribute]) -> Option<String> {
    flat(attributes).into_iter().find_map(|meta| match meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => match pair.value {
            Expr::Lit(literal) => match literal.lit {
                Lit::Str(file) => Some(file.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    })
}

/// Puts what a `cfg_attr` holds in its place, unless its condition never holds for users.
fn flat(attributes: &[Attribute]) -> Vec<Meta> {
    attributes.iter().flat_map(|attribute| flat_meta(attribute.meta.clone())).collect()
}

fn flat_meta(meta: Meta) -> Vec<Meta> {
    match &meta {
        Meta::List(list) if list.path.is_ident("cfg_attr") => {
            let mut parts = parts(list).into_iter();
            let applies = parts.next().is_some_and(|condition| value(&condition) != Some(false));
            if applies { parts.flat_map(flat_meta).collect() } else { Vec::new() }
        }
        _ => vec![meta],
    }
}

fn parts(list: &MetaList) -> Vec<Meta> {
    let parsed = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
    let parsed = parsed.unwrap_or_else(|error| panic!("#[{}]: {error}", text::compact(list)));
    parsed.into_iter().collect()
}

/// The value of a condition for users, if it is the same for all of them.
fn value(condition: &Meta) -> Option<bool> {
    match condition {
        Meta::Path(path) if ["test", "fuzzing", "doctest"].iter().any(|name| path.is_ident(name)) => {
            Some(false)
        }
        Meta::List(list) => {
            let values: Vec<Option<bool>> = parts(list).iter().map(value).collect();
            if list.path.is_ident("not") {
                values.first().copied().flatten().map(|value| !value)
            } else {
                // The one value of a part that decides: `all` is false by a false part, `any` is true by a true one.
                let decides = list.path.is_ident("any");
                if values.contains(&Some(decides)) {
                    Some(decides)
                } else if values.contains(&None) {
                    None
                } else {
                    Some(!decides)
                }
            }
        }
        _ => None,
    }
}

#[test]
fn conditions_exclude_what_only_tests_build() {
    let table = [
        ("#[cfg(test)]", false),
        ("#[cfg(not(test))]", true),
        ("#[cfg(feature = \"tls\")]", true),
        ("#[cfg(not(feature = \"tls\"))]", true),
        ("#[cfg(all(any(test, fuzzing), unix))]", false),
        ("#[cfg(any(test, feature = \"actors\"))]", true),
        ("#[cfg(all(not(test), unix))]", true),
        ("#[cfg(not(any(unix, not(test))))]", false),
        ("#[cfg(unix)] #[cfg(doctest)]", false),
        ("#[cfg_attr(unix, cfg(test))]", false),
        ("#[inline]", true),
    ];
    for (attributes, expected) in table {
        let item: syn::ItemFn = syn::parse_str(&format!("{attributes} fn a() {{}}")).expect(attributes);
        assert_eq!(is_built(&item.attrs), expected, "{attributes}");
    }
}

#[test]
fn attributes_are_found_inside_of_others() {
    let text = "#[cfg_attr(unix, derive(Debug, serde::Serialize), non_exhaustive)]\n#[derive(Clone)]\n\
        #[cfg_attr(test, derive(Copy))]\n#[cfg_attr(unix, cfg_attr(unix, doc(alias = \"b\", hidden)))] struct A;";
    let item: syn::ItemStruct = syn::parse_str(text).expect("the text is Rust");
    assert_eq!(derived(&item.attrs), ["Debug", "Serialize", "Clone"]);
    assert!(has(&item.attrs, "non_exhaustive") && is_hidden(&item.attrs));
}
