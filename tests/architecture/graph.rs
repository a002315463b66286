//! Which file imports which, read from the sources as one platform compiles them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Ident, Item, UseTree};

use super::cfg::{Platform, excluded};

/// The text of each file, by its path below the crate's folder, with `/`.
pub(crate) type Sources = BTreeMap<String, String>;

/// What one file needs of another: the first line that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Import {
    pub(crate) line: usize,
    pub(crate) path: String,
}

/// The imports of one crate on one platform.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// By the file that imports and the file that defines.
    pub(crate) imports: BTreeMap<(String, String), Import>,
    /// The files that the crate is compiled from.
    pub(crate) files: BTreeSet<String>,
    /// What cannot be read, such as a module without a file.
    pub(crate) errors: Vec<String>,
}

/// Reads the crate whose root is `root`, such as `src/lib.rs`.
///
/// An import counts for the file that defines the item, whatever re-exports it on the way. A module
/// that re-exports items of its own children does not import them, unless its own code names them.
/// Code for tests does not count.
pub(crate) fn read(sources: &Sources, root: &str, platform: Platform) -> Graph {
    let mut reader = Reader {
        sources,
        platform,
        crate_: Crate::default(),
        errors: vec![],
        module: 0,
        folder: String::new(),
    };
    reader.crate_.modules.push(Module {
        file: root.to_owned(),
        ..Module::default()
    });
    reader.read_file(root, 0, folder_of(root));
    let mut graph = Graph {
        errors: reader.errors,
        ..Graph::default()
    };
    reader.crate_.link(&mut graph);
    graph
}

/// A module, in a file of its own or inside of another's.
#[derive(Debug, Default)]
struct Module {
    parent: Option<usize>,
    file: String,
    children: Vec<(String, usize)>,
    items: HashSet<String>,
    uses: Vec<Use>,
    /// Paths in code.
    paths: Vec<Named>,
}

/// One name of a `use`.
#[derive(Debug)]
struct Use {
    path: Named,
    /// `None` for all names.
    name: Option<String>,
    exported: bool,
}

#[derive(Clone, Debug)]
struct Named {
    segments: Vec<String>,
    line: usize,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Module(usize),
    /// Something that this module defines.
    Item(usize),
    /// Something of another crate.
    External,
}

#[derive(Debug, Default)]
struct Crate {
    modules: Vec<Module>,
}

impl Crate {
    /// The places in which a path may be defined, as `module` sees it.
    fn resolve(
        &self,
        module: usize,
        segments: &[String],
        seen: &mut HashSet<(usize, String)>,
    ) -> Vec<Target> {
        let mut at = module;
        let mut rest = segments;
        let mut inside = false;
        while let [first, others @ ..] = rest {
            match first.as_str() {
                "crate" => at = 0,
                "self" => {}
                "super" => at = self.modules[at].parent.unwrap_or(0),
                _ => break,
            }
            inside = true;
            rest = others;
        }
        while let [name, others @ ..] = rest {
            let found = self.look_up(at, name, seen);
            rest = others;
            if rest.is_empty() && !found.is_empty() {
                return found;
            }
            let child = found.iter().find_map(|it| match it {
                Target::Module(child) => Some(*child),
                _ => None,
            });
            match child {
                Some(child) => at = child,
                None if !found.is_empty() => return found,
                // A macro may have made it, or it is of another crate.
                None if inside => return vec![Target::Item(at)],
                None => return vec![Target::External],
            }
            inside = true;
        }
        vec![Target::Module(at)]
    }

    /// What a name stands for in a module. A module and a function may have the same one.
    fn look_up(&self, at: usize, name: &str, seen: &mut HashSet<(usize, String)>) -> Vec<Target> {
        if !seen.insert((at, name.to_owned())) {
            return vec![];
        }
        let module = &self.modules[at];
        let mut found = vec![];
        found.extend(
            (module.children.iter())
                .filter(|(child, _)| child == name)
                .map(|(_, child)| Target::Module(*child)),
        );
        if module.items.contains(name) {
            found.push(Target::Item(at));
        }
        for it in &module.uses {
            if it.name.as_deref() == Some(name) {
                found.extend(self.resolve(at, &it.path.segments, seen));
            }
        }
        if found.is_empty() {
            for it in module.uses.iter().filter(|it| it.name.is_none()) {
                let all = self.resolve(at, &it.path.segments, seen);
                for target in all {
                    if let Target::Module(from) = target {
                        found.extend(self.look_up(from, name, seen));
                    }
                }
            }
        }
        seen.remove(&(at, name.to_owned()));
        found.dedup();
        found
    }

    fn link(&self, graph: &mut Graph) {
        let mut mentioned: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
        for module in &self.modules {
            graph.files.insert(module.file.clone());
            mentioned
                .entry(&module.file)
                .or_default()
                .extend(module.paths.iter().map(|it| it.segments[0].as_str()));
        }
        for (id, module) in self.modules.iter().enumerate() {
            let file = module.file.as_str();
            for it in &module.uses {
                let wanted = match &it.name {
                    Some(name) => mentioned[file].contains(name.as_str()),
                    None => !it.exported,
                };
                for target in self.resolve(id, &it.path.segments, &mut HashSet::new()) {
                    let defined = match target {
                        Target::Item(defined) => defined,
                        Target::Module(all) if it.name.is_none() => all,
                        // What is used of the module is in paths.
                        Target::Module(_) | Target::External => continue,
                    };
                    if wanted || !self.is_below(defined, file) {
                        self.add(graph, id, defined, &it.path);
                    }
                }
            }
            for path in module.paths.iter().filter(|it| it.segments.len() > 1) {
                for target in self.resolve(id, &path.segments, &mut HashSet::new()) {
                    if let Target::Item(defined) = target {
                        self.add(graph, id, defined, path);
                    }
                }
            }
        }
    }

    /// Whether the module is in a file whose module is a child of one in `file`.
    fn is_below(&self, module: usize, file: &str) -> bool {
        let mut at = self.modules[module].parent;
        while let Some(parent) = at {
            if self.modules[parent].file == file {
                return true;
            }
            at = self.modules[parent].parent;
        }
        false
    }

    fn add(&self, graph: &mut Graph, from: usize, to: usize, path: &Named) {
        let [from, to] = [from, to].map(|it| self.modules[it].file.clone());
        if from != to {
            let import = Import {
                line: path.line,
                path: path.segments.join("::"),
            };
            let first = graph.imports.entry((from, to)).or_insert(import.clone());
            if import.line < first.line {
                *first = import;
            }
        }
    }
}

struct Reader<'a> {
    sources: &'a Sources,
    platform: Platform,
    crate_: Crate,
    errors: Vec<String>,
    /// The module that is being read.
    module: usize,
    /// Where its children's files are.
    folder: String,
}

impl Reader<'_> {
    fn read_file(&mut self, file: &str, module: usize, folder: String) {
        let Some(text) = self.sources.get(file) else {
            self.errors.push(format!("{file}: no such file"));
            return;
        };
        let parsed = match syn::parse_file(text) {
            Ok(parsed) => parsed,
            Err(e) => {
                let line = e.span().start().line;
                self.errors.push(format!("{file}:{line}: {e}"));
                return;
            }
        };
        let outer = (self.module, std::mem::replace(&mut self.folder, folder));
        self.module = module;
        for item in &parsed.items {
            self.visit_item(item);
        }
        (self.module, self.folder) = outer;
    }

    fn here(&mut self) -> &mut Module {
        &mut self.crate_.modules[self.module]
    }

    fn define(&mut self, name: &Ident) {
        let name = name.to_string();
        self.here().items.insert(name);
    }

    fn path(&mut self, segments: Vec<String>, line: usize) {
        self.here().paths.push(Named { segments, line });
    }

    fn use_tree(&mut self, tree: &UseTree, before: &mut Vec<String>, exported: bool) {
        let (mut segments, name, line) = match tree {
            UseTree::Path(it) => {
                before.push(it.ident.to_string());
                self.use_tree(&it.tree, before, exported);
                before.pop();
                return;
            }
            UseTree::Group(it) => {
                for tree in &it.items {
                    self.use_tree(tree, before, exported);
                }
                return;
            }
            UseTree::Name(it) => (
                vec![it.ident.to_string()],
                Some(it.ident.to_string()),
                it.span().start().line,
            ),
            UseTree::Rename(it) => (
                vec![it.ident.to_string()],
                Some(it.rename.to_string()),
                it.span().start().line,
            ),
            UseTree::Glob(it) => (vec![], None, it.span().start().line),
        };
        let mut path = before.clone();
        let mut name = name;
        // `use a::{self}` names `a`.
        if segments == ["self"] && !path.is_empty() {
            segments.clear();
            if name.as_deref() == Some("self") {
                name = path.last().cloned();
            }
        }
        path.append(&mut segments);
        let path = Named {
            segments: path,
            line,
        };
        self.here().uses.push(Use {
            path,
            name,
            exported,
        });
    }

    /// Paths in what a macro is given, as far as they look like paths.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let is = |at: usize, c: char| matches!(tokens.get(at), Some(TokenTree::Punct(it)) if it.as_char() == c);
        let mut i = 0;
        while i < tokens.len() {
            match &tokens[i] {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(first) => {
                    let field = i > 0 && is(i - 1, '.') && !(i > 1 && is(i - 2, '.'));
                    let absolute = i > 1 && is(i - 1, ':') && is(i - 2, ':');
                    let line = first.span().start().line;
                    let mut segments = vec![first.to_string()];
                    while is(i + 1, ':') && is(i + 2, ':') {
                        let Some(TokenTree::Ident(next)) = tokens.get(i + 3) else {
                            break;
                        };
                        segments.push(next.to_string());
                        i += 3;
                    }
                    if !field && !absolute {
                        self.path(segments, line);
                    }
                }
                _ => {}
            }
            i += 1;
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if excluded(attributes(item), self.platform) {
            return;
        }
        match item {
            Item::Const(it) => self.define(&it.ident),
            Item::Enum(it) => self.define(&it.ident),
            Item::Fn(it) => self.define(&it.sig.ident),
            Item::Macro(it) => it.ident.iter().for_each(|name| self.define(name)),
            Item::Static(it) => self.define(&it.ident),
            Item::Struct(it) => self.define(&it.ident),
            Item::Trait(it) => self.define(&it.ident),
            Item::TraitAlias(it) => self.define(&it.ident),
            Item::Type(it) => self.define(&it.ident),
            Item::Union(it) => self.define(&it.ident),
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        let parent = self.module;
        let id = self.crate_.modules.len();
        let mut module = Module {
            parent: Some(parent),
            file: self.here().file.clone(),
            ..Module::default()
        };
        self.here().children.push((name.clone(), id));
        if let Some((_, items)) = &item.content {
            self.crate_.modules.push(module);
            let folder = format!("{}/{name}", self.folder);
            let folder = std::mem::replace(&mut self.folder, folder);
            self.module = id;
            for item in items {
                self.visit_item(item);
            }
            (self.module, self.folder) = (parent, folder);
            return;
        }
        let (file, folder) = match path_attribute(&item.attrs) {
            Some(path) => {
                let file = format!("{}/{path}", folder_of(&module.file));
                let folder = folder_of(&file);
                (file, folder)
            }
            None => {
                let folder = format!("{}/{name}", self.folder);
                let inside = format!("{folder}/mod.rs");
                match self.sources.contains_key(&inside) {
                    true => (inside, folder),
                    false => (format!("{folder}.rs"), folder),
                }
            }
        };
        module.file.clone_from(&file);
        self.crate_.modules.push(module);
        self.read_file(&file, id, folder);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let exported = !matches!(item.vis, syn::Visibility::Inherited);
        if item.leading_colon.is_none() {
            self.use_tree(&item.tree, &mut vec![], exported);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let attributes: &[Attribute] = match item {
            syn::ImplItem::Const(it) => &it.attrs,
            syn::ImplItem::Fn(it) => &it.attrs,
            syn::ImplItem::Type(it) => &it.attrs,
            _ => &[],
        };
        if !excluded(attributes, self.platform) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let segments = path.segments.iter().map(|it| it.ident.to_string());
            self.path(segments.collect(), path.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_pat_ident(&mut self, pattern: &'ast syn::PatIdent) {
        // A constant, or else a variable.
        let name = pattern.ident.to_string();
        if name.starts_with(char::is_uppercase) {
            self.path(vec![name], pattern.span().start().line);
        }
        visit::visit_pat_ident(self, pattern);
    }

    fn visit_macro(&mut self, it: &'ast syn::Macro) {
        self.visit_path(&it.path);
        self.tokens(it.tokens.clone());
    }

    // These say who may use something, and not what is used.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(it) => &it.attrs,
        Item::Enum(it) => &it.attrs,
        Item::ExternCrate(it) => &it.attrs,
        Item::Fn(it) => &it.attrs,
        Item::ForeignMod(it) => &it.attrs,
        Item::Impl(it) => &it.attrs,
        Item::Macro(it) => &it.attrs,
        Item::Mod(it) => &it.attrs,
        Item::Static(it) => &it.attrs,
        Item::Struct(it) => &it.attrs,
        Item::Trait(it) => &it.attrs,
        Item::TraitAlias(it) => &it.attrs,
        Item::Type(it) => &it.attrs,
        Item::Union(it) => &it.attrs,
        Item::Use(it) => &it.attrs,
        _ => &[],
    }
}

/// What `#[path = "…"]` says.
fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    let attribute = attributes.iter().find(|it| it.path().is_ident("path"))?;
    let syn::Meta::NameValue(it) = &attribute.meta else {
        return None;
    };
    match &it.value {
        syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(path),
            ..
        }) => Some(path.value()),
        _ => None,
    }
}

fn folder_of(file: &str) -> String {
    match file.rsplit_once('/') {
        Some((folder, _)) => folder.to_owned(),
        None => String::new(),
    }
}
