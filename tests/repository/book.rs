//! The contents of the book: every page of `docs` once, and decisions by their index.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Files of `docs` that are no pages.
const NO_PAGES: [&str; 1] = ["SUMMARY.md"];
const DECISIONS: &str = "decisions";

#[test]
fn the_book_lists_every_page_once() {
    let summary = fs::read_to_string(docs().join("SUMMARY.md")).expect("a readable summary");
    let links: Vec<&str> = linked_pages(&summary).collect();
    let listed: BTreeSet<String> = links.iter().map(|link| (*link).to_owned()).collect();
    let pages = pages(docs());
    assert!(pages.len() > 50, "only {} pages found", pages.len());
    let missing: Vec<&String> = pages.difference(&listed).collect();
    let unknown: Vec<&String> = listed.difference(&pages).collect();
    assert!(missing.is_empty(), "docs/SUMMARY.md does not list {missing:?}");
    assert!(unknown.is_empty(), "docs/SUMMARY.md lists {unknown:?}, which do not exist");
    assert_eq!(links.len(), listed.len(), "docs/SUMMARY.md lists a page twice");
}

fn linked_pages(summary: &str) -> impl Iterator<Item = &str> {
    summary.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link)
}

/// Returns the paths below `docs`. Of the decisions, only the index counts.
fn pages(docs: &Path) -> BTreeSet<String> {
    let (mut pages, mut folders) = (BTreeSet::new(), vec![docs.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            let name = path.strip_prefix(docs).expect("a page").to_string_lossy().into_owned();
            let is_decision = name.starts_with(DECISIONS) && !name.ends_with("README.md");
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".md") && !is_decision && !NO_PAGES.contains(&name.as_str()) {
                pages.insert(name);
            }
        }
    }
    pages
}

fn docs() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/docs"))
}
