//! Layers: a module uses only modules of lower layers, as listed in the table at the top of `src/lib.rs`.
//! Otherwise a rule would depend on sockets and stores, and could not be tested without them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Number of top-level modules. A new one needs a row in the table and a change here.
const MODULES: usize = 29;

/// Fewest references between modules; if the scanner finds fewer, it is broken.
const REFERENCES_AT_LEAST: usize = 60;

#[test]
fn modules_reference_only_lower_layers() {
    let layers = layers();
    let references = references(&modules());
    assert!(references.len() >= REFERENCES_AT_LEAST, "only {} references found", references.len());
    let wrong: Vec<String> = references
        .iter()
        .filter(|found| !found.is_downward(&layers))
        .map(Reference::describe)
        .collect();
    assert!(wrong.is_empty(), "references to the same or a higher layer:\n{}", wrong.join("\n"));
}

#[test]
fn layer_table_lists_every_module_once() {
    let listed: BTreeSet<String> = layers().into_keys().collect();
    let modules = modules();
    assert_eq!(listed, modules, "the table (left) and the `pub mod` lines (right) differ");
    assert_eq!(modules.len(), MODULES);
}

/// Modules that own sockets. All others see bodies and streams, whichever library or version of HTTP they come from.
const HTTP_LIBRARY_USERS: [&str; 5] = ["admin", "cli", "http_client", "server", "upstream"];

#[test]
fn only_modules_with_sockets_use_the_http_library() {
    let using: BTreeSet<String> = source_files()
        .into_iter()
        .filter(|file| names_http_library(&without_comments(&read(file))))
        .map(|file| module_of(&file))
        .collect();
    assert_eq!(using, HTTP_LIBRARY_USERS.map(str::to_owned).into());
}

fn names_http_library(text: &str) -> bool {
    text.contains("hyper::") || text.contains("hyper_util::")
}

#[test]
fn every_source_file_belongs_to_a_module() {
    let modules = modules();
    for file in source_files() {
        let module = module_of(&file);
        let known = modules.contains(&module) || module == "lib" || module == "main";
        assert!(known, "{}: `{module}` has no `pub mod` line in lib.rs", file.display());
    }
}

#[test]
fn binary_uses_only_the_cli() {
    let text = without_comments(&read(&source().join("main.rs")));
    let named = text.matches("doorward::").count();
    assert_eq!(named, text.matches("doorward::cli::").count(), "main.rs uses more than `cli`");
    assert_eq!(named, 1);
}

#[test]
fn scanner_finds_every_reference_form() {
    let modules: BTreeSet<String> = ["app", "http", "store", "tls"].map(str::to_owned).into();
    let found = |depth: usize, text: &str| -> Vec<String> {
        names_in(text, depth, &modules).into_iter().map(|(_, name)| name).collect()
    };
    assert_eq!(found(2, "use crate::store::Store;"), ["store"]);
    assert_eq!(found(2, "fn f(x: &crate::app::Running) {}"), ["app"]);
    assert_eq!(found(2, "use crate::{\n    http::{Host, tls},\n    store,\n};"), ["http", "store"]);
    assert_eq!(found(1, "use super::tls::Certificates;"), ["tls"]);
    assert_eq!(found(2, "use super::super::tls::Certificates;"), ["tls"]);
    assert!(found(2, "use super::store::Entry; use ::http::Method; use http::Uri;").is_empty());
    assert!(found(2, "/// as in [`crate::app`]\nlet x = 1; // crate::app").is_empty());
    assert!(found(2, "use crate::storekeeper::X; macrocrate::app!()").is_empty());
}

/// A reference from one top-level module to another.
struct Reference {
    file: PathBuf,
    line: usize,
    from: String,
    to: String,
}

impl Reference {
    fn is_downward(&self, layers: &BTreeMap<String, u32>) -> bool {
        // `lib` only declares modules, and another test checks `main`.
        self.from == "lib" || self.from == "main" || layers[&self.to] < layers[&self.from]
    }

    fn describe(&self) -> String {
        let Reference { file, line, from, to } = self;
        format!("  {}:{line}: `{from}` uses `{to}`", file.display())
    }
}

fn references(modules: &BTreeSet<String>) -> Vec<Reference> {
    source_files().iter().flat_map(|file| references_of(file, modules)).collect()
}

fn references_of(file: &Path, modules: &BTreeSet<String>) -> Vec<Reference> {
    let from = module_of(file);
    names_in(&read(file), depth(file), modules)
        .into_iter()
        .filter(|(_, to)| *to != from)
        .map(|(line, to)| Reference { file: file.to_owned(), line, from: from.clone(), to })
        .collect()
}

/// Returns lines and names of the modules that `text` refers to. `depth` is the number of `super::` from the file
/// to the crate root.
fn names_in(text: &str, depth: usize, modules: &BTreeSet<String>) -> Vec<(usize, String)> {
    let text = without_comments(text);
    let mut found = Vec::new();
    for root in ["crate::".to_owned(), "super::".repeat(depth)] {
        for (at, _) in text.match_indices(&root).filter(|(at, _)| starts_a_path(&text, *at)) {
            let line = text[..at].matches('\n').count() + 1;
            let names = first_names(&text[at + root.len()..]);
            let known = names.into_iter().filter(|name| modules.contains(name));
            found.extend(known.map(|name| (line, name)));
        }
    }
    found
}

fn starts_a_path(text: &str, at: usize) -> bool {
    let before = text[..at].chars().next_back();
    before.is_none_or(|before| !is_name(before) && before != ':' && before != '$')
}

/// Returns the name after `crate::`, or the names in the braces after it.
fn first_names(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else { return vec![leading_name(rest)] };
    let mut open = 0_usize;
    let mut names = vec![leading_name(group)];
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => open += 1,
            '}' if open == 0 => break,
            '}' => open -= 1,
            ',' if open == 0 => names.push(leading_name(&group[at + 1..])),
            _ => {}
        }
    }
    names
}

fn leading_name(text: &str) -> String {
    text.trim_start().chars().take_while(|letter| is_name(*letter)).collect()
}

pub(super) fn is_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

pub(super) fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect()
}

/// Parses the rows `//! | 3 | [`store`], [`tls`] | adapters |` of the table.
fn layers() -> BTreeMap<String, u32> {
    let text = read(&source().join("lib.rs"));
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! |"));
    let mut layers = BTreeMap::new();
    for row in rows {
        let mut cells = row.split('|').map(str::trim);
        let (Some(number), Some(names)) = (cells.next(), cells.next()) else { continue };
        let Ok(number) = number.parse() else { continue };
        for name in names.split('`').skip(1).step_by(2).filter(|name| *name != "main") {
            let before = layers.insert(name.to_owned(), number);
            assert_eq!(before, None, "`{name}` is in the table twice");
        }
    }
    layers
}

fn modules() -> BTreeSet<String> {
    let text = read(&source().join("lib.rs"));
    let declared = text.lines().filter_map(|line| line.strip_prefix("pub mod "));
    declared.map(|name| name.trim_end_matches(';').to_owned()).collect()
}

/// Returns the top-level module of a file.
pub(super) fn module_of(file: &Path) -> String {
    let below = file.strip_prefix(source()).expect("a file below src");
    let first = below.components().next().expect("a name").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Returns the number of `super::` from a file to the crate root.
fn depth(file: &Path) -> usize {
    let below = file.strip_prefix(source()).expect("a file below src");
    let folders = below.components().count() - 1;
    if below.file_name().is_some_and(|name| name == "mod.rs") { folders } else { folders + 1 }
}

pub(super) fn source_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![source()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

pub(super) fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

pub(super) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
