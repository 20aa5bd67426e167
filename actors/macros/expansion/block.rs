//! The block that `#[methods]` stands on.

use std::collections::BTreeSet;

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident};
use syn::spanned::Spanned;
use syn::{ImplItem, ItemImpl, Path, Type};

use super::arguments;
use super::call::Call;
use super::names;
use super::options::Options;

/// A block, read.
pub(super) struct Block {
    /// The block as it was written, without the attributes that only the macro knows.
    pub(super) item: ItemImpl,
    /// The type of the worker as the block names it.
    pub(super) worker: TokenStream,
    /// The worker's name.
    pub(super) name: Ident,
    pub(super) module: Ident,
    /// The client's trait.
    pub(super) client: Ident,
    pub(super) calls: Vec<Call>,
    pub(super) also: Vec<Path>,
    pub(super) derive: Vec<Path>,
}

impl Block {
    /// Reads a block; returns as well what is wrong with those of its items that are left out.
    ///
    /// # Errors
    ///
    /// What is wrong with the block as a whole.
    pub(super) fn read(options: TokenStream, block: TokenStream) -> syn::Result<(Block, Vec<syn::Error>)> {
        let mut item: ItemImpl = syn::parse2(block)?;
        let name = worker(&item)?;
        let (calls, mut errors) = calls(&item);
        let options = Options::read(options).unwrap_or_else(|error| {
            errors.push(error);
            Options::default()
        });
        let (also, repeated) = unlike(&calls, options.also);
        errors.extend(repeated);
        item.items.iter_mut().for_each(strip);
        let block = Block {
            worker: item.self_ty.to_token_stream(),
            module: options.module.unwrap_or_else(|| names::snake_case(&name)),
            client: format_ident!("{name}Calls"),
            name,
            item,
            calls,
            also,
            derive: options.derive,
        };
        Ok((block, errors))
    }

    /// The names of all messages in the module.
    pub(super) fn messages(&self) -> BTreeSet<String> {
        self.calls.iter().map(|call| call.message.to_string()).collect()
    }
}

/// Returns the name of the worker.
fn worker(item: &ItemImpl) -> syn::Result<Ident> {
    if let Some((_, path, _)) = &item.trait_ {
        let text = "`methods` stands on the worker's own methods: `impl Hasher { … }`";
        return Err(syn::Error::new(path.span(), text));
    }
    if !item.generics.params.is_empty() {
        let text =
            "a worker whose methods are calls has no type parameters: its messages are of one type each";
        return Err(syn::Error::new(item.generics.params.span(), text));
    }
    let name = match &*item.self_ty {
        Type::Path(path) => path.path.segments.last().map(|last| last.ident.clone()),
        _ => None,
    };
    name.ok_or_else(|| syn::Error::new(item.self_ty.span(), "`methods` needs the name of a worker here"))
}

fn calls(item: &ItemImpl) -> (Vec<Call>, Vec<syn::Error>) {
    let (mut calls, mut errors): (Vec<Call>, Vec<syn::Error>) = (Vec::new(), Vec::new());
    for item in &item.items {
        let read = match item {
            ImplItem::Fn(method) => Call::of_method(method),
            other => {
                let text = "this block has calls alone: move this to another `impl` block";
                Err(syn::Error::new(other.span(), text))
            }
        };
        match read {
            Ok(call) => match calls.iter().find(|other| other.message == call.message) {
                Some(other) => errors.push(twice(&call, other)),
                None => calls.push(call),
            },
            Err(error) => errors.push(error),
        }
    }
    if calls.is_empty() && errors.is_empty() {
        errors.push(syn::Error::new(item.self_ty.span(), "a worker has at least one call: add a method"));
    }
    (calls, errors)
}

fn twice(call: &Call, other: &Call) -> syn::Error {
    let (method, message) = (&call.method, &call.message);
    let text = if *method == other.method {
        format!("the method `{method}` is there twice: call one of them otherwise")
    } else {
        format!(
            "`{}` and `{method}` would both have the message `{message}`: call one otherwise",
            other.method
        )
    };
    syn::Error::new(method.span(), text)
}

/// Leaves out messages that have the name of another one: a name is what a message is known by in other programs.
fn unlike(calls: &[Call], also: Vec<Path>) -> (Vec<Path>, Vec<syn::Error>) {
    let mut names: Vec<Ident> = calls.iter().map(|call| call.message.clone()).collect();
    let (mut kept, mut errors) = (Vec::new(), Vec::new());
    for path in also {
        let Some(name) = path.segments.last().map(|last| last.ident.clone()) else { continue };
        if names.contains(&name) {
            let text = format!("the interface has a message `{name}` already: call one of them otherwise");
            errors.push(syn::Error::new(path.span(), text));
        } else {
            names.push(name);
            kept.push(path);
        }
    }
    (kept, errors)
}

fn strip(item: &mut ImplItem) {
    if let ImplItem::Fn(method) = item {
        arguments::strip(&mut method.sig);
    }
}
