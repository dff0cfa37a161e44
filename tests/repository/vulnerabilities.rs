//! Checks `docs/proxy-vulnerabilities.md`: every reviewed advisory is listed, every test it names
//! exists, and no dependency is older than its advisories require.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// IDs of the reviewed advisories.
const ADVISORIES: &str = "
CVE-2013-1443 CVE-2013-4547 CVE-2014-3616 CVE-2015-9235 CVE-2017-18587 CVE-2017-6062 CVE-2017-6413
CVE-2018-15598 CVE-2019-13038 CVE-2019-14857 CVE-2019-20479 CVE-2019-9511 CVE-2019-9513 CVE-2019-9514
CVE-2019-9516 CVE-2019-9901 CVE-2009-4487 CVE-2020-11053 CVE-2020-15129 CVE-2020-16093 CVE-2020-24660
CVE-2020-35863 CVE-2020-4037 CVE-2020-5233 CVE-2021-21291 CVE-2021-21299 CVE-2021-21411 CVE-2021-29456
CVE-2021-29492 CVE-2021-29651 CVE-2021-29652 CVE-2021-32637 CVE-2021-32714 CVE-2021-32715
CVE-2021-32779 CVE-2021-32786 CVE-2021-35472 CVE-2021-35473 CVE-2021-39162 CVE-2021-39240
CVE-2021-39241 CVE-2021-39242 CVE-2021-40346 CVE-2021-41230 CVE-2022-21449
CVE-2022-23469 CVE-2022-23527 CVE-2022-23632 CVE-2022-28923 CVE-2022-29226 CVE-2022-3212 CVE-2022-37186
CVE-2022-39201 CVE-2022-46153 CVE-2023-25725 CVE-2023-26964 CVE-2023-27487
CVE-2023-27488 CVE-2023-27491 CVE-2023-27493 CVE-2023-27496 CVE-2023-28625 CVE-2023-28858 CVE-2023-28859
CVE-2023-35941 CVE-2023-35944 CVE-2023-40225 CVE-2023-43669 CVE-2023-44469 CVE-2023-44487 CVE-2023-45539
CVE-2023-47106 CVE-2023-47124 CVE-2023-48228 CVE-2023-49092 CVE-2023-52430 CVE-2024-11738 CVE-2024-12224
CVE-2024-21492 CVE-2024-21494 CVE-2024-21495 CVE-2024-21496 CVE-2024-21497 CVE-2024-21499 CVE-2024-21500
CVE-2024-24791 CVE-2024-24814 CVE-2024-27919 CVE-2024-28869 CVE-2024-30255 CVE-2024-32650 CVE-2024-39315
CVE-2024-39321 CVE-2024-45410 CVE-2024-45806 CVE-2024-45808 CVE-2024-47070 CVE-2024-52003 CVE-2024-52289
CVE-2024-52307 CVE-2024-52948 CVE-2025-14523 CVE-2025-22871 CVE-2025-23419 CVE-2025-24806 CVE-2025-29928
CVE-2025-31492 CVE-2025-32431 CVE-2025-4366 CVE-2025-47952 CVE-2025-53942 CVE-2025-54576 CVE-2025-55162
CVE-2025-55315 CVE-2025-64484 CVE-2025-64527 CVE-2025-64763 CVE-2025-66220 CVE-2025-66490 CVE-2025-66491
CVE-2025-8671 CVE-2026-1642 CVE-2026-19349 CVE-2026-22045 CVE-2026-25537 CVE-2026-25748 CVE-2026-25949
CVE-2026-26205 CVE-2026-26308 CVE-2026-26998 CVE-2026-26999 CVE-2026-27586 CVE-2026-27587 CVE-2026-27588
CVE-2026-27589 CVE-2026-2833 CVE-2026-2835 CVE-2026-2836 CVE-2026-29054 CVE-2026-30851 CVE-2026-31837
CVE-2026-31838 CVE-2026-32305 CVE-2026-32595 CVE-2026-32811 CVE-2026-33433 CVE-2026-33525 CVE-2026-34454
CVE-2026-34457 CVE-2026-35051 CVE-2026-3872 CVE-2026-39858 CVE-2026-40460 CVE-2026-40574 CVE-2026-40575
CVE-2026-40912 CVE-2026-41059 CVE-2026-41181 CVE-2026-41263 CVE-2026-41569 CVE-2026-42926 CVE-2026-46579
CVE-2026-47203 CVE-2026-48020 CVE-2026-48491 CVE-2026-48794 CVE-2026-49443 CVE-2026-52844 CVE-2026-52845
CVE-2026-53622 CVE-2026-54762 CVE-2026-54763 CVE-2026-54764 CVE-2026-55203 CVE-2026-65600 CVE-2026-67309
CVE-2026-71324 CVE-2026-71326 CVE-2026-95811
GHSA-36f2-fcrx-fp4j GHSA-4hjq-9h5c-252j GHSA-59jp-rwph-878r GHSA-68wm-pfjf-wqp6 GHSA-7jmw-8259-q9jx
GHSA-7r4p-vjf4-gxv4 GHSA-f59h-q822-g45g GHSA-gv8r-9rw9-9697 GHSA-vjrc-mh2v-45x6 GHSA-wcvh-g65p-v576
RUSTSEC-2023-0034 RUSTSEC-2024-0003 RUSTSEC-2024-0332 RUSTSEC-2025-0070 RUSTSEC-2026-0034
RUSTSEC-2026-0049 RUSTSEC-2026-0098 RUSTSEC-2026-0099 RUSTSEC-2026-0104 RUSTSEC-2026-0258
";

/// First release of each dependency without its advisories.
const NOT_OLDER: [(&str, [u32; 3]); 10] = [
    ("hyper", [1, 11, 0]),
    ("h2", [0, 4, 18]),
    ("rustls", [0, 23, 18]),
    ("rustls-webpki", [0, 103, 13]),
    ("idna", [1, 0, 3]),
    ("url", [2, 5, 4]),
    ("tokio", [1, 44, 2]),
    ("tungstenite", [0, 20, 1]),
    ("httparse", [1, 10, 1]),
    ("jsonwebtoken", [12, 0, 0]),
];

/// Libraries excluded on purpose, each because of an advisory.
const ABSENT: [&str; 4] = ["rsa", "h3", "axum-core", "openssl"];

#[test]
fn the_page_lists_exactly_the_reviewed_advisories() {
    let listed: BTreeSet<&str> = ADVISORIES.split_whitespace().collect();
    let page = page();
    let found: BTreeSet<&str> = page.split(|c: char| !is_id_char(c)).filter(is_id).collect();
    assert_eq!(listed.len(), 199, "counted when the review was written");
    let missing: Vec<_> = listed.difference(&found).collect();
    let unknown: Vec<_> = found.difference(&listed).collect();
    assert!(missing.is_empty(), "not on the page: {missing:?}");
    assert!(unknown.is_empty(), "not in the review: {unknown:?}");
    for number in 1..=27 {
        assert!(lists_hyp(&page, number), "HYP-{number} is not on the page");
    }
}

#[test]
fn every_row_names_a_test_or_why_it_does_not_apply() {
    let page = page();
    let rows = rows(&page);
    assert!(rows.len() > 130, "{} rows", rows.len());
    for row in rows {
        let [_, _, here, tests] = row[..] else { panic!("four cells: {row:?}") };
        let concerned = !here.starts_with("*Not applicable*");
        assert!(!concerned || !names(tests).is_empty(), "no test: {row:?}");
    }
}

#[test]
fn every_test_named_on_the_page_exists() {
    let page = page();
    let quoted: BTreeSet<&str> = rows(&page).iter().flat_map(|row| names(row[3])).collect();
    assert!(quoted.len() > 90, "{} tests", quoted.len());
    let sources = sources();
    let exists = |name: &str| sources.contains(&format!("fn {name}("));
    let missing: Vec<_> = quoted.into_iter().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "no such test: {missing:#?}");
}

#[test]
fn dependencies_are_recent_enough_for_the_advisories() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("a lock file");
    for (name, least) in NOT_OLDER {
        let found = versions(&lock, name);
        assert!(!found.is_empty(), "{name} is not among the dependencies any more");
        assert!(found.iter().all(|version| *version >= least), "{name}: {found:?}");
    }
    for name in ABSENT {
        assert!(versions(&lock, name).is_empty(), "{name} was left out on purpose");
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    fs::read_to_string(root().join("docs/proxy-vulnerabilities.md")).expect("the page")
}

/// The cells of all rows of all tables.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'));
    let rows = lines.map(|line| line.split(" |").map(str::trim).collect::<Vec<_>>());
    let head = |cell: &&str| *cell == "tests" || cell.starts_with("---");
    let rows = rows.map(|mut row| {
        row.truncate(4);
        row
    });
    rows.filter(|row| !row.iter().any(head)).collect()
}

/// The words in backticks.
fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

fn is_id_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-'
}

fn is_id(word: &&str) -> bool {
    ["CVE-", "GHSA-", "RUSTSEC-"].iter().any(|kind| word.starts_with(kind))
}

fn lists_hyp(page: &str, number: u32) -> bool {
    let name = format!("HYP-{number}");
    page.split(|c: char| !is_id_char(c)).any(|word| word == name)
}

/// All sources and tests.
fn sources() -> String {
    let mut out = String::new();
    for folder in ["src", "tests"] {
        read_all(&root().join(folder), &mut out);
    }
    out
}

fn read_all(folder: &Path, out: &mut String) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    for path in paths {
        if path.is_dir() {
            read_all(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push_str(&fs::read_to_string(&path).expect("a source"));
        }
    }
}

/// Every version of a package in the lock file.
fn versions(lock: &str, name: &str) -> Vec<[u32; 3]> {
    let entry = format!("name = \"{name}\"\nversion = \"");
    let after = lock.split(entry.as_str()).skip(1);
    after.map(|rest| version(rest.split('"').next().unwrap_or_default())).collect()
}

fn version(text: &str) -> [u32; 3] {
    let plain = text.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = plain.split('.').map(|number| number.parse().expect("a number"));
    std::array::from_fn(|_| numbers.next().unwrap_or_default())
}
