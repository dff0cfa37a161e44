//! Idioms that CONTRIBUTING.md forbids in comments and docs. Software reports, caches and checks; it does not
//! tell, know or believe.

use std::fs;
use std::path::{Path, PathBuf};

const FOLDERS: [&str; 4] = ["src", "docs", "config", "templates"];
const PAGES: [&str; 5] =
    ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"];

/// Lower-case words and phrases, matched as whole words.
const IDIOMS: [&str; 26] = [
    "whoever",
    "nobody",
    "somebody",
    "anybody",
    "everybody",
    "as ever",
    "for ever",
    "told",
    "tells",
    "tidings",
    "vouch",
    "vouches",
    "vouched",
    "thereof",
    "meanwhile",
    "in force",
    "hears of",
    "hear of",
    "heard of",
    "believes",
    "believed",
    "knows",
    "forgets",
    "who is",
    "he",
    "him",
];

#[test]
fn prose_has_no_forbidden_idioms() {
    let files = files();
    assert!(files.len() > 250, "only {} files found", files.len());
    let mut found = Vec::new();
    for file in files {
        let name =
            file.strip_prefix(root()).expect("a file of the repository").display().to_string();
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (number, line) in text.lines().enumerate() {
            let prose = prose(&name, line);
            let idioms = IDIOMS.iter().filter(|idiom| contains_words(&prose, idiom));
            found
                .extend(idioms.map(|idiom| {
                    format!("{name}:{}: \"{idiom}\" in: {}", number + 1, line.trim())
                }));
        }
    }
    assert!(found.is_empty(), "rephrase these lines:\n  {}", found.join("\n  "));
}

#[test]
fn idioms_match_whole_words_outside_code() {
    assert!(contains_words("it is told by nobody.", "told"));
    assert!(contains_words("for ever", "for ever"));
    assert!(!contains_words("untold", "told") && !contains_words("the", "he"));
    assert_eq!(prose("a.rs", "let told = 1; // Names `told`."), " names .");
    assert_eq!(prose("a.rs", "let told = 1;"), "");
    assert_eq!(prose("a.md", "Told `told`"), "told ");
}

/// The prose of a line in lower case: comments in Rust, all text elsewhere; without inline code.
fn prose(name: &str, line: &str) -> String {
    let text = match name.ends_with(".rs") {
        true => {
            line.split_once("//").map_or("", |(_, comment)| comment.trim_start_matches(['/', '!']))
        }
        false => line,
    };
    text.split('`').step_by(2).collect::<String>().to_lowercase()
}

fn contains_words(text: &str, words: &str) -> bool {
    let is_letter = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '-';
    text.match_indices(words).any(|(at, _)| {
        let before = text[..at].chars().next_back().is_some_and(is_letter);
        let after = text[at + words.len()..].chars().next().is_some_and(is_letter);
        !before && !after
    })
}

fn files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = PAGES.iter().map(|page| root().join(page)).collect();
    let mut folders: Vec<PathBuf> = FOLDERS.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            let extension = path.extension().unwrap_or_default();
            if path.is_dir() {
                folders.push(path);
            } else if ["rs", "md", "toml", "html"].iter().any(|known| extension == *known) {
                files.push(path);
            }
        }
    }
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
