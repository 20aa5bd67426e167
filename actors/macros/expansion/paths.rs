//! Types that are moved from the block into the module of messages, which lies one level deeper.

use std::collections::BTreeSet;

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};

/// Names of the prelude, which are not in the module around a block.
const PRELUDE: [(&str, &str); 5] =
    [("Box", "boxed"), ("Option", "option"), ("Result", "result"), ("String", "string"), ("Vec", "vec")];

/// The difference between the place of the block and the module of messages.
pub(super) struct Below<'a> {
    /// What `Self` is in the block.
    pub(super) worker: &'a TokenStream,
    /// The names of the messages, which hide those of the place around the module.
    pub(super) messages: &'a BTreeSet<String>,
}

impl Below<'_> {
    /// Writes a type as it is called in the module of messages.
    pub(super) fn written(&self, tokens: &impl ToTokens) -> TokenStream {
        self.moved(at_block(tokens.to_token_stream(), self.worker))
    }

    fn moved(&self, tokens: TokenStream) -> TokenStream {
        let mut before = Before::Other;
        let mut moved = TokenStream::new();
        for token in tokens {
            let (begins, next) = (before.begins_path(), before.then(&token));
            match token {
                TokenTree::Ident(name) if begins => moved.extend(self.first(&name)),
                TokenTree::Group(group) => moved.extend([inside(&group, |inner| self.moved(inner))]),
                other => moved.extend([other]),
            }
            before = next;
        }
        moved
    }

    /// The first name of a path.
    fn first(&self, name: &Ident) -> TokenStream {
        let (text, span) = (name.to_string(), name.span());
        if text == "self" {
            return quote_spanned!(span=> super);
        }
        if text == "super" {
            return quote_spanned!(span=> super::super);
        }
        if !self.messages.contains(&text) {
            return name.to_token_stream();
        }
        match PRELUDE.iter().find(|(prelude, _)| *prelude == text) {
            Some((_, module)) => {
                let module = Ident::new(module, Span::call_site());
                quote!(::std::#module::#name)
            }
            None => quote!(super::#name),
        }
    }
}

/// Writes a type without `Self`, which is another type outside of the block.
pub(super) fn at_block(tokens: TokenStream, worker: &TokenStream) -> TokenStream {
    let replaced = tokens.into_iter().flat_map(|token| match token {
        TokenTree::Ident(name) if name == "Self" => worker.clone(),
        TokenTree::Group(group) => inside(&group, |inner| at_block(inner, worker)).into_token_stream(),
        other => other.into_token_stream(),
    });
    replaced.collect()
}

fn inside(group: &Group, change: impl FnOnce(TokenStream) -> TokenStream) -> TokenTree {
    let mut changed = Group::new(group.delimiter(), change(group.stream()));
    changed.set_span(group.span());
    TokenTree::Group(changed)
}

/// What stands before a token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// `::` or its first half: the next name continues a path.
    Colon,
    /// The mark of a lifetime.
    Quote,
    Other,
}

impl Before {
    fn begins_path(self) -> bool {
        self == Before::Other
    }

    fn then(self, token: &TokenTree) -> Before {
        match token {
            TokenTree::Punct(mark) if mark.as_char() == ':' => Before::Colon,
            TokenTree::Punct(mark) if mark.as_char() == '\'' => Before::Quote,
            _ => Before::Other,
        }
    }
}
