//! A call's message, and the checks of what it is made of.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Attribute, Expr, ExprLit, Lit, Meta, Path};

use super::call::Call;
use super::paths::{Below, at_block};
use super::visibility;

/// Writes a module of messages, with all that is in scope around it.
pub(super) fn module(docs: &str, visibility: &TokenStream, name: &Ident, items: &TokenStream) -> TokenStream {
    quote! {
        #[doc = #docs]
        #[allow(
            dead_code,
            missing_debug_implementations,
            unused_imports,
            reason = "a program may only serve these, or only send them"
        )]
        #visibility mod #name {
            use super::*;
            #items
        }
    }
}

/// Writes the message of a call. `owner` is what stands ahead of the method's name.
pub(super) fn message(owner: &str, derive: &[Path], below: &Below<'_>, call: &Call) -> TokenStream {
    let Call { message, docs, arguments, .. } = call;
    let (visibility, result) = (visibility::below(&call.visibility), below.written(&call.result));
    let summary = format!(" A call of `{owner}{}`.", call.method.unraw());
    let docs = documented(docs, &summary);
    let fields = arguments.fields.iter().map(|argument| {
        let (name, attributes, held) = (&argument.name, &argument.attributes, below.written(&argument.held));
        let docs = format!(" The argument `{}`.", name.unraw());
        quote!(#[doc = #docs] #(#attributes)* #visibility #name: #held)
    });
    let fields = if arguments.fields.is_empty() { quote!(;) } else { quote!({ #(#fields),* }) };
    let new = (!arguments.fields.is_empty()).then(|| new(below, call, &visibility));
    quote! {
        #docs
        #[derive(
            ::forkpool::__private::serde::Serialize,
            ::forkpool::__private::serde::Deserialize
            #(, #derive)*
        )]
        #[serde(crate = "::forkpool::__private::serde")]
        #visibility struct #message #fields
        #new
        impl ::forkpool::__private::actix::Message for #message {
            type Result = #result;
        }
    }
}

/// Writes a user's documentation with one more paragraph, behind the first one.
pub(super) fn documented(docs: &[Attribute], more: &str) -> TokenStream {
    let is_blank = |attribute: &Attribute| match &attribute.meta {
        Meta::NameValue(pair) => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(line), .. }) => line.value().trim().is_empty(),
            _ => false,
        },
        _ => false,
    };
    let (first, rest) = docs.split_at(docs.iter().position(is_blank).unwrap_or(docs.len()));
    let separator = (!first.is_empty()).then(|| quote!(#[doc = ""]));
    quote!(#(#first)* #separator #[doc = #more] #(#rest)*)
}

/// The constructor, which takes what the method takes.
fn new(below: &Below<'_>, call: &Call, visibility: &TokenStream) -> TokenStream {
    let (message, fields) = (&call.message, &call.arguments.fields);
    let docs = format!(" Makes the message of what `{}` takes.", call.method.unraw());
    let taken = fields.iter().map(|argument| {
        let (name, taken) = (&argument.name, below.written(&argument.taken));
        quote!(#name: #taken)
    });
    let owned = fields.iter().map(|argument| argument.owned());
    quote! {
        impl #message {
            #[doc = #docs]
            #visibility fn new(#(#taken),*) -> Self {
                #message { #(#owned),* }
            }
        }
    }
}

/// Errors of types stand at the type in the user's own line, and not in the interface.
pub(super) fn check(worker: &TokenStream, call: &Call) -> TokenStream {
    // Serde finds other ways for those with attributes.
    let plain = call.arguments.fields.iter().filter(|argument| argument.attributes.is_empty());
    let arguments = plain.map(|argument| {
        let held = at_block(argument.held.clone(), worker);
        quote_spanned! {argument.taken.span()=>
            const _: () = ::forkpool::__private::is_argument::<#held>();
        }
    });
    let result = at_block(call.result.to_token_stream(), worker);
    let result = quote_spanned! {call.result.span()=>
        const _: () = ::forkpool::__private::is_result::<#result>();
    };
    quote!(#(#arguments)* #result)
}
