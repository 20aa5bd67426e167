//! What a path means in a module: the modules, items and variants of this crate, or something of another crate.

use syn::Item;

use crate::attributes;
use crate::modules::{Head, Library, Use, head};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Definition {
    Module(usize),
    /// A module, and the number of the item there.
    Item(usize, usize),
    /// The same, and the number of the variant.
    Variant(usize, usize, usize),
    /// The path of an item of another crate.
    Other(String),
}

/// A meaning of a name, and whether the name is public where it was found.
type Meaning = (Definition, bool);

/// The `use` items that are being resolved, each a module and a number. One that leads back to itself means nothing.
type Trail = Vec<(usize, usize)>;

impl Library {
    /// Returns all meanings of a path: types, values and macros may share a name.
    pub fn meanings(&self, module: usize, path: &[String]) -> Vec<Definition> {
        let found = self.resolve(module, path, false, &mut Trail::new());
        found.into_iter().map(|(definition, _)| definition).collect()
    }

    /// Returns what a public `use` gives to users. It fails if that is nothing.
    pub fn exported(&self, module: usize, item: &Use) -> Vec<Definition> {
        let meanings = self.resolve(module, &item.path, item.is_absolute, &mut self.itself(module, item));
        let file = &self.modules[module].file;
        let path = item.path.join("::");
        assert!(!meanings.is_empty(), "{file}: the listing cannot find what `pub use {path}` re-exports");
        // A private name is left out if a public one of another kind is meant; a glob looks into any module.
        let has_public = item.name.is_some() && meanings.iter().any(|(_, is_public)| *is_public);
        let kept = meanings.into_iter().filter(|(_, is_public)| *is_public || !has_public);
        kept.map(|(definition, _)| definition).collect()
    }

    fn itself(&self, module: usize, item: &Use) -> Trail {
        let number = self.modules[module].uses.iter().position(|other| std::ptr::eq(other, item));
        number.map(|number| (module, number)).into_iter().collect()
    }

    fn resolve(&self, module: usize, path: &[String], is_absolute: bool, trail: &mut Trail) -> Vec<Meaning> {
        let mut above = module;
        let mut steps = path.iter().peekable();
        let mut is_relative = true;
        while let Some(step) = steps.peek().filter(|_| !is_absolute) {
            above = match step.as_str() {
                "crate" => 0,
                "self" => above,
                "super" => self.modules[above].parent.unwrap_or(0),
                _ => break,
            };
            is_relative = false;
            steps.next();
        }
        let mut found = vec![(Definition::Module(above), false)];
        if let Some(first) = steps.next_if(|_| is_relative) {
            found = if is_absolute { Vec::new() } else { self.look_up(above, first, trail) };
            if found.is_empty() && self.others.contains(first) {
                found.push((Definition::Other(first.clone()), true));
            }
        }
        for step in steps {
            let next = found.iter().flat_map(|(definition, _)| self.step(definition, step, trail));
            found = next.collect();
        }
        found.sort();
        found.dedup();
        found
    }

    fn step(&self, from: &Definition, name: &str, trail: &mut Trail) -> Vec<Meaning> {
        match from {
            Definition::Module(module) => self.look_up(*module, name, trail),
            Definition::Item(..) => {
                let variants = self.variants(from).into_iter();
                variants.filter(|(other, _)| other == name).map(|(_, variant)| (variant, true)).collect()
            }
            Definition::Variant(..) => Vec::new(),
            Definition::Other(path) => vec![(Definition::Other(format!("{path}::{name}")), true)],
        }
    }

    /// Returns the meanings of a name in a module. What the module declares or names goes before its globs.
    fn look_up(&self, id: usize, name: &str, trail: &mut Trail) -> Vec<Meaning> {
        let module = &self.modules[id];
        let children = module.children.iter().filter(|child| child.name == name);
        let mut found: Vec<Meaning> =
            children.map(|child| (Definition::Module(child.module), child.is_public)).collect();
        for (number, item) in module.items.iter().enumerate() {
            let head = head(item).filter(|head| head.name == name);
            found.extend(head.map(|head| (Definition::Item(id, number), head.is_public)));
        }
        if id == 0 {
            let macros = self.exported_macros().into_iter().filter(|(head, _)| head.name == name);
            found.extend(macros.map(|(_, definition)| (definition, true)));
        }
        for (number, item) in module.uses.iter().enumerate() {
            if item.name.as_deref() == Some(name) && !trail.contains(&(id, number)) {
                trail.push((id, number));
                let meanings = self.resolve(id, &item.path, item.is_absolute, trail);
                found.extend(meanings.into_iter().map(|(definition, _)| (definition, item.is_public)));
                trail.pop();
            }
        }
        if found.is_empty() { self.look_up_in_globs(id, name, trail) } else { found }
    }

    fn look_up_in_globs(&self, id: usize, name: &str, trail: &mut Trail) -> Vec<Meaning> {
        let mut found = Vec::new();
        for (number, item) in self.modules[id].uses.iter().enumerate() {
            if item.name.is_some() || trail.contains(&(id, number)) {
                continue;
            }
            trail.push((id, number));
            for (source, _) in self.resolve(id, &item.path, item.is_absolute, trail) {
                // What another crate has cannot be known.
                if !matches!(source, Definition::Other(_)) {
                    let meanings = self.step(&source, name, trail).into_iter();
                    found.extend(
                        meanings.map(|(definition, is_public)| (definition, is_public && item.is_public)),
                    );
                }
            }
            trail.pop();
        }
        found
    }

    /// Returns the macros that `#[macro_export]` puts into the root, from all modules.
    pub fn exported_macros(&self) -> Vec<(Head<'_>, Definition)> {
        let modules = self.modules.iter().enumerate();
        let items = modules.flat_map(|(id, module)| {
            module.items.iter().enumerate().map(move |(number, item)| (Definition::Item(id, number), item))
        });
        let heads = items.filter_map(|(definition, item)| Some((head(item)?, definition)));
        heads
            .filter(|(head, _)| head.kind == "macro" && attributes::has(head.attributes, "macro_export"))
            .collect()
    }

    /// Returns the variants of an enum with their names, and nothing for other items.
    pub fn variants(&self, definition: &Definition) -> Vec<(String, Definition)> {
        let (Definition::Item(module, number), Some(Item::Enum(item))) = (definition, self.item(definition))
        else {
            return Vec::new();
        };
        let variants = item.variants.iter().enumerate();
        let built = variants.filter(|(_, variant)| attributes::is_built(&variant.attrs));
        built
            .map(|(place, variant)| (variant.ident.to_string(), Definition::Variant(*module, *number, place)))
            .collect()
    }

    /// Returns the item, or for a variant its enum.
    pub fn item(&self, definition: &Definition) -> Option<&Item> {
        match definition {
            Definition::Item(module, number) | Definition::Variant(module, number, _) => {
                self.modules[*module].items.get(*number)
            }
            _ => None,
        }
    }
}
