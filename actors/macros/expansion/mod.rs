//! What the macros make of what they read. A proc macro's own types end in `lib.rs`, so that tests can expand here.

mod arguments;
mod block;
mod call;
mod function;
mod message;
pub(crate) mod names;
mod options;
mod paths;
mod visibility;
mod worker;
mod written;

use proc_macro2::TokenStream;
use quote::quote;

use block::Block;

/// Expands `#[methods(options)] block`.
///
/// What cannot be a call is left out and becomes an error, and all else is there: an editor still completes the other
/// methods, and the compiler says nothing of what is missing only because of the first error.
pub(crate) fn methods(options: TokenStream, block: TokenStream) -> TokenStream {
    match Block::read(options, block.clone()) {
        Ok((block, errors)) => {
            let written = written::block(&block);
            let errors = errors.into_iter().map(syn::Error::into_compile_error);
            quote!(#written #(#errors)*)
        }
        Err(error) => {
            let error = error.into_compile_error();
            quote!(#block #error)
        }
    }
}

/// Expands `#[derive(Worker)]`.
pub(crate) fn worker(item: TokenStream) -> TokenStream {
    worker::read(item).map_or_else(syn::Error::into_compile_error, |worker| worker.written())
}

/// Expands `#[function] item`.
pub(crate) fn function(options: TokenStream, item: TokenStream) -> TokenStream {
    function::expand(&options, item.clone()).unwrap_or_else(|error| {
        let error = error.into_compile_error();
        quote!(#item #error)
    })
}

/// Expands `functions!(…)`.
pub(crate) fn functions(list: TokenStream) -> TokenStream {
    function::worker(list).unwrap_or_else(syn::Error::into_compile_error)
}
