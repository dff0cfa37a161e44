//! Cycles between the files of one top-level module, and type names that are defined more than once.
//!
//! Files in a cycle cannot be read or tested one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use crate::layers::{is_name, module_of, read, source, source_files, without_comments};

/// Fewest references between files; if the scanner finds fewer, it is broken.
const REFERENCES_AT_LEAST: usize = 300;

/// A module path below the crate, such as `["store", "redis", "pool"]`.
type ModulePath = Vec<String>;

#[test]
fn files_of_a_module_form_no_cycles() {
    let graph = Graph::read();
    let references: usize = graph.uses.values().map(BTreeSet::len).sum();
    assert!(references >= REFERENCES_AT_LEAST, "only {references} references found");
    let name = |path: &ModulePath| path.join("::");
    let wrong: Vec<String> = graph
        .cycles()
        .iter()
        .map(|cycle| cycle.iter().map(name).collect::<Vec<_>>().join(", "))
        .collect();
    assert!(wrong.is_empty(), "files in cycles:\n  {}", wrong.join("\n  "));
}

#[test]
fn type_names_are_unique() {
    let mut definitions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in source_files().into_iter().filter(|file| !is_test(file)) {
        let location = file.strip_prefix(source()).expect("a file below src").display().to_string();
        for name in defined_types(&code(&file)) {
            definitions.entry(name).or_default().push(location.clone());
        }
    }
    assert!(definitions.len() > 400, "only {} types found", definitions.len());
    let duplicates: Vec<String> = definitions
        .iter()
        .filter(|(_, locations)| locations.len() > 1)
        .map(|(name, locations)| format!("{name}: {}", locations.join(", ")))
        .collect();
    assert!(duplicates.is_empty(), "several definitions:\n  {}", duplicates.join("\n  "));
}

#[test]
fn scanner_resolves_paths_to_files() {
    let files: BTreeSet<ModulePath> =
        ["store", "store::redis", "store::redis::pool", "store::cache"].map(path).into();
    let exports =
        BTreeMap::from([((path("store::redis"), "Pool".to_owned()), path("store::redis::pool"))]);
    let graph = Graph { files, exports, uses: BTreeMap::new() };
    let uses = |from: &str, text: &str| -> Vec<String> {
        graph.uses_in(&path(from), text).iter().map(|used| used.join("::")).collect()
    };
    assert_eq!(
        uses("store::cache", "use crate::store::redis::pool::Pool;"),
        ["store::redis::pool"]
    );
    assert_eq!(uses("store::cache", "use super::redis::Pool;"), ["store::redis::pool"]);
    assert_eq!(uses("store::cache", "use super::redis::Other;"), ["store::redis"]);
    assert_eq!(uses("store::redis::pool", "use super::super::cache::{A, B};"), ["store::cache"]);
    assert_eq!(uses("store::redis", "fn f() { pool::start() }"), ["store::redis::pool"]);
    assert_eq!(uses("store::redis", "pub use pool::Pool;"), Vec::<String>::new());
    assert_eq!(uses("store::redis", "use crate::upstream::Pool;"), Vec::<String>::new());
}

/// Which files use which others of the same top-level module.
struct Graph {
    files: BTreeSet<ModulePath>,
    /// Names that a file re-exports from a child, as in `pub use pool::Pool`.
    exports: BTreeMap<(ModulePath, String), ModulePath>,
    uses: BTreeMap<ModulePath, BTreeSet<ModulePath>>,
}

impl Graph {
    fn read() -> Graph {
        let texts: BTreeMap<ModulePath, String> = source_files()
            .iter()
            .filter(|file| !is_test(file) && !["lib", "main"].contains(&module_of(file).as_str()))
            .map(|file| (module_path(file), code(file)))
            .collect();
        let files = texts.keys().cloned().collect();
        let mut graph = Graph { files, exports: BTreeMap::new(), uses: BTreeMap::new() };
        for (file, text) in &texts {
            graph.exports.extend(graph.exports_in(file, text));
        }
        for (file, text) in &texts {
            let uses = graph.uses_in(file, text);
            graph.uses.insert(file.clone(), uses);
        }
        graph
    }

    fn exports_in(&self, file: &ModulePath, text: &str) -> Vec<((ModulePath, String), ModulePath)> {
        let statements = text.split(';').filter_map(re_export);
        let paths = statements.flat_map(expand);
        paths
            .filter_map(|used| {
                let name = used.last()?.clone();
                let target = self.resolve(&[file.clone(), used].concat())?;
                (target != *file).then(|| ((file.clone(), name), target))
            })
            .collect()
    }

    /// The files that a file uses, without re-exports.
    fn uses_in(&self, file: &ModulePath, text: &str) -> BTreeSet<ModulePath> {
        let mut found = BTreeSet::new();
        for statement in
            text.split_inclusive([';', '{', '}']).filter(|part| re_export(part).is_none())
        {
            found.extend(self.paths_in(file, statement));
        }
        let whole = text.split(';').filter(|part| re_export(part).is_none());
        found.extend(whole.flat_map(|part| self.paths_in(file, part)));
        found.retain(|used| used != file && used[0] == file[0]);
        found
    }

    fn paths_in(&self, file: &ModulePath, text: &str) -> BTreeSet<ModulePath> {
        let mut found = BTreeSet::new();
        for (at, _) in text.match_indices("::") {
            let start = text[..at].rfind(|letter| !is_name(letter)).map_or(0, |before| before + 1);
            if text[..start].ends_with("::") {
                continue;
            }
            for path in expand(&text[start..]) {
                found.extend(self.absolute(file, &path).and_then(|path| self.resolve(&path)));
            }
        }
        found
    }

    fn absolute(&self, file: &ModulePath, path: &[String]) -> Option<ModulePath> {
        let mut base = file.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => {
                base.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop()?;
                    rest = &rest[1..];
                }
            }
            child => {
                if !self.files.contains(&[file.clone(), vec![child.to_owned()]].concat()) {
                    return None;
                }
            }
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }

    /// The file that defines the last name of a path.
    fn resolve(&self, path: &[String]) -> Option<ModulePath> {
        let length = (1..=path.len()).rev().find(|length| self.files.contains(&path[..*length]))?;
        let file = path[..length].to_vec();
        let name = path.get(length).cloned().unwrap_or_default();
        Some(self.exports.get(&(file.clone(), name)).cloned().unwrap_or(file))
    }

    /// Groups of files that use each other, directly or through others.
    fn cycles(&self) -> Vec<Vec<ModulePath>> {
        let reachable: BTreeMap<&ModulePath, BTreeSet<&ModulePath>> =
            self.uses.keys().map(|file| (file, self.reachable(file))).collect();
        let mut groups: BTreeSet<Vec<ModulePath>> = BTreeSet::new();
        for (file, reached) in &reachable {
            let group: Vec<ModulePath> = reached
                .iter()
                .filter(|other| reachable.get(**other).is_some_and(|back| back.contains(*file)))
                .map(|other| (*other).clone())
                .collect();
            if group.len() > 1 {
                groups.insert(group);
            }
        }
        groups.into_iter().collect()
    }

    fn reachable<'a>(&'a self, file: &'a ModulePath) -> BTreeSet<&'a ModulePath> {
        let mut reached = BTreeSet::new();
        let mut pending = vec![file];
        while let Some(next) = pending.pop() {
            for used in self.uses.get(next).into_iter().flatten() {
                if reached.insert(used) {
                    pending.push(used);
                }
            }
        }
        reached
    }
}

/// The tree after `use` in a statement `pub use` or `pub(super) use`, relative to its file.
fn re_export(statement: &str) -> Option<&str> {
    let (before, tree) = statement.rsplit_once("use ")?;
    let visibility = before.trim_end();
    let is_public =
        visibility.ends_with("pub") || (visibility.ends_with(')') && visibility.contains("pub("));
    is_public.then(|| tree.trim().trim_start_matches("self::"))
}

/// All paths of a `use` tree or of a path in an expression.
fn expand(tree: &str) -> Vec<ModulePath> {
    let mut path = Vec::new();
    let mut rest = tree.trim_start();
    loop {
        let name: String = rest.chars().take_while(|letter| is_name(*letter)).collect();
        rest = &rest[name.len()..];
        path.push(name);
        let Some(after) = rest.strip_prefix("::") else { return vec![path] };
        if let Some(group) = after.strip_prefix('{') {
            let parts = split_group(group);
            return parts
                .into_iter()
                .flat_map(|part| expand(part).into_iter().map(|end| [path.clone(), end].concat()))
                .collect();
        }
        rest = after;
    }
}

fn split_group(group: &str) -> Vec<&str> {
    let (mut open, mut start, mut parts) = (0_usize, 0, Vec::new());
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => open += 1,
            '}' if open == 0 => {
                parts.push(&group[start..at]);
                break;
            }
            '}' => open -= 1,
            ',' if open == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn defined_types(text: &str) -> Vec<String> {
    let kinds = ["struct ", "enum ", "trait ", "union "];
    let lines = text.lines().map(|line| {
        let line = line.trim_start();
        line.strip_prefix("pub ")
            .or_else(|| line.strip_prefix("pub(")?.split_once(") ").map(|(_, rest)| rest))
            .unwrap_or(line)
    });
    lines
        .filter_map(|line| kinds.iter().find_map(|kind| line.strip_prefix(kind)))
        .map(|rest| rest.chars().take_while(|letter| is_name(*letter)).collect())
        .collect()
}

/// The code of a file without comments and unit tests.
fn code(file: &Path) -> String {
    let text = without_comments(&read(file));
    let tests = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    // A visibility, such as `pub(in crate::store)`, uses nothing.
    text[..tests].replace("(in crate::", "(in ")
}

fn is_test(file: &Path) -> bool {
    file.components().any(
        |part| matches!(part, Component::Normal(name) if name == "tests.rs" || name == "tests"),
    )
}

fn module_path(file: &Path) -> ModulePath {
    let below = file.strip_prefix(source()).expect("a file below src").with_extension("");
    let mut parts: ModulePath =
        below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

fn path(text: &str) -> ModulePath {
    text.split("::").map(str::to_owned).collect()
}
