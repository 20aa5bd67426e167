//! What a block becomes: itself, the module of messages, the handlers, the interface and the client's trait.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::Visibility;
use syn::ext::IdentExt;
use syn::spanned::Spanned;

use super::block::Block;
use super::call::Call;
use super::paths::{Below, at_block};
use super::visibility;

/// Writes all that a block becomes.
pub(super) fn block(block: &Block) -> TokenStream {
    let item = &block.item;
    let messages = messages(block);
    let handlers = block.calls.iter().map(|call| handler(block, call));
    let checks = block.calls.iter().map(|call| check(block, call));
    let interface = interface(block);
    let client = client(block);
    quote!(#item #(#checks)* #messages #(#handlers)* #interface #client)
}

fn messages(block: &Block) -> TokenStream {
    let (module, name, names) = (&block.module, &block.name, block.messages());
    let below = Below { worker: &block.worker, messages: &names };
    let visibility = visibility::widest(visibilities(block));
    let messages = block.calls.iter().map(|call| message(block, &below, call));
    let docs = format!(" The messages that the methods of `{name}` are called with.");
    quote! {
        #[doc = #docs]
        #[allow(
            dead_code,
            missing_debug_implementations,
            unused_imports,
            reason = "a program may only serve these, or only send them"
        )]
        #visibility mod #module {
            use super::*;
            #(#messages)*
        }
    }
}

fn visibilities(block: &Block) -> impl Iterator<Item = &Visibility> {
    block.calls.iter().map(|call| &call.visibility)
}

fn message(block: &Block, below: &Below<'_>, call: &Call) -> TokenStream {
    let Call { message, docs, arguments, .. } = call;
    let (visibility, result) = (visibility::below(&call.visibility), below.written(&call.result));
    let summary = format!(" A call of `{}::{}`.", block.name, call.method.unraw());
    let separator = (!docs.is_empty()).then(|| quote!(#[doc = ""]));
    let derive = &block.derive;
    let fields = arguments.fields.iter().map(|argument| {
        let (name, attributes, held) = (&argument.name, &argument.attributes, below.written(&argument.held));
        let docs = format!(" The argument `{}`.", name.unraw());
        quote!(#[doc = #docs] #(#attributes)* #visibility #name: #held)
    });
    let fields = if arguments.fields.is_empty() { quote!(;) } else { quote!({ #(#fields),* }) };
    let new = (!arguments.fields.is_empty()).then(|| new(below, call, &visibility));
    quote! {
        #(#docs)*
        #separator
        #[doc = #summary]
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

fn handler(block: &Block, call: &Call) -> TokenStream {
    let (worker, module) = (&block.worker, &block.module);
    let Call { method, message, result, arguments, deprecated, .. } = call;
    let names = arguments.fields.iter().map(|argument| &argument.name);
    let pattern = if arguments.fields.is_empty() { quote!() } else { quote!({ #(#names),* }) };
    // It is none of the user's names, and hides none of them.
    let context =
        arguments.has_context.then(|| proc_macro2::Ident::new("ctx", proc_macro2::Span::mixed_site()));
    let parameter = context.as_ref().map_or(quote!(_), ToTokens::to_token_stream);
    let passed =
        arguments.fields.iter().map(|argument| argument.passed()).chain(context.map(|name| quote!(#name)));
    let silenced = (!deprecated.is_empty())
        .then(|| quote!(#[allow(deprecated, reason = "it is served as long as it is there")]));
    quote! {
        impl ::forkpool::__private::actix::Handler<#module::#message> for #worker {
            type Result = #result;
            #silenced
            fn handle(
                &mut self,
                #module::#message #pattern: #module::#message,
                #parameter: &mut ::forkpool::WorkerContext<Self>,
            ) -> Self::Result {
                Self::#method(self #(, #passed)*)
            }
        }
    }
}

/// Errors of types stand at the type in the user's own line, and not in the interface.
fn check(block: &Block, call: &Call) -> TokenStream {
    // Serde finds other ways for those with attributes.
    let plain = call.arguments.fields.iter().filter(|argument| argument.attributes.is_empty());
    let arguments = plain.map(|argument| {
        let held = at_block(argument.held.clone(), &block.worker);
        quote_spanned! {argument.taken.span()=>
            const _: () = ::forkpool::__private::is_argument::<#held>();
        }
    });
    let result = at_block(call.result.to_token_stream(), &block.worker);
    let result = quote_spanned! {call.result.span()=>
        const _: () = ::forkpool::__private::is_result::<#result>();
    };
    quote!(#(#arguments)* #result)
}

fn interface(block: &Block) -> TokenStream {
    let (worker, module, also) = (&block.worker, &block.module, &block.also);
    let messages = block.calls.iter().map(|call| {
        let message = &call.message;
        quote!(#module::#message)
    });
    let messages: Vec<TokenStream> = messages.chain(also.iter().map(ToTokens::to_token_stream)).collect();
    if messages.is_empty() {
        return quote! {
            impl ::forkpool::Interface for #worker {
                const METHODS: &'static [::forkpool::Method<Self>] = &[];
            }
        };
    }
    quote!(::forkpool::interface!(#worker { #(#messages),* });)
}

fn client(block: &Block) -> TokenStream {
    let (worker, name, client) = (&block.worker, &block.name, &block.client);
    let visibility = visibility::widest(visibilities(block));
    let methods = block.calls.iter().map(|call| method(block, call));
    let docs = format!(
        " The methods of `{name}`, called on a pool, a class, a checkout or the address of a checkout."
    );
    quote! {
        #[doc = #docs]
        #[allow(dead_code, reason = "a program may only serve these")]
        #visibility trait #client: ::forkpool::Calls<#worker> {
            #(#methods)*
        }
        impl<C: ::forkpool::Calls<#worker>> #client for C {}
    }
}

fn method(block: &Block, call: &Call) -> TokenStream {
    let Call { method, message, docs, deprecated, arguments, .. } = call;
    let module = &block.module;
    let taken = arguments.fields.iter().map(|argument| {
        let (name, taken) = (&argument.name, at_block(argument.taken.to_token_stream(), &block.worker));
        quote!(#name: #taken)
    });
    let names = arguments.fields.iter().map(|argument| &argument.name);
    let made = if arguments.fields.is_empty() {
        quote!(#module::#message)
    } else {
        quote!(#module::#message::new(#(#names),*))
    };
    let result = readable(&call.result);
    let answer = format!(" Resolves to a `{result}`.");
    let separator = (!docs.is_empty()).then(|| quote!(#[doc = ""]));
    let (answered, called) = (
        quote_spanned!(call.result.span()=> Self::Call<#module::#message>),
        quote_spanned!(call.result.span()=> ::forkpool::Calls::call(self, #made)),
    );
    quote! {
        #(#docs)*
        #separator
        #[doc = #answer]
        #(#deprecated)*
        #[track_caller]
        fn #method(&self #(, #taken)*) -> #answered {
            #called
        }
    }
}

/// A type as one writes it.
fn readable(of: &impl ToTokens) -> String {
    let text = of.to_token_stream().to_string();
    [(" < ", "<"), (" <", "<"), ("< ", "<"), (" >", ">"), (" ,", ","), (" :: ", "::"), ("& ", "&")]
        .into_iter()
        .fold(text, |text, (spaced, close)| text.replace(spaced, close))
}
