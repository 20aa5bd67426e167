//! The arguments of a method: fields of its message, which is owned.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Attribute, FnArg, Pat, PatType, Signature, Type, TypeReference};

/// One argument.
pub(super) struct Argument {
    pub(super) name: Ident,
    /// Its `#[serde(…)]`.
    pub(super) attributes: Vec<Attribute>,
    /// What the method takes, and so does the client's.
    pub(super) taken: Type,
    /// What the message holds.
    pub(super) held: TokenStream,
    kind: Kind,
}

/// How the value in a message becomes what the method takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Owned,
    /// `&str` or `&[T]`: a reference to the owned value becomes one.
    Dereferenced,
    /// Any other `&T`.
    Borrowed,
}

/// Arguments that a method has beside `self`.
pub(super) struct Arguments {
    pub(super) fields: Vec<Argument>,
    pub(super) has_context: bool,
}

impl Arguments {
    /// # Errors
    ///
    /// An argument that cannot travel to another process.
    pub(super) fn read<'a>(inputs: impl Iterator<Item = &'a FnArg>) -> syn::Result<Arguments> {
        let typed: Vec<&PatType> = inputs
            .filter_map(|input| match input {
                FnArg::Typed(argument) => Some(argument),
                FnArg::Receiver(_) => None,
            })
            .collect();
        let has_context = typed.last().is_some_and(|last| is_context(&last.ty));
        let fields = &typed[..typed.len() - usize::from(has_context)];
        let fields = fields.iter().map(|argument| Argument::read(argument)).collect::<syn::Result<_>>()?;
        Ok(Arguments { fields, has_context })
    }
}

impl Argument {
    fn read(argument: &PatType) -> syn::Result<Argument> {
        let taken = (*argument.ty).clone();
        if is_context(&taken) {
            return Err(syn::Error::new(
                taken.span(),
                "the context is the last argument: move it to the end",
            ));
        }
        let name = name(&argument.pat)?;
        let attributes =
            argument.attrs.iter().filter(|attribute| attribute.path().is_ident("serde")).cloned();
        let (held, kind) = held(&taken)?;
        Ok(Argument { name, attributes: attributes.collect(), taken, held, kind })
    }

    /// Writes how the message's field is made of what the client's method takes.
    pub(super) fn owned(&self) -> TokenStream {
        let name = &self.name;
        match self.kind {
            Kind::Owned => quote!(#name),
            Kind::Dereferenced | Kind::Borrowed => quote!(#name: #name.to_owned()),
        }
    }

    /// Writes how the method's argument is made of the message's field.
    pub(super) fn passed(&self) -> TokenStream {
        let name = &self.name;
        match self.kind {
            Kind::Owned => quote!(#name),
            Kind::Dereferenced => quote!(&#name),
            Kind::Borrowed => quote!(::std::borrow::Borrow::borrow(&#name)),
        }
    }
}

fn name(pattern: &Pat) -> syn::Result<Ident> {
    match pattern {
        Pat::Ident(name) if name.subpat.is_none() && name.by_ref.is_none() => Ok(name.ident.clone()),
        other => {
            let text = "the argument needs a name, which is that of a field of the message: take the value apart in the body";
            Err(syn::Error::new(other.span(), text))
        }
    }
}

/// Returns what a message holds for an argument of this type.
fn held(taken: &Type) -> syn::Result<(TokenStream, Kind)> {
    let Type::Reference(reference) = taken else {
        owns(taken)?;
        return Ok((taken.to_token_stream(), Kind::Owned));
    };
    refuse_mutable_and_named(reference)?;
    let (target, span) = (&*reference.elem, reference.elem.span());
    owns(target)?;
    Ok(match target {
        Type::Path(path) if path.path.is_ident("str") => (quote_spanned!(span=> String), Kind::Dereferenced),
        Type::Slice(slice) => {
            let element = &slice.elem;
            (quote_spanned!(span=> Vec<#element>), Kind::Dereferenced)
        }
        _ => (quote_spanned!(span=> <#target as ::std::borrow::ToOwned>::Owned), Kind::Borrowed),
    })
}

fn refuse_mutable_and_named(reference: &TypeReference) -> syn::Result<()> {
    if reference.mutability.is_some() {
        let text = "the worker is another process, whose changes the caller would not see: take the value, and return it";
        return Err(syn::Error::new(reference.span(), text));
    }
    if let Some(lifetime) = &reference.lifetime {
        let text = "the value is borrowed for the call alone: leave out the lifetime";
        return Err(syn::Error::new(lifetime.span(), text));
    }
    Ok(())
}

/// # Errors
///
/// A type that cannot be sent to another process, since it borrows or has no name.
pub(super) fn owns(of: &Type) -> syn::Result<()> {
    let text = match of {
        Type::Reference(_) => "this borrows, and another process cannot: use an owned type",
        Type::ImplTrait(_) => "a message has fields of one type each: name the type in the place of `impl`",
        Type::TraitObject(_) => {
            "another process cannot make this of bytes: name a type in the place of `dyn`"
        }
        Type::Ptr(_) => "a pointer means nothing in another process",
        _ => return inner(of).into_iter().try_for_each(owns),
    };
    Err(syn::Error::new(of.span(), text))
}

/// The types within a type.
fn inner(of: &Type) -> Vec<&Type> {
    match of {
        Type::Tuple(tuple) => tuple.elems.iter().collect(),
        Type::Array(array) => vec![&array.elem],
        Type::Slice(slice) => vec![&slice.elem],
        Type::Paren(paren) => vec![&paren.elem],
        Type::Group(group) => vec![&group.elem],
        Type::Path(path) => path.path.segments.iter().flat_map(of_segment).collect(),
        _ => Vec::new(),
    }
}

fn of_segment(segment: &syn::PathSegment) -> Vec<&Type> {
    let syn::PathArguments::AngleBracketed(arguments) = &segment.arguments else { return Vec::new() };
    let types = arguments.args.iter().filter_map(|argument| match argument {
        syn::GenericArgument::Type(of) => Some(of),
        _ => None,
    });
    types.collect()
}

/// Takes away the attributes of arguments that belong to fields of messages.
pub(super) fn strip(signature: &mut Signature) {
    for input in &mut signature.inputs {
        if let FnArg::Typed(argument) = input {
            argument.attrs.retain(|attribute| !attribute.path().is_ident("serde"));
        }
    }
}

/// Whether this is `&mut WorkerContext<…>`, whatever path it has.
fn is_context(of: &Type) -> bool {
    let Type::Reference(reference) = of else { return false };
    let Type::Path(path) = &*reference.elem else { return false };
    path.path.segments.last().is_some_and(|last| last.ident.unraw() == "WorkerContext")
}
