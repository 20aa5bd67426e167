//! Lists what users can name: every public path, and what belongs to the item there.

use std::collections::{BTreeMap, BTreeSet};

use syn::{Attribute, Fields, ImplItem, Item, TraitItem, Visibility};

use crate::attributes;
use crate::implementations;
use crate::modules::{Library, head};
use crate::resolution::Definition;

const CRATE: &str = "forkpool";

/// The public paths of each item that users reach.
pub type Reached = BTreeMap<Definition, BTreeSet<String>>;

/// A name that users find in a module, and what it means.
type Entry = (String, Definition);

/// Returns the sorted lines of the listing.
pub fn list(library: &Library) -> BTreeSet<String> {
    let mut walk = Walk { library, reached: Reached::new(), lines: BTreeSet::new() };
    walk.module(0, CRATE, &mut Vec::new());
    let Walk { reached, mut lines, .. } = walk;
    for (definition, paths) in &reached {
        for path in paths {
            lines.insert(line(library, definition, path));
        }
        if let Some(item) = library.item(definition).filter(|_| matches!(definition, Definition::Item(..))) {
            members(item, shortest(paths), &mut lines);
        }
    }
    implementations::list(library, &reached, &mut lines);
    lines
}

/// Returns the path under which an item's members are listed.
pub fn shortest(paths: &BTreeSet<String>) -> &str {
    let shortest = paths.iter().min_by_key(|path| (path.matches("::").count(), *path));
    shortest.map(String::as_str).unwrap_or_default()
}

struct Walk<'a> {
    library: &'a Library,
    reached: Reached,
    lines: BTreeSet<String>,
}

impl Walk<'_> {
    /// Notes all names below a module. `above` has the modules that lead here, which may name each other.
    fn module(&mut self, id: usize, path: &str, above: &mut Vec<usize>) {
        above.push(id);
        for (name, definition) in entries(self.library, id, &mut Vec::new()) {
            let path = format!("{path}::{name}");
            match definition {
                Definition::Other(other) => {
                    self.lines.insert(format!("use {path} from {other}"));
                }
                definition => {
                    self.reached.entry(definition.clone()).or_default().insert(path.clone());
                    match definition {
                        Definition::Module(inner) if !above.contains(&inner) => {
                            self.module(inner, &path, above);
                        }
                        _ => {}
                    }
                }
            }
        }
        above.pop();
    }
}

/// Returns the names that users find in a module. `trail` has the modules whose globs led here.
fn entries(library: &Library, id: usize, trail: &mut Vec<usize>) -> Vec<Entry> {
    let module = &library.modules[id];
    let mut own: Vec<(Entry, bool)> = Vec::new();
    for child in &module.children {
        own.push(((child.name.clone(), Definition::Module(child.module)), child.is_public));
    }
    for (number, item) in module.items.iter().enumerate() {
        let head = head(item);
        own.extend(head.map(|head| ((head.name, Definition::Item(id, number)), head.is_public)));
    }
    if id == 0 {
        let macros = library.exported_macros().into_iter();
        own.extend(macros.map(|(head, definition)| ((head.name, definition), true)));
    }
    let mut from_globs = Vec::new();
    for item in module.uses.iter().filter(|item| item.is_public) {
        let exported = library.exported(id, item);
        match &item.name {
            Some(name) => {
                let entries = exported.into_iter().map(|definition| (name.clone(), definition));
                own.extend(entries.map(|entry| (entry, !item.is_hidden)));
            }
            None if item.is_hidden => {}
            None => {
                trail.push(id);
                from_globs.extend(exported.iter().flat_map(|source| all_of(library, source, trail)));
                trail.pop();
            }
        }
    }
    // A module's own name goes before one of the same kind from a glob, even if it is private.
    let taken: BTreeSet<_> =
        own.iter().map(|((name, definition), _)| (kind_of_name(library, definition), name.clone())).collect();
    from_globs
        .retain(|(name, definition)| !taken.contains(&(kind_of_name(library, definition), name.clone())));
    let public = own.into_iter().filter_map(|(entry, is_public)| is_public.then_some(entry));
    let mut found: Vec<Entry> = public.chain(from_globs).collect();
    found.retain(|(_, definition)| !is_hidden(library, definition));
    found
}

/// Returns what a glob brings from a module, an enum or another crate.
fn all_of(library: &Library, source: &Definition, trail: &mut Vec<usize>) -> Vec<Entry> {
    match source {
        Definition::Module(id) if trail.contains(id) => Vec::new(),
        Definition::Module(id) => entries(library, *id, trail),
        Definition::Other(path) => vec![("*".to_owned(), Definition::Other(format!("{path}::*")))],
        source => library.variants(source),
    }
}

/// Types, values and macros may share a name.
fn kind_of_name(library: &Library, definition: &Definition) -> &'static str {
    match library.item(definition).and_then(head).map(|head| head.kind) {
        Some("const" | "fn" | "static") => "value",
        Some("macro") => "macro",
        _ => "type",
    }
}

fn is_hidden(library: &Library, definition: &Definition) -> bool {
    match definition {
        Definition::Module(id) => library.modules[*id].is_hidden,
        Definition::Variant(_, _, number) => match library.item(definition) {
            Some(Item::Enum(item)) => attributes::is_hidden(&item.variants[*number].attrs),
            _ => false,
        },
        definition => {
            let head = library.item(definition).and_then(head);
            head.is_some_and(|head| attributes::is_hidden(head.attributes))
        }
    }
}

fn line(library: &Library, definition: &Definition, path: &str) -> String {
    match (definition, library.item(definition)) {
        (Definition::Variant(_, _, number), Some(Item::Enum(item))) => {
            named("variant", path, &item.variants[*number].attrs)
        }
        (_, Some(item)) => {
            let head = head(item).unwrap_or_else(|| panic!("{path} has no name of its own"));
            named(head.kind, path, head.attributes)
        }
        _ => format!("mod {path}"),
    }
}

fn named(kind: &str, path: &str, attributes: &[Attribute]) -> String {
    let suffix = if attributes::has(attributes, "non_exhaustive") { " (non-exhaustive)" } else { "" };
    format!("{kind} {path}{suffix}")
}

fn is_listed(attributes: &[Attribute]) -> bool {
    attributes::is_built(attributes) && !attributes::is_hidden(attributes)
}

/// Lists the fields, the variants and what a trait has.
fn members(item: &Item, path: &str, lines: &mut BTreeSet<String>) {
    match item {
        Item::Struct(item) => fields(&item.fields, path, false, lines),
        Item::Union(item) => fields(&Fields::Named(item.fields.clone()), path, false, lines),
        Item::Enum(item) => {
            for variant in item.variants.iter().filter(|variant| is_listed(&variant.attrs)) {
                let path = format!("{path}::{}", variant.ident);
                lines.insert(named("variant", &path, &variant.attrs));
                fields(&variant.fields, &path, true, lines);
            }
        }
        Item::Trait(item) => {
            for member in &item.items {
                let (kind, name, attributes) = match member {
                    TraitItem::Const(item) => ("const", &item.ident, &item.attrs),
                    TraitItem::Fn(item) => ("fn", &item.sig.ident, &item.attrs),
                    TraitItem::Type(item) => ("type", &item.ident, &item.attrs),
                    _ => panic!("the listing cannot read all of {path}"),
                };
                if is_listed(attributes) {
                    lines.insert(named(kind, &format!("{path}::{name}"), attributes));
                }
            }
        }
        _ => {}
    }
}

/// Lists the public fields, by their number if they have no name. Those of a variant are all public.
fn fields(fields: &Fields, path: &str, are_public: bool, lines: &mut BTreeSet<String>) {
    for (number, field) in fields.iter().enumerate() {
        let is_public = are_public || matches!(field.vis, Visibility::Public(_));
        if is_public && is_listed(&field.attrs) {
            let name = field.ident.as_ref().map_or_else(|| number.to_string(), ToString::to_string);
            lines.insert(format!("field {path}::{name}"));
        }
    }
}

/// Lists the public functions and constants of an `impl` without a trait.
pub fn inherent(items: &[ImplItem], path: &str, lines: &mut BTreeSet<String>) {
    for item in items {
        let (kind, name, visibility, attributes) = match item {
            ImplItem::Const(item) => ("const", &item.ident, &item.vis, &item.attrs),
            ImplItem::Fn(item) => ("fn", &item.sig.ident, &item.vis, &item.attrs),
            ImplItem::Type(item) => ("type", &item.ident, &item.vis, &item.attrs),
            _ => panic!("the listing cannot read all of the implementation of {path}"),
        };
        if matches!(visibility, Visibility::Public(_)) && is_listed(attributes) {
            lines.insert(format!("{kind} {path}::{name}"));
        }
    }
}
