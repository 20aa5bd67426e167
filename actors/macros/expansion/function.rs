//! Functions as calls, and workers for sets of them.

use std::collections::BTreeSet;

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, ItemFn, Path, Token, Visibility, braced};

use super::call::Call;
use super::paths::Below;
use super::worker::Struct;
use super::{arguments, message, names, visibility};

/// Expands one function.
///
/// # Errors
///
/// Why the function cannot be a call.
pub(super) fn expand(options: &TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    if !options.is_empty() {
        return Err(syn::Error::new(options.span(), "`function` has no options"));
    }
    let mut function: ItemFn = syn::parse2(item)?;
    let call = Call::of_function(&function)?;
    arguments::strip(&mut function.sig);
    // A function has no `Self`.
    let nothing = TokenStream::new();
    let module = module(&call, &nothing);
    let check = message::check(&nothing, &call);
    Ok(quote!(#function #check #module))
}

fn module(call: &Call, worker: &TokenStream) -> TokenStream {
    let Call { method, message, arguments, .. } = call;
    let names = BTreeSet::from([message.to_string()]);
    let below = Below { worker, messages: &names };
    let written = message::message("", &[], &below, call);
    let visible = visibility::below(&call.visibility);
    let taken = arguments.fields.iter().map(|argument| {
        let (name, taken) = (&argument.name, below.written(&argument.taken));
        quote!(#name: #taken)
    });
    let given: Vec<&Ident> = arguments.fields.iter().map(|argument| &argument.name).collect();
    let made = if given.is_empty() { quote!(#message) } else { quote!(#message::new(#(#given),*)) };
    let fields = if given.is_empty() { quote!() } else { quote!({ #(#given),* }) };
    let passed = arguments.fields.iter().map(|argument| argument.passed());
    let (docs, result) = (format!(" The function `{method}` as a call."), below.written(&call.result));
    let with = format!(" Makes a call of `{method}`, for `pool.call({method}::with(…))`.");
    let items = quote! {
        #written
        #[doc = #with]
        #visible fn with(#(#taken),*) -> #message {
            #made
        }
        impl ::forkpool::__private::Function for #message {
            fn run(self) -> #result {
                let #message #fields = self;
                super::#method(#(#passed),*)
            }
        }
    };
    message::module(&docs, &call.visibility.to_token_stream(), method, &items)
}

/// What stands in the parentheses of `functions!(…)`.
struct Set {
    attributes: Vec<Attribute>,
    visibility: Visibility,
    name: Ident,
    functions: Vec<Path>,
}

impl Parse for Set {
    fn parse(input: ParseStream<'_>) -> syn::Result<Set> {
        let (attributes, visibility, name) =
            (input.call(Attribute::parse_outer)?, input.parse()?, input.parse()?);
        let content;
        let _ = braced!(content in input);
        let functions =
            Punctuated::<Path, Token![,]>::parse_terminated_with(&content, Path::parse_mod_style)?;
        Ok(Set { attributes, visibility, name, functions: functions.into_iter().collect() })
    }
}

/// Expands a worker for these functions.
///
/// # Errors
///
/// A list that is empty, or has a name twice.
pub(super) fn worker(list: TokenStream) -> syn::Result<TokenStream> {
    let Set { attributes, visibility, name, functions } = syn::parse2(list)?;
    if functions.is_empty() {
        return Err(syn::Error::new(name.span(), "a worker has at least one call: name a function"));
    }
    let mut known = BTreeSet::new();
    let messages = functions.iter().map(|function| message_of(function, &mut known));
    let messages = messages.collect::<syn::Result<Vec<TokenStream>>>()?;
    let implementations = Struct::unit(name.clone()).written();
    Ok(quote! {
        #(#attributes)*
        #[derive(Clone, Copy, Debug)]
        #visibility struct #name;
        #implementations
        #(impl ::forkpool::__private::actix::Handler<#messages> for #name {
            type Result = <#messages as ::forkpool::__private::actix::Message>::Result;
            fn handle(&mut self, call: #messages, _: &mut ::forkpool::WorkerContext<Self>) -> Self::Result {
                ::forkpool::__private::Function::run(call)
            }
        })*
        ::forkpool::interface!(#name { #(#messages),* });
    })
}

/// Returns the path of a function's message, which is in a module that has the function's name.
fn message_of(function: &Path, known: &mut BTreeSet<String>) -> syn::Result<TokenStream> {
    let Some(last) = function.segments.last() else {
        return Err(syn::Error::new(function.span(), "name a function"));
    };
    let message = names::camel_case(&last.ident);
    if !known.insert(message.to_string()) {
        let text = format!("the worker has a call `{message}` already: call one of the functions otherwise");
        return Err(syn::Error::new(function.span(), text));
    }
    let message = format_ident!("{message}");
    Ok(quote!(#function::#message))
}
