//! Arrows between modules point down: what a module uses does not, by any way round, use the module. So a crate can be read
//! from the bottom up.
//!
//! Of this crate that holds for every file, of the others of the workspace for the rooms directly under their roots. Read
//! from the sources without tests: `mod` declarations, `use` trees, and paths that begin with `crate`, `self`, `super` or
//! a module. A name that a module only passes on (`pub use`) belongs to the module that defines it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Names from the root of the crate on; empty for the root itself.
type Name = Vec<String>;

/// What stands in one file.
#[derive(Default)]
struct Module {
    /// Names that stand for something elsewhere, passed on or not.
    imports: BTreeMap<String, Name>,
    /// Paths used, as written but for the aliases of `use`.
    uses: BTreeSet<Name>,
}

#[derive(Default)]
struct Crate {
    modules: BTreeMap<Name, Module>,
}

impl Crate {
    /// Reads the crate whose root is `file`.
    fn read(file: &Path) -> Self {
        let mut all = Self::default();
        let folder = file.parent().expect("a source file has a folder");
        all.read_file(file, folder, &Vec::new());
        all
    }

    /// Reads module `name` from `file`; its children are in `folder`.
    fn read_file(&mut self, file: &Path, folder: &Path, name: &Name) {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let tokens = text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut module = Module::default();
        let mut children = Vec::new();
        scan(tokens, name, name, &mut module, &mut children);
        self.modules.insert(name.clone(), module);
        for child in children {
            let name = [name.clone(), vec![child.clone()]].concat();
            let [alone, inside] = [folder.join(format!("{child}.rs")), folder.join(&child).join("mod.rs")];
            self.read_file(if alone.exists() { &alone } else { &inside }, &folder.join(&child), &name);
        }
    }

    /// The module that defines what `path` names, and where that name is passed on the one behind it; `None` for other
    /// crates.
    fn definer(&self, path: &[String], depth: usize) -> Option<Name> {
        assert!(depth < 20, "names passed on in a circle: {path:?}");
        let known = (0..=path.len()).rev().find(|&n| self.modules.contains_key(&path[..n]))?;
        let module = path[..known].to_vec();
        let Some(item) = path.get(known) else { return Some(module) };
        match self.modules[&module].imports.get(item) {
            Some(source) => {
                let source = [source.clone(), path[known + 1..].to_vec()].concat();
                // What comes from another crate is not ours to order.
                self.absolute(&module, &source).and_then(|source| self.definer(&source, depth + 1))
            }
            None => Some(module),
        }
    }

    /// `path` as seen in `module`, from the root on; `None` for names of other crates and local ones.
    fn absolute(&self, module: &Name, path: &[String]) -> Option<Name> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([module.as_slice(), rest].concat()),
            "super" => self.absolute(&module[..module.len().checked_sub(1)?].to_vec(), &with_self(rest)),
            _ => {
                let child = [module.clone(), vec![first.clone()]].concat();
                if self.modules.contains_key(&child) {
                    return Some([child.as_slice(), rest].concat());
                }
                let source = self.modules.get(module)?.imports.get(first)?;
                (source.first() != Some(first)).then_some(())?;
                self.absolute(module, &[source.as_slice(), rest].concat())
            }
        }
    }

    /// For every module those it uses.
    fn arrows(&self) -> BTreeMap<Name, BTreeSet<Name>> {
        let target = |name: &Name, path: &Name| self.definer(&self.absolute(name, path)?, 0).filter(|to| to != name);
        let all = self.modules.iter();
        all.map(|(name, module)| (name.clone(), module.uses.iter().filter_map(|path| target(name, path)).collect()))
            .collect()
    }
}

/// A path inside a module whose name has been taken off.
fn with_self(rest: &[String]) -> Name {
    match rest.first().map(String::as_str) {
        Some("super" | "self" | "crate") => rest.to_vec(),
        _ => [vec!["self".to_owned()], rest.to_vec()].concat(),
    }
}

/// Collects what `tokens`, which stand in the module `here` of the file of module `file`, use and declare.
fn scan(tokens: TokenStream, file: &Name, here: &Name, module: &mut Module, children: &mut Vec<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut i = 0;
    while i < tokens.len() {
        if is_punct(tokens.get(i), '#') && matches!(tokens.get(i + 1), Some(TokenTree::Group(_))) {
            let test = tokens[i + 1].to_string().replace(' ', "");
            i += 2;
            if test.starts_with("[cfg(test)") || test.starts_with("[cfg(all(test") {
                i = end_of_item(&tokens, i);
            }
            continue;
        }
        match &tokens[i] {
            TokenTree::Ident(word) if word == "use" => {
                let end = (i..tokens.len()).find(|&n| is_punct(tokens.get(n), ';')).unwrap_or(tokens.len());
                let mut paths = Vec::new();
                use_tree(&tokens[i + 1..end], &mut Vec::new(), &mut paths);
                for (path, alias) in paths {
                    let path = inside(file, here, path);
                    if alias != "*" {
                        module.imports.insert(alias, path.clone());
                    }
                    module.uses.insert(path);
                }
                i = end;
            }
            TokenTree::Ident(word) if word == "mod" && matches!(tokens.get(i + 1), Some(TokenTree::Ident(_))) => {
                let name = tokens[i + 1].to_string();
                match tokens.get(i + 2) {
                    Some(TokenTree::Group(body)) => {
                        let here = [here.clone(), vec![name]].concat();
                        scan(body.stream(), file, &here, module, children);
                    }
                    _ => children.push(name),
                }
                i += 3;
            }
            TokenTree::Ident(_) => {
                let mut path = Vec::new();
                while let Some(TokenTree::Ident(word)) = tokens.get(i) {
                    path.push(word.to_string());
                    i += 1;
                    if !(is_punct(tokens.get(i), ':') && is_punct(tokens.get(i + 1), ':')) {
                        break;
                    }
                    i += 2;
                }
                if path.len() > 1 {
                    module.uses.insert(inside(file, here, path));
                }
            }
            TokenTree::Group(group) => {
                scan(group.stream(), file, here, module, children);
                i += 1;
            }
            _ => i += 1,
        }
    }
}

/// A path of a module written inside a file, `here`, as if it stood in the module of the file.
fn inside(file: &Name, here: &Name, path: Name) -> Name {
    let mut left = here.len() - file.len();
    let mut rest = path.as_slice();
    while let (1.., Some("super")) = (left, rest.first().map(String::as_str)) {
        left -= 1;
        rest = &rest[1..];
    }
    if rest.len() == path.len() { path } else { with_self(rest) }
}

/// Every path of a `use` tree with the name it gets.
fn use_tree(tokens: &[TokenTree], prefix: &mut Name, paths: &mut Vec<(Name, String)>) {
    let mut path = prefix.clone();
    let mut alias = None;
    let mut i = 0;
    while i < tokens.len() {
        match &tokens[i] {
            TokenTree::Ident(word) if word == "as" => {
                alias = tokens.get(i + 1).map(ToString::to_string);
                i += 1;
            }
            TokenTree::Ident(word) => path.push(word.to_string()),
            TokenTree::Punct(star) if star.as_char() == '*' => alias = Some("*".to_owned()),
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                for part in inner.split(|token| is_punct(Some(token), ',')).filter(|part| !part.is_empty()) {
                    use_tree(part, &mut path.clone(), paths);
                }
                return;
            }
            _ => {}
        }
        i += 1;
    }
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    if let Some(last) = path.last().cloned() {
        paths.push((path, alias.unwrap_or(last)));
    }
}

/// Past the item that begins at `i`: to its semicolon or its body, whichever comes first.
fn end_of_item(tokens: &[TokenTree], mut i: usize) -> usize {
    while let Some(token) = tokens.get(i) {
        i += 1;
        let body = matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
        if body || is_punct(Some(token), ';') || is_punct(Some(token), ',') {
            break;
        }
    }
    i
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

/// A way along arrows from a name back to itself.
fn circle(arrows: &BTreeMap<Name, BTreeSet<Name>>) -> Option<Vec<Name>> {
    fn visit(
        at: &Name,
        arrows: &BTreeMap<Name, BTreeSet<Name>>,
        way: &mut Vec<Name>,
        done: &mut BTreeSet<Name>,
    ) -> Option<Vec<Name>> {
        if let Some(start) = way.iter().position(|name| name == at) {
            return Some(way[start..].to_vec());
        }
        if done.contains(at) {
            return None;
        }
        way.push(at.clone());
        let found = arrows.get(at).into_iter().flatten().find_map(|to| visit(to, arrows, way, done));
        way.pop();
        done.insert(at.clone());
        found
    }
    let mut done = BTreeSet::new();
    arrows.keys().find_map(|name| visit(name, arrows, &mut Vec::new(), &mut done))
}

/// The root file of a crate.
fn root(folder: &Path) -> PathBuf {
    let library = folder.join("src/lib.rs");
    if library.exists() { library } else { folder.join("src/main.rs") }
}

fn shown(way: &[Name]) -> String {
    way.iter().map(|name| name.join("::")).collect::<Vec<_>>().join(" -> ")
}

#[test]
fn no_file_of_this_crate_uses_itself_by_a_way_round() {
    let here = Crate::read(&root(Path::new(env!("CARGO_MANIFEST_DIR"))));
    let arrows = here.arrows();
    assert!(arrows.len() > 50, "only {} modules found", arrows.len());
    // What everybody can see: the reader finds arrows of every kind.
    let uses = |from: &[&str], to: &[&str]| {
        let name = |path: &[&str]| path.iter().map(|part| (*part).to_owned()).collect::<Name>();
        arrows[&name(from)].contains(&name(to))
    };
    assert!(uses(&["matrix"], &["pool"]), "a name passed on by the root");
    assert!(uses(&["arch", "x86", "avx2", "dot"], &["arch", "x86", "ahead"]), "a path from the root");
    assert!(uses(&["engine", "ternary"], &["engine", "ternary", "input"]), "a child");
    assert!(uses(&["table"], &["generic", "attention", "floats"]), "a path in a macro");
    assert!(!uses(&["pool"], &["matrix"]));
    if let Some(way) = circle(&arrows) {
        panic!("a circle of modules: {}", shown(&way));
    }
    // Privacy lets nobody outside `arch` name the rooms of instruction sets; inside it, only one may.
    let rooms = ["aarch64", "scalar", "wasm32", "x86"];
    let room = |name: &Name| name.get(1).filter(|room| name[0] == "arch" && rooms.contains(&room.as_str())).cloned();
    for (name, used) in &arrows {
        let others: Vec<String> =
            used.iter().filter_map(&room).filter(|other| room(name).as_ref() != Some(other)).collect();
        assert!(others.is_empty() || name.join("::") == "arch::dispatch", "{} uses {others:?}", name.join("::"));
    }
}

#[test]
fn no_room_of_any_crate_uses_itself_by_a_way_round() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = 0;
    for entry in fs::read_dir(&crates).expect("the folder of the crates").flatten() {
        let root = root(&entry.path());
        if !root.exists() {
            continue;
        }
        found += 1;
        let mut rooms: BTreeMap<Name, BTreeSet<Name>> = BTreeMap::new();
        for (name, used) in Crate::read(&root).arrows() {
            // The root is no room: what it passes on is not its own.
            let Some(room) = name.first() else { continue };
            let used = used.iter().filter_map(|used| used.first()).filter(|other| *other != room);
            rooms.entry(vec![room.clone()]).or_default().extend(used.map(|other| vec![other.clone()]));
        }
        if let Some(way) = circle(&rooms) {
            panic!("a circle of rooms in {}: {}", entry.file_name().display(), shown(&way));
        }
    }
    assert!(found > 3, "only {found} crates found");
}
