//! Pages with generated content: the reference of all keys, and the settings of each preset.
//!
//! `UPDATE=1 cargo nextest run --test repository generated` writes them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use doorward::config::{KeyDefault, known_keys};

const INTRODUCTION: &str = "\
# Configuration reference

<!-- Generated from config/doorward.toml and the keys of the program. A test fails if they differ. -->

Every key with its type, its default and its meaning. A key with a default or without one may be omitted; a
required key must be set. `doorward print-config` prints the same as a file.

- Relative paths start at the directory of the configuration file.
- A duration is a whole number and `ms`, `s`, `m`, `h` or `d`: `\"30m\"`. A size is a whole number and `B`, `KiB`,
  `MiB` or `GiB`: `\"32KiB\"`.
- Unknown keys are errors, and `doorward check` lists all errors at once.
- Secrets are in separate files, never in the configuration.
";
const PRESET_BEGINS: &str = "<!-- preset -->\n\n";
const PRESET_ENDS: &str = "\n\n<!-- end -->";

#[test]
fn the_generated_reference_has_every_key() {
    let file = read(&root().join("config/doorward.toml"));
    let page = reference(&file);
    assert!(page.matches("\n| `").count() > 150, "{page}");
    assert_page(&root().join("docs/configuration.md"), &page);
}

#[test]
fn the_generated_part_of_an_app_page_is_its_preset() {
    let presets = fs::read_dir(root().join("src/config/presets")).expect("a folder");
    let presets: Vec<PathBuf> =
        presets.map(|entry| entry.expect("a readable entry").path()).collect();
    assert!(presets.len() >= 20, "only {} presets found", presets.len());
    for preset in presets {
        let name = preset.file_stem().expect("a name").to_string_lossy().into_owned();
        let path = root().join("docs/apps").join(format!("{name}.md"));
        let page = read(&path);
        let (before, rest) = page.split_once(PRESET_BEGINS).expect("a generated part");
        let (_, after) = rest.split_once(PRESET_ENDS).expect("its end");
        let keys = format!("```toml\n{}\n```", read(&preset).trim_end());
        assert_page(&path, &format!("{before}{PRESET_BEGINS}{keys}{PRESET_ENDS}{after}"));
    }
}

#[test]
fn a_comment_of_the_generated_reference_is_markdown() {
    let shown =
        meaning("(yours) a name, \"*\" or `a\"b`; { a = [\"b|c\"] }; docs/oidc.md. docs/login.md");
    let expected = "a name, `\"*\"` or `a\"b`; `{ a = [\"b\\|c\"] }`; [oidc.md](oidc.md). [login.md](login.md)";
    assert_eq!((shown.as_str(), sentence("one").as_str()), (expected, "One."));
    let types =
        ["\"30m\"", "\"32KiB\"", "\"auto\"", "[]", "{ a = 1 }", "true", "10"].map(type_name);
    assert_eq!(types, ["duration", "size", "text", "list", "table", "boolean", "number"]);
}

/// Compares a page with its expected text, or writes it.
fn assert_page(path: &Path, expected: &str) {
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, expected).expect("a writable page");
    }
    let (page, name) = (fs::read_to_string(path).unwrap_or_default(), path.display());
    let differs = page.lines().zip(expected.lines()).find(|(is, should)| is != should);
    assert!(page == expected, "{name} is out of date: write it with UPDATE=1\n{differs:#?}");
}

/// A section of the reference file, or one of its keys.
struct Entry {
    /// Header of a section, or path of a key.
    name: String,
    /// `None` for a section.
    key: Option<String>,
    comment: String,
}

fn reference(file: &str) -> String {
    let defaults: BTreeMap<String, KeyDefault> =
        known_keys(file).into_iter().map(|key| (key.path, key.default)).collect();
    let mut page = INTRODUCTION.to_owned();
    let mut in_table = false;
    for entry in entries(file) {
        let meaning = meaning(&entry.comment);
        let Some(key) = entry.key else {
            writeln!(page, "\n## `{}`", entry.name).expect("text");
            if !meaning.is_empty() {
                writeln!(page, "\n{}", sentence(&meaning)).expect("text");
            }
            in_table = false;
            continue;
        };
        if !in_table {
            page.push_str("\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
            in_table = true;
        }
        let default = defaults[&entry.name];
        let kind = type_name(default.literal());
        writeln!(page, "| `{key}` | {kind} | {} | {meaning} |", shown(default)).expect("text");
    }
    page
}

fn shown(default: KeyDefault) -> String {
    let literal = format!("`{}`", default.literal().replace('|', "\\|"));
    match default {
        KeyDefault::Value(_) => literal,
        KeyDefault::Optional(_) => format!("none; for example {literal}"),
        KeyDefault::Required(_) => format!("required; for example {literal}"),
    }
}

/// Returns the sections and keys with their comments, which may continue on the next lines.
fn entries(file: &str) -> Vec<Entry> {
    let (mut entries, mut section): (Vec<Entry>, _) = (Vec::new(), String::new());
    for line in file.lines() {
        let (text, comment) = match line.split_once(" #") {
            Some((text, comment)) => (text.trim(), comment.trim_start_matches('#').trim()),
            None => (line.trim(), ""),
        };
        let bare = text.trim_start_matches('#');
        let key = bare.split_once(" = ").map(|(key, _)| key);
        let is_key = |key: &str| key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if bare.starts_with('[') {
            section = bare.trim_matches(['[', ']']).to_owned();
            entries.push(Entry { name: bare.to_owned(), key: None, comment: comment.to_owned() });
        } else if let Some(key) = key.filter(|key| is_key(key)) {
            let name = format!("{section}.{key}");
            entries.push(Entry { name, key: Some(key.to_owned()), comment: comment.to_owned() });
        } else if line.starts_with("  ")
            && let Some(entry) = entries.last_mut()
        {
            write!(entry.comment, " {comment}").expect("text");
        }
    }
    entries
}

/// Returns a comment as Markdown for a cell: values in quotes and brackets become code, file names links.
fn meaning(comment: &str) -> String {
    let comment = comment.trim().trim_start_matches("(yours)").trim().replace('|', "\\|");
    let mut text = String::new();
    let (mut in_code, mut in_quotes, mut depth) = (false, false, 0);
    for letter in comment.chars() {
        in_code ^= letter == '`';
        let was_value = in_quotes || depth > 0;
        if !in_code {
            in_quotes ^= letter == '"';
            depth += i32::from("[{".contains(letter)) - i32::from("]}".contains(letter));
        }
        let is_value = in_quotes || depth > 0;
        text.extend((is_value && !was_value).then_some('`').into_iter().chain([letter]));
        text.extend((was_value && !is_value).then_some('`'));
    }
    text.split(' ').map(linked).collect::<Vec<_>>().join(" ")
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).chain(['.']).collect()
}

fn linked(word: &str) -> String {
    let name = word.trim_end_matches([',', ';', ':', '.', ')']);
    match name.strip_prefix("docs/").filter(|page| page.ends_with(".md")) {
        Some(page) => word.replace(name, &format!("[{page}]({page})")),
        None => word.to_owned(),
    }
}

fn type_name(literal: &str) -> &'static str {
    let has_unit = |units: &[&str]| {
        let digits = literal.trim_matches('"').trim_start_matches(|c: char| c.is_ascii_digit());
        digits.len() + 2 < literal.len() && units.contains(&digits)
    };
    match literal.chars().next() {
        Some('[') => "list",
        Some('{') => "table",
        Some('t' | 'f') => "boolean",
        Some('0'..='9') => "number",
        Some(_) if has_unit(&["ms", "s", "m", "h", "d"]) => "duration",
        Some(_) if has_unit(&["", "B", "KiB", "MiB", "GiB"]) => "size",
        Some(_) | None => "text",
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
