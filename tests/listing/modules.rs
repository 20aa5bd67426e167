//! The tree of modules, read from their files.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::TokenStream;
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree, Visibility};

use crate::expansion;
use crate::{attributes, text};

/// All modules of a crate. The first is its root.
pub struct Library {
    pub modules: Vec<Module>,
    /// The crates that a path may begin with.
    pub others: BTreeSet<String>,
}

pub struct Module {
    pub file: String,
    pub parent: Option<usize>,
    pub is_hidden: bool,
    pub children: Vec<Child>,
    pub items: Vec<Item>,
    pub uses: Vec<Use>,
}

pub struct Child {
    pub name: String,
    pub is_public: bool,
    pub module: usize,
}

/// One name that a `use` brings into its module, or all of a module's.
pub struct Use {
    pub is_public: bool,
    pub is_hidden: bool,
    /// Whether the path begins with `::`.
    pub is_absolute: bool,
    pub path: Vec<String>,
    /// Without a name this is a glob.
    pub name: Option<String>,
}

/// What the walker asks of an item, whatever its kind.
pub struct Head<'a> {
    pub kind: &'static str,
    pub name: String,
    pub is_public: bool,
    pub attributes: &'a [Attribute],
}

/// Where a module stands: its file, the folder that a `#[path]` starts from, and the folder of its modules.
struct Place {
    file: String,
    beside: String,
    inside: String,
}

/// Reads the root file and every module that it declares. `read` returns the text of a file, if there is one.
pub fn load(root: &str, others: BTreeSet<String>, read: &dyn Fn(&str) -> Option<String>) -> Library {
    let mut loader = Loader { read, modules: Vec::new(), macros: BTreeMap::new() };
    let place = Place::of_folder(root);
    let file = loader.parse(root);
    loader.add_module(None, false, &place, file.items);
    Library { modules: loader.modules, others }
}

struct Loader<'a> {
    read: &'a dyn Fn(&str) -> Option<String>,
    modules: Vec<Module>,
    /// The macros that were defined so far.
    macros: BTreeMap<String, TokenStream>,
}

impl Loader<'_> {
    fn parse(&self, path: &str) -> syn::File {
        let text = (self.read)(path).unwrap_or_else(|| panic!("{path} is not there"));
        syn::parse_file(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn add_module(
        &mut self,
        parent: Option<usize>,
        is_hidden: bool,
        place: &Place,
        items: Vec<Item>,
    ) -> usize {
        let id = self.modules.len();
        let file = place.file.clone();
        let (children, uses) = (Vec::new(), Vec::new());
        self.modules.push(Module { file, parent, is_hidden, children, items: Vec::new(), uses });
        for item in items {
            self.add_item(id, place, item);
        }
        id
    }

    fn add_item(&mut self, id: usize, place: &Place, item: Item) {
        if !attributes::is_built(attributes_of(&item, &place.file)) {
            return;
        }
        match item {
            Item::Mod(module) => self.add_child(id, place, module),
            Item::Use(item) => self.modules[id].uses.extend(uses(&item)),
            Item::ExternCrate(item) => {
                let other = item.ident.to_string();
                let name = item.rename.map_or_else(|| other.clone(), |(_, name)| name.to_string());
                let is_absolute = other != "self";
                let path = vec![if is_absolute { other } else { "crate".to_owned() }];
                let is_public = matches!(item.vis, Visibility::Public(_));
                let is_hidden = attributes::is_hidden(&item.attrs);
                self.modules[id].uses.push(Use { is_public, is_hidden, is_absolute, path, name: Some(name) });
            }
            Item::Macro(call) if call.ident.is_none() => {
                for item in self.expand(place, &call.mac) {
                    self.add_item(id, place, item);
                }
            }
            // `const _: () = { … };` is a way to write implementations.
            Item::Const(item) if item.ident == "_" => {
                if let syn::Expr::Block(block) = *item.expr {
                    for statement in block.block.stmts {
                        if let syn::Stmt::Item(item) = statement {
                            self.add_item(id, place, item);
                        }
                    }
                }
            }
            other => {
                if let Item::Macro(definition) = &other {
                    let name = definition.ident.as_ref().map(ToString::to_string);
                    self.macros.extend(name.map(|name| (name, definition.mac.tokens.clone())));
                }
                self.modules[id].items.push(other);
            }
        }
    }

    fn add_child(&mut self, id: usize, place: &Place, module: ItemMod) {
        let name = module.ident.to_string();
        let mut attributes = module.attrs;
        let (place, items) = match module.content {
            Some((_, items)) => (place.inline(&name), items),
            None => {
                let place = place.child(&name, attributes::file(&attributes), self.read);
                let file = self.parse(&place.file);
                attributes.extend(file.attrs);
                (place, file.items)
            }
        };
        if attributes::is_built(&attributes) {
            let is_public = matches!(module.vis, Visibility::Public(_));
            let child = self.add_module(Some(id), attributes::is_hidden(&attributes), &place, items);
            self.modules[id].children.push(Child { name, is_public, module: child });
        }
    }

    /// Returns the items that a call of a macro makes.
    fn expand(&self, place: &Place, call: &syn::Macro) -> Vec<Item> {
        let name = text::segments(&call.path).pop().unwrap_or_default();
        if name == "compile_error" {
            return Vec::new();
        }
        if name == "thread_local" {
            let is_public = text::compact(&call.tokens).contains("pub static");
            assert!(!is_public, "{}: the listing cannot name a public static of thread_local!", place.file);
            return Vec::new();
        }
        let rules = self.macros.get(&name);
        let rules = rules.unwrap_or_else(|| panic!("{}: the listing does not know {name}!", place.file));
        let made = expansion::expand(&name, rules.clone(), call.tokens.clone());
        let made = syn::parse2::<syn::File>(made);
        made.unwrap_or_else(|error| panic!("{}: what {name}! makes: {error}", place.file)).items
    }
}

impl Place {
    /// A file whose modules lie beside it.
    fn of_folder(file: &str) -> Place {
        let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        Place { file: file.to_owned(), beside: folder.clone(), inside: folder }
    }

    fn child(&self, name: &str, named: Option<String>, read: &dyn Fn(&str) -> Option<String>) -> Place {
        if let Some(named) = named {
            return Place::of_folder(&plain(&format!("{}/{named}", self.beside)));
        }
        let inside = plain(&format!("{}/{name}", self.inside));
        let (file, folder) = (format!("{inside}.rs"), format!("{inside}/mod.rs"));
        if read(&file).is_some() {
            Place { file, beside: self.inside.clone(), inside }
        } else {
            assert!(read(&folder).is_some(), "{}: mod {name} has neither {file} nor {folder}", self.file);
            Place::of_folder(&folder)
        }
    }

    fn inline(&self, name: &str) -> Place {
        let inside = plain(&format!("{}/{name}", self.inside));
        Place { file: self.file.clone(), beside: inside.clone(), inside }
    }
}

/// Returns a path without steps upwards.
fn plain(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match part {
            ".." => drop(kept.pop()),
            _ => kept.push(part),
        }
    }
    kept.join("/")
}

fn uses(item: &ItemUse) -> Vec<Use> {
    let mut found = Vec::new();
    leaves(&item.tree, &mut Vec::new(), &mut |path, name| {
        found.push(Use {
            is_public: matches!(item.vis, Visibility::Public(_)),
            is_hidden: attributes::is_hidden(&item.attrs),
            is_absolute: item.leading_colon.is_some(),
            path,
            name,
        });
    });
    found
}

fn leaves(tree: &UseTree, above: &mut Vec<String>, found: &mut dyn FnMut(Vec<String>, Option<String>)) {
    // `a::{self}` is `a`.
    let with = |above: &[String], last: &syn::Ident| {
        let own = (last != "self" || above.is_empty()).then(|| last.to_string());
        above.iter().cloned().chain(own).collect::<Vec<String>>()
    };
    match tree {
        UseTree::Path(path) => {
            above.push(path.ident.to_string());
            leaves(&path.tree, above, found);
            above.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, above, found)),
        UseTree::Glob(_) => found(above.clone(), None),
        UseTree::Name(name) => {
            let path = with(above, &name.ident);
            let name = path.last().cloned();
            found(path, name);
        }
        UseTree::Rename(rename) => {
            found(with(above, &rename.ident), Some(rename.rename.to_string()));
        }
    }
}

/// Describes an item that has a name of its own.
pub fn head(item: &Item) -> Option<Head<'_>> {
    let (kind, name, visibility, attributes) = match item {
        Item::Const(item) => ("const", &item.ident, &item.vis, &item.attrs),
        Item::Enum(item) => ("enum", &item.ident, &item.vis, &item.attrs),
        Item::Fn(item) => ("fn", &item.sig.ident, &item.vis, &item.attrs),
        Item::Static(item) => ("static", &item.ident, &item.vis, &item.attrs),
        Item::Struct(item) => ("struct", &item.ident, &item.vis, &item.attrs),
        Item::Trait(item) => ("trait", &item.ident, &item.vis, &item.attrs),
        Item::Type(item) => ("type", &item.ident, &item.vis, &item.attrs),
        Item::Union(item) => ("union", &item.ident, &item.vis, &item.attrs),
        Item::Macro(item) => ("macro", item.ident.as_ref()?, &Visibility::Inherited, &item.attrs),
        _ => return None,
    };
    let is_public = matches!(visibility, Visibility::Public(_));
    Some(Head { kind, name: name.to_string(), is_public, attributes })
}

fn attributes_of<'a>(item: &'a Item, file: &str) -> &'a [Attribute] {
    match item {
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::ForeignMod(item) => {
            let is_public = text::compact(item).contains("pub ");
            assert!(!is_public, "{file}: the listing cannot name public items of an extern block");
            &item.attrs
        }
        other => match head(other) {
            Some(head) => head.attributes,
            None => panic!("{file}: the listing cannot read an item: {}", text::compact(other)),
        },
    }
}
