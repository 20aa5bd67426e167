//! Lists the methods of types and the traits that they implement, written by hand or derived.

use std::collections::BTreeSet;

use syn::visit::Visit;
use syn::{Fields, GenericParam, Item, ItemImpl, Path, Type, TypeParamBound};

use crate::modules::{Library, head};
use crate::names::{Reached, inherent, shortest};
use crate::resolution::Definition;
use crate::{attributes, text};

/// Adds the implementations of all modules: the type is one that users reach, or the trait is, or an argument.
pub fn list(library: &Library, reached: &Reached, lines: &mut BTreeSet<String>) {
    for (definition, paths) in reached {
        let item = library.item(definition).filter(|_| matches!(definition, Definition::Item(..)));
        derived(item, shortest(paths), lines);
    }
    for (module, item) in library
        .modules
        .iter()
        .enumerate()
        .flat_map(|(id, module)| module.items.iter().map(move |item| (id, item)))
    {
        if let Item::Impl(item) = item
            && !attributes::is_hidden(&item.attrs)
        {
            Scope { library, reached, module, item }.list(lines);
        }
    }
}

/// Lists what the attributes of an item make the compiler implement.
fn derived(item: Option<&Item>, path: &str, lines: &mut BTreeSet<String>) {
    let Some(head) = item.and_then(head) else { return };
    for name in attributes::derived(head.attributes) {
        lines.insert(format!("impl {name} for {path}"));
        // thiserror writes these along with `Error`, which std cannot derive.
        if name == "Error" {
            lines.insert(format!("impl Display for {path}"));
            for field in item.into_iter().flat_map(all_fields).flatten() {
                if attributes::has(&field.attrs, "from") {
                    lines.insert(format!("impl From<{}> for {path}", text::compact(&field.ty)));
                }
            }
        }
    }
}

fn all_fields(item: &Item) -> Vec<&Fields> {
    match item {
        Item::Struct(item) => vec![&item.fields],
        Item::Enum(item) => item.variants.iter().map(|variant| &variant.fields).collect(),
        _ => Vec::new(),
    }
}

/// An `impl`, and the module whose names it uses.
struct Scope<'a> {
    library: &'a Library,
    reached: &'a Reached,
    module: usize,
    item: &'a ItemImpl,
}

impl Scope<'_> {
    fn list(&self, lines: &mut BTreeSet<String>) {
        let (prefix, path) = base(&self.item.self_ty);
        let owner = path.and_then(|path| self.own(&text::segments(path)));
        let owner_path = owner.as_ref().map(|owner| self.reached.get(owner).map(shortest));
        if let (None, Some(path)) = (&owner, path) {
            self.check_other(path);
        }
        match (&self.item.trait_, owner_path) {
            (None, Some(Some(owner))) => inherent(&self.item.items, owner, lines),
            (None, _) | (Some(_), Some(None)) => {}
            (Some((_, path, _)), owner) => {
                let owner = match owner.flatten() {
                    Some(owner) => format!("{prefix}{owner}"),
                    None => text::compact(&self.item.self_ty),
                };
                if self.is_reached(path) {
                    lines.insert(format!("impl {} for {owner}", self.shown(path)));
                }
            }
        }
    }

    fn shown(&self, path: &Path) -> String {
        let sign = if matches!(self.item.trait_, Some((Some(_), ..))) { "!" } else { "" };
        format!("{sign}{}", text::last_with_arguments(path))
    }

    /// Whether users can name all that the header takes from this crate, and something of it.
    fn is_reached(&self, path: &Path) -> bool {
        let mut paths = Paths(Vec::new());
        paths.visit_path(path);
        paths.visit_type(&self.item.self_ty);
        let own: Vec<Definition> = paths.0.iter().filter_map(|path| self.own(path)).collect();
        !own.is_empty() && own.iter().all(|definition| self.reached.contains_key(definition))
    }

    /// Returns the type or trait of this crate that a path means. An alias means the type behind it.
    fn own(&self, path: &[String]) -> Option<Definition> {
        let is_parameter = self.item.generics.params.iter().any(|parameter| match parameter {
            GenericParam::Type(parameter) => path == [parameter.ident.to_string()],
            _ => false,
        });
        if is_parameter { None } else { own(self.library, self.module, path) }
    }

    /// Fails if what seems to be another crate's type has the name of one that users reach.
    fn check_other(&self, path: &Path) {
        let path = text::segments(path);
        let has_meaning = !self.library.meanings(self.module, &path).is_empty();
        let has_name =
            self.reached.keys().filter_map(|definition| self.library.item(definition)).any(|item| {
                let is_type = matches!(item, Item::Struct(_) | Item::Enum(_) | Item::Union(_));
                is_type && head(item).map(|head| head.name).as_ref() == path.last()
            });
        assert!(
            has_meaning || !has_name,
            "{}: the listing cannot find which {} an implementation is for",
            self.library.modules[self.module].file,
            path.join("::")
        );
    }
}

fn own(library: &Library, module: usize, path: &[String]) -> Option<Definition> {
    let meanings = library.meanings(module, path).into_iter();
    let mut types = meanings.filter_map(|definition| match (&definition, library.item(&definition)) {
        (Definition::Item(..), Some(Item::Struct(_) | Item::Enum(_) | Item::Union(_) | Item::Trait(_))) => {
            Some(definition)
        }
        (Definition::Item(module, _), Some(Item::Type(alias))) => {
            let (_, path) = base(&alias.ty);
            own(library, *module, &text::segments(path?))
        }
        _ => None,
    });
    types.next()
}

/// Returns the path of a type, and what stands in front of it.
fn base(of: &Type) -> (String, Option<&Path>) {
    match of {
        Type::Path(path) if path.qself.is_none() => (String::new(), Some(&path.path)),
        Type::Group(group) => base(&group.elem),
        Type::Paren(inner) => base(&inner.elem),
        Type::Reference(reference) => {
            let (inner, path) = base(&reference.elem);
            let sign = if reference.mutability.is_some() { "&mut " } else { "&" };
            (format!("{sign}{inner}"), path)
        }
        Type::TraitObject(object) => {
            let first = object.bounds.iter().find_map(|bound| match bound {
                TypeParamBound::Trait(bound) => Some(&bound.path),
                _ => None,
            });
            ("dyn ".to_owned(), first)
        }
        _ => (String::new(), None),
    }
}

/// Collects the paths of a header.
struct Paths(Vec<Vec<String>>);

impl<'ast> Visit<'ast> for Paths {
    fn visit_path(&mut self, path: &'ast Path) {
        self.0.push(text::segments(path));
        syn::visit::visit_path(self, path);
    }
}
