//! `#[derive(Worker)]`.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Fields, Type};

/// A struct that is a worker.
pub(super) struct Struct {
    name: Ident,
    setup: Setup,
}

/// What a worker is made of.
enum Setup {
    /// The one value of its type.
    Unit,
    Default,
    /// A configuration of this type.
    Config(Box<Type>),
}

/// # Errors
///
/// What is no struct, has parameters, or has an option that does not exist.
pub(super) fn read(item: TokenStream) -> syn::Result<Struct> {
    let input: DeriveInput = syn::parse2(item)?;
    let Data::Struct(data) = &input.data else {
        return Err(syn::Error::new(
            input.ident.span(),
            "a derived worker is a struct: implement `Worker` by hand",
        ));
    };
    if !input.generics.params.is_empty() {
        let text = "a derived worker has no parameters: implement `Worker` by hand";
        return Err(syn::Error::new(input.generics.params.span(), text));
    }
    let without = if matches!(data.fields, Fields::Unit) { Setup::Unit } else { Setup::Default };
    let config = config(&input)?;
    Ok(Struct { name: input.ident, setup: config.map_or(without, |config| Setup::Config(Box::new(config))) })
}

fn config(input: &DeriveInput) -> syn::Result<Option<Type>> {
    let mut config = None;
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("worker")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("config") {
                return Err(meta.error("this is no option of a worker: there is `#[worker(config = T)]`"));
            }
            config = Some(meta.value()?.parse()?);
            Ok(())
        })?;
    }
    Ok(config)
}

impl Struct {
    /// A struct without fields.
    pub(super) fn unit(name: Ident) -> Struct {
        Struct { name, setup: Setup::Unit }
    }

    /// Writes the two implementations.
    pub(super) fn written(&self) -> TokenStream {
        let name = &self.name;
        let config = match &self.setup {
            Setup::Config(config) => config.to_token_stream(),
            Setup::Unit | Setup::Default => quote!(()),
        };
        let (argument, made) = match &self.setup {
            Setup::Unit => (quote!(()), quote!(#name)),
            Setup::Default => (quote!(()), quote!(<Self as ::std::default::Default>::default())),
            Setup::Config(_) => {
                (quote!(config), quote!(<Self as ::std::convert::TryFrom<#config>>::try_from(config)?))
            }
        };
        quote! {
            impl ::forkpool::__private::actix::Actor for #name {
                type Context = ::forkpool::WorkerContext<Self>;
            }
            impl ::forkpool::Worker for #name {
                type Config = #config;
                fn setup(
                    #argument: Self::Config,
                    _: &mut ::forkpool::WorkerContext<Self>,
                ) -> ::std::result::Result<Self, ::forkpool::SetupError> {
                    ::std::result::Result::Ok(#made)
                }
            }
        }
    }
}
