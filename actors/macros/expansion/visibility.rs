//! The visibility of a method, for its message, which lies one module deeper, and for the client's trait.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::Visibility;

/// Writes a method's visibility as it is called one module deeper.
pub(super) fn below(visibility: &Visibility) -> TokenStream {
    match visibility {
        Visibility::Inherited => quote!(pub(super)),
        Visibility::Restricted(restricted) if restricted.path.is_ident("self") => quote!(pub(super)),
        Visibility::Restricted(restricted) => {
            let path = &restricted.path;
            let is_relative = path.segments.first().is_some_and(|first| first.ident == "super");
            if is_relative { quote!(pub(in super::#path)) } else { visibility.to_token_stream() }
        }
        Visibility::Public(_) => quote!(pub),
    }
}

/// Returns the most visible of these: everything that one of them is visible to sees it.
pub(super) fn widest<'a>(all: impl Iterator<Item = &'a Visibility>) -> TokenStream {
    all.max_by_key(|visibility| rank(visibility)).to_token_stream()
}

fn rank(visibility: &Visibility) -> (u8, usize) {
    match visibility {
        Visibility::Inherited => (0, 0),
        Visibility::Restricted(restricted) => {
            let path = &restricted.path;
            let supers = path.segments.iter().filter(|segment| segment.ident == "super").count();
            if path.is_ident("crate") {
                (3, 0)
            } else if path.segments.first().is_some_and(|first| first.ident == "crate") {
                // The longer the path, the fewer see it.
                (2, usize::MAX - path.segments.len())
            } else {
                (1, supers)
            }
        }
        Visibility::Public(_) => (4, 0),
    }
}
