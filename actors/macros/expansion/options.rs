//! What stands in the parentheses of `#[methods(…)]`.

use proc_macro2::{Ident, TokenStream};
use syn::meta::ParseNestedMeta;
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{Path, Token, parenthesized};

/// The options of a block.
#[derive(Default)]
pub(super) struct Options {
    /// Messages that are written by hand.
    pub(super) also: Vec<Path>,
    /// What is derived for each message beside what is needed.
    pub(super) derive: Vec<Path>,
    /// The name of the module of messages.
    pub(super) module: Option<Ident>,
}

impl Options {
    /// # Errors
    ///
    /// An option that does not exist, at its place.
    pub(super) fn read(tokens: TokenStream) -> syn::Result<Options> {
        let mut options = Options::default();
        syn::meta::parser(|meta| options.add(&meta)).parse2(tokens)?;
        Ok(options)
    }

    fn add(&mut self, meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
        if meta.path.is_ident("also") {
            self.also.extend(paths(meta)?);
        } else if meta.path.is_ident("derive") {
            self.derive.extend(paths(meta)?);
        } else if meta.path.is_ident("module") {
            self.module = Some(meta.value()?.parse()?);
        } else {
            return Err(meta.error(
                "this is no option of `methods`: they are `also(Message, …)`, `derive(Clone, …)` and `module = name`",
            ));
        }
        Ok(())
    }
}

fn paths(meta: &ParseNestedMeta<'_>) -> syn::Result<Punctuated<Path, Token![,]>> {
    let content;
    parenthesized!(content in meta.input);
    Punctuated::parse_terminated_with(&content, Path::parse_mod_style)
}
