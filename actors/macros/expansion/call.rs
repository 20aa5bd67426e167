//! One method of a block, as a call.

use proc_macro2::Ident;
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Attribute, ImplItemFn, ItemFn, ReturnType, Signature, Type, Visibility};

use super::arguments::{self, Arguments};
use super::names;

/// A method, and what becomes of it.
pub(super) struct Call {
    pub(super) visibility: Visibility,
    pub(super) method: Ident,
    pub(super) message: Ident,
    /// Its documentation.
    pub(super) docs: Vec<Attribute>,
    /// `#[deprecated]`, which concerns the client.
    pub(super) deprecated: Vec<Attribute>,
    pub(super) arguments: Arguments,
    pub(super) result: Type,
}

impl Call {
    /// # Errors
    ///
    /// Why the method cannot be a call.
    pub(super) fn of_method(method: &ImplItemFn) -> syn::Result<Call> {
        refuse_receiver(&method.sig)?;
        refuse_name(&method.sig.ident)?;
        Call::read(&method.attrs, &method.vis, &method.sig)
    }

    /// # Errors
    ///
    /// Why the function cannot be a call.
    pub(super) fn of_function(function: &ItemFn) -> syn::Result<Call> {
        if let Some(receiver) = function.sig.receiver() {
            let text = "a function has no worker: use `#[forkpool::methods]` for methods";
            return Err(syn::Error::new(receiver.span(), text));
        }
        let call = Call::read(&function.attrs, &function.vis, &function.sig)?;
        if call.arguments.has_context {
            let text = "a function has no context: make it a method of a worker, see `#[forkpool::methods]`";
            return Err(syn::Error::new(function.sig.inputs.last().span(), text));
        }
        Ok(call)
    }

    fn read(attributes: &[Attribute], visibility: &Visibility, signature: &Signature) -> syn::Result<Call> {
        refuse_kinds(signature)?;
        refuse_conditions(attributes)?;
        let named = |name: &'static str| {
            attributes.iter().filter(move |attribute| attribute.path().is_ident(name)).cloned().collect()
        };
        Ok(Call {
            visibility: visibility.clone(),
            method: signature.ident.clone(),
            message: names::camel_case(&signature.ident),
            docs: named("doc"),
            deprecated: named("deprecated"),
            arguments: Arguments::read(signature.inputs.iter())?,
            result: result(signature)?,
        })
    }
}

fn refuse_kinds(signature: &Signature) -> syn::Result<()> {
    if let Some(asyncness) = &signature.asyncness {
        let text = "a worker runs one call at a time and may block: leave out `async`";
        return Err(syn::Error::new(asyncness.span(), text));
    }
    if !signature.generics.params.is_empty() {
        let text = "a call cannot be generic, since its message is one type: name the types, and leave out lifetimes";
        return Err(syn::Error::new(signature.generics.params.span(), text));
    }
    if let Some(unsafety) = &signature.unsafety {
        return Err(syn::Error::new(
            unsafety.span(),
            "a call cannot be unsafe: its caller is another process",
        ));
    }
    Ok(())
}

fn refuse_conditions(attributes: &[Attribute]) -> syn::Result<()> {
    let condition = attributes
        .iter()
        .find(|attribute| ["cfg", "cfg_attr"].iter().any(|name| attribute.path().is_ident(name)));
    match condition {
        Some(attribute) => {
            let text = "every build has the same calls: put the condition on a module or into the body";
            Err(syn::Error::new(attribute.span(), text))
        }
        None => Ok(()),
    }
}

fn refuse_receiver(signature: &Signature) -> syn::Result<()> {
    let Some(receiver) = signature.receiver() else {
        let text =
            "a call takes `&mut self` or `&self`: add it, or move this function to another `impl` block";
        return Err(syn::Error::new(signature.ident.span(), text));
    };
    let is_plain = receiver.colon_token.is_none();
    match (&receiver.reference, is_plain) {
        (Some((_, None)), true) => Ok(()),
        _ => {
            let text = "the worker is needed for its next call: take `&mut self` or `&self`";
            Err(syn::Error::new(receiver.span(), text))
        }
    }
}

fn refuse_name(name: &Ident) -> syn::Result<()> {
    let text = name.unraw().to_string();
    if names::TAKEN.contains(&text.as_str()) {
        let text =
            format!("the handles of pools and checkouts have a `{text}` of their own: call this otherwise");
        return Err(syn::Error::new(name.span(), text));
    }
    Ok(())
}

/// Types that are known to be no `Result`. All others are left to the compiler, since a `Result` may have any name.
const NO_RESULTS: &[&str] = &[
    "Arc", "BTreeMap", "BTreeSet", "Blob", "Box", "Duration", "HashMap", "HashSet", "Option", "PathBuf",
    "Rc", "Self", "String", "Vec", "bool", "char", "f32", "f64", "i128", "i16", "i32", "i64", "i8", "isize",
    "u128", "u16", "u32", "u64", "u8", "usize",
];

fn result(signature: &Signature) -> syn::Result<Type> {
    let text = "a call returns a `Result<T, E>` with `E: From<Failure>`, since a crash or a timeout has to become an error: \
                return `Result<T, Failure>`, or a `Result` with an error of your own";
    let ReturnType::Type(_, result) = &signature.output else {
        return Err(syn::Error::new(signature.ident.span(), format!("{text}; without a value, `T` is `()`")));
    };
    let is_refused = match &**result {
        Type::Path(path) => {
            let last = path.path.segments.last();
            last.is_none_or(|last| NO_RESULTS.iter().any(|name| last.ident == name))
        }
        Type::ImplTrait(_) | Type::Macro(_) | Type::Paren(_) | Type::Group(_) => false,
        _ => true,
    };
    if is_refused {
        return Err(syn::Error::new(result.span(), text));
    }
    arguments::owns(result)?;
    Ok((**result).clone())
}
