//! What a block becomes: itself, the module of messages, the handlers, the interface and the client's trait.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::Visibility;
use syn::spanned::Spanned;

use super::block::Block;
use super::call::Call;
use super::message;
use super::paths::{Below, at_block};
use super::visibility;

/// Writes all that a block becomes.
pub(super) fn block(block: &Block) -> TokenStream {
    let item = &block.item;
    let messages = messages(block);
    let handlers = block.calls.iter().map(|call| handler(block, call));
    let checks = block.calls.iter().map(|call| message::check(&block.worker, call));
    let interface = interface(block);
    let client = client(block);
    quote!(#item #(#checks)* #messages #(#handlers)* #interface #client)
}

fn messages(block: &Block) -> TokenStream {
    let (name, names) = (&block.name, block.messages());
    let below = Below { worker: &block.worker, messages: &names };
    let visibility = visibility::widest(visibilities(block));
    let owner = format!("{name}::");
    let messages = block.calls.iter().map(|call| message::message(&owner, &block.derive, &below, call));
    let docs = format!(" The messages that the methods of `{name}` are called with.");
    message::module(&docs, &visibility, &block.module, &messages.collect())
}

fn visibilities(block: &Block) -> impl Iterator<Item = &Visibility> {
    block.calls.iter().map(|call| &call.visibility)
}

fn handler(block: &Block, call: &Call) -> TokenStream {
    let (worker, module) = (&block.worker, &block.module);
    let Call { method, message, result, arguments, deprecated, .. } = call;
    let names = arguments.fields.iter().map(|argument| &argument.name);
    let pattern = if arguments.fields.is_empty() { quote!() } else { quote!({ #(#names),* }) };
    // The user has no such name, so it hides nothing.
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
    let docs = message::documented(docs, &answer);
    let (answered, called) = (
        quote_spanned!(call.result.span()=> Self::Call<#module::#message>),
        quote_spanned!(call.result.span()=> ::forkpool::Calls::call(self, #made)),
    );
    quote! {
        #docs
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
