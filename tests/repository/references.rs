//! The pages refer only to what exists: linked files, headings and source files.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Files that a reader creates while they follow a page.
const CREATED_BY_READERS: [&str; 3] = ["state/keys.toml", "state/users.toml", "wiki.toml"];
/// Folders to which pages give relative source paths.
const BASES: [&str; 4] = ["", "src", "tests", "docs"];

#[test]
fn links_and_source_paths_of_pages_exist() {
    let pages = pages();
    assert!(pages.len() > 40, "only {} pages found", pages.len());
    let mut broken = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(page).expect("a readable page");
        for (number, line) in prose_lines(&text) {
            let at = || format!("{}:{number}", page.strip_prefix(root()).unwrap_or(page).display());
            let links = links(line).filter(|link| !link_exists(page, link));
            broken.extend(links.map(|link| format!("{}: link to {link}", at())));
            let paths = source_paths(line).filter(|path| !source_exists(path));
            broken.extend(paths.map(|path| format!("{}: path {path}", at())));
        }
    }
    assert!(broken.is_empty(), "correct these references:\n  {}", broken.join("\n  "));
}

#[test]
fn a_missing_file_heading_or_source_is_found() {
    let page = root().join("README.md");
    assert!(link_exists(&page, "SECURITY.md") && link_exists(&page, "https://example.com/x"));
    assert!(!link_exists(&page, "SECURITIES.md"));
    assert!(link_exists(&page, "docs/glossary.md#requests"));
    assert!(!link_exists(&page, "docs/glossary.md#no-such-heading"));
    assert_eq!(
        source_paths("`session/expiry.rs`, `decide` and `a b.rs`").collect::<Vec<_>>(),
        ["session/expiry.rs"]
    );
    assert!(source_exists("session/expiry.rs") && !source_exists("session/experts.rs"));
    assert_eq!(anchor("Why `x`, and how?"), "why-x-and-how");
}

/// Returns the numbered lines outside code blocks.
fn prose_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        (!in_code && !is_fence).then_some((index + 1, line))
    })
}

fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link)
}

/// Returns the text in backquotes that looks like the path of a source file.
fn source_paths(line: &str) -> impl Iterator<Item = &str> {
    let is_path = |text: &&str| {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-./".contains(letter);
        let source = [".rs", ".py", ".mjs", ".html"].iter().any(|end| text.ends_with(end));
        (source || text.ends_with(".toml") && text.contains('/')) && text.chars().all(plain)
    };
    line.split('`').skip(1).step_by(2).filter(is_path)
}

fn source_exists(path: &str) -> bool {
    let exists = |base: &str| root().join(base).join(path).exists();
    BASES.into_iter().any(exists) || CREATED_BY_READERS.contains(&path)
}

fn link_exists(page: &Path, link: &str) -> bool {
    if link.contains("://") || link.starts_with("mailto:") {
        return true;
    }
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = match file {
        "" => page.to_path_buf(),
        file => page.parent().unwrap_or(root()).join(file),
    };
    target.exists() && (heading.is_empty() || headings(&target).contains(heading))
}

fn headings(page: &Path) -> HashSet<String> {
    let text = fs::read_to_string(page).unwrap_or_default();
    let titles = prose_lines(&text).filter(|(_, line)| line.starts_with('#'));
    titles.map(|(_, line)| anchor(line.trim_start_matches('#').trim())).collect()
}

/// Returns the anchor that GitHub gives a heading.
fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut folders = vec![root().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_ours = !name.starts_with('.') && name != "target" && name != "node_modules";
            if path.is_dir() && is_ours {
                folders.push(path);
            } else if name.ends_with(".md") {
                pages.push(path);
            }
        }
    }
    pages
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
