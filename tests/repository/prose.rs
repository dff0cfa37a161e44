//! Idioms that CONTRIBUTING.md forbids. Software reports, caches and checks; it does not tell, know or believe.

use std::fs;
use std::path::{Path, PathBuf};

const FOLDERS: [&str; 8] =
    ["src", "docs", "config", "templates", "tests", "benches", "fuzz/src", "fuzz/fuzz_targets"];
const PAGES: [&str; 8] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "Dockerfile",
    "docker-compose.yml",
    "fuzz/run",
];
const EXTENSIONS: [&str; 10] =
    ["rs", "md", "toml", "html", "py", "mjs", "lua", "sh", "yml", "service"];

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

/// Words that are no parts of names in tests and benches. Some of them are values in test data.
const PRIVATE_NAMES: [&str; 16] = [
    "anybody",
    "believed",
    "elsewhere",
    "everybody",
    "fate",
    "felt",
    "goodbye",
    "meanwhile",
    "nobody",
    "patience",
    "somebody",
    "stranger",
    "thief",
    "told",
    "visitor",
    "vouch",
];

#[test]
fn prose_has_no_forbidden_idioms() {
    assert_no_line_has("rephrase these lines", |name, line| {
        let prose = prose(name, line);
        IDIOMS.iter().copied().filter(|idiom| contains_words(&prose, idiom)).collect()
    });
}

#[test]
fn tests_and_benches_have_no_private_names() {
    assert_no_line_has("rename in these lines", |name, line| {
        let is_checked = ["tests/", "benches/"].iter().any(|folder| name.starts_with(folder));
        match is_checked && name.ends_with(".rs") {
            true => private_names(line),
            false => Vec::new(),
        }
    });
}

/// Applies `find` to the name and each line of every file. Fails if it finds a word.
fn assert_no_line_has(advice: &str, find: impl Fn(&str, &str) -> Vec<&'static str>) {
    let files = files();
    assert!(files.len() > 650, "only {} files found", files.len());
    let mut found = Vec::new();
    for file in files {
        let name =
            file.strip_prefix(root()).expect("a file of the repository").display().to_string();
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (number, line) in text.lines().enumerate() {
            let words = find(&name, line);
            found.extend(
                words
                    .iter()
                    .map(|word| format!("{name}:{}: \"{word}\" in: {}", number + 1, line.trim())),
            );
        }
    }
    assert!(found.is_empty(), "{advice}:\n  {}", found.join("\n  "));
}

#[test]
fn idioms_match_whole_words_outside_code() {
    assert!(contains_words("it is told by nobody.", "told"));
    assert!(contains_words("for ever", "for ever"));
    assert!(!contains_words("untold", "told") && !contains_words("the", "he"));
    assert_eq!(prose("a.rs", "let told = 1; // Names `told`."), " names .");
    assert_eq!(prose("a.rs", "let told = 1;"), "");
    assert_eq!(prose("a.md", "Told `told`"), "told ");
    assert_eq!(prose("a.py", "told = 1"), "told = 1");
}

#[test]
fn private_names_match_parts_of_names_outside_strings() {
    assert_eq!(private_names("let (told, is_stranger) = f();"), ["stranger", "told"]);
    assert_eq!(private_names("f(\"nobody\"); // A stranger."), [""; 0]);
    assert_eq!(private_names("f(\"to \\\"nobody\\\"\");"), [""; 0]);
}

/// The prose of a line in lower case, without inline code: comments in Rust, all text in other files.
fn prose(name: &str, line: &str) -> String {
    let text = match name.ends_with(".rs") {
        true => {
            line.split_once("//").map_or("", |(_, comment)| comment.trim_start_matches(['/', '!']))
        }
        false => line,
    };
    text.split('`').step_by(2).collect::<String>().to_lowercase()
}

/// The private words in the names of a line of Rust.
fn private_names(line: &str) -> Vec<&'static str> {
    let code = line.replace("\\\"", "").split("//").next().unwrap_or_default().to_owned();
    let code: String = code.split('"').step_by(2).collect();
    let code = code.to_lowercase();
    let has =
        |word: &str| code.split(|letter: char| !letter.is_alphanumeric()).any(|part| part == word);
    PRIVATE_NAMES.into_iter().filter(|word| has(word)).collect()
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
            let is_run = path.file_name().is_some_and(|name| name == "run");
            if path.is_dir() {
                folders.push(path);
            } else if is_run || EXTENSIONS.iter().any(|known| extension == *known) {
                files.push(path);
            }
        }
    }
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
