//! Replays the fuzz corpus: the same properties and inputs as `fuzz/run`, on the stable compiler in
//! every test run.

use std::collections::BTreeSet;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use targets::TARGETS;

/// A folder with fewer files has lost its corpus.
const FILES_AT_LEAST: usize = 5;

#[test]
fn every_corpus_input_passes_its_target() {
    let mut failed = Vec::new();
    for target in &TARGETS {
        let files = inputs(target.name);
        assert!(files.len() >= FILES_AT_LEAST, "{}: {} files", target.name, files.len());
        for file in files {
            let bytes = fs::read(&file).expect("a readable file");
            // The panic's message names the violated property.
            if panic::catch_unwind(|| targets::check(target.name, &bytes)).is_err() {
                failed.push(file);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn every_target_has_a_binary_a_corpus_and_a_list_entry() {
    let listed: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(listed.len(), TARGETS.len(), "a duplicate name");
    assert_eq!(names("fuzz_targets"), listed, "fuzz_targets (left) and the list (right)");
    assert_eq!(names("corpus"), listed, "corpus (left) and the list (right)");
    let manifest = fs::read_to_string(folder("Cargo.toml")).expect("a manifest");
    let binaries = manifest.lines().filter(|line| line.starts_with("path = \"fuzz_targets/"));
    assert_eq!(binaries.count(), listed.len(), "[[bin]] of fuzz/Cargo.toml");
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

fn inputs(target: &str) -> Vec<PathBuf> {
    files(&folder("corpus").join(target))
}

fn names(of: &str) -> BTreeSet<String> {
    let stems = files(&folder(of))
        .into_iter()
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
    stems.collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}
