//! What other programs may take an ambiguous path for.
//!
//! An app behind the gateway may decode a path again, fold `\` to `/`, cut `;parameters` off, or merge
//! slashes. Whether a rule can be passed by in that way is a question of where all these readings
//! lead: where every one of them finds the same route, no other route's rule is in play.

use std::collections::HashSet;

use percent_encoding::percent_decode;

/// Longest path that is read in several ways: each costs a copy, and nobody has logged in yet.
const LONGEST: usize = 2_048;

/// Most ways to read one path; a path with more of them is somebody's game.
const MOST: usize = 64;

/// Every way in which a path may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readings {
    pub doubt: Doubt,
    /// At least one.
    pub paths: Vec<String>,
}

/// What the readings differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// A `?` or `#` was encoded (`/C%23`), as many names of pages and files have it. A program that
    /// writes the path anew without encoding it cuts it there (CVE-2026-32811).
    Mark,
    /// Where segments begin and end.
    Shape,
}

impl Readings {
    /// Of a decoded path that is plain but for `?` and `#`; `None` where what stands before them ends
    /// in a dot segment, as in `/a/..%3fb`.
    pub(super) fn cut_at_marks(decoded: &str) -> Option<Readings> {
        let paths = vec![decoded.to_owned(), before_marks(decoded).to_owned()];
        let harmless = paths.iter().all(|path| is_harmless(path));
        harmless.then_some(Readings { doubt: Doubt::Mark, paths })
    }

    /// Of any path; `None` where one of them holds dot segments or control characters, is no text, or
    /// where there is no end to them. Those are nobody's names of anything.
    ///
    /// Habits come in any order: a program that cuts parameters off before it decodes finds another
    /// path than one that decodes first.
    pub(super) fn of(path: &str) -> Option<Readings> {
        if path.len() > LONGEST {
            return None;
        }
        let mut paths = vec![path.to_owned()];
        let mut seen = HashSet::from([path.to_owned()]);
        let mut at = 0;
        while let Some(path) = paths.get(at).cloned() {
            if !is_harmless(&path) || paths.len() > MOST {
                return None;
            }
            let read = HABITS.iter().map(|habit| habit(&path)).collect::<Option<Vec<_>>>()?;
            paths.extend(read.into_iter().filter(|read| seen.insert(read.clone())));
            at += 1;
        }
        Some(Readings { doubt: Doubt::Shape, paths })
    }
}

/// What a program may do with a path before it looks it up; `None` where it cannot.
const HABITS: [fn(&str) -> Option<String>; 5] = [
    |path| Some(percent_decode(path.as_bytes()).decode_utf8().ok()?.into_owned()),
    |path| Some(before_marks(path).to_owned()),
    |path| Some(path.replace('\\', "/")),
    |path| Some(without_parameters(path)),
    |path| Some(with_single_slashes(path)),
];

/// A path as a program finds it that asks a file system in which case makes no difference, and dots and
/// blanks at the end of a name are nothing, nor what stands behind a colon (`/admin::$DATA`). A bound of
/// what such programs do: it finds names alike that one or the other of them tells apart.
pub fn as_files_are_found(path: &str) -> String {
    let names = path.split('/').map(|name| {
        let name = name.split(':').next().unwrap_or_default();
        name.trim_end_matches(['.', ' '])
    });
    let names = names.filter(|name| !name.is_empty());
    let mut found = String::with_capacity(path.len());
    for name in names {
        found.push('/');
        // Up first: letters such as the long s have no lower case of their own.
        found.extend(name.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase));
    }
    found
}

fn without_parameters(path: &str) -> String {
    let segments = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    segments.collect::<Vec<_>>().join("/")
}

fn with_single_slashes(path: &str) -> String {
    let mut out = path.to_owned();
    while out.contains("//") {
        out = out.replace("//", "/");
    }
    out
}

fn is_harmless(path: &str) -> bool {
    path.starts_with('/')
        && path.bytes().all(|byte| byte >= 0x20 && byte != 0x7f)
        && !path.split('/').any(|segment| matches!(segment, "." | ".."))
}

fn before_marks(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(path: &str) -> Vec<String> {
        let mut paths = Readings::of(path).map_or_else(Vec::new, |readings| readings.paths);
        paths.sort();
        paths.dedup();
        paths
    }

    #[test]
    fn hyp_17_every_habit_of_a_reader_is_tried() {
        assert_eq!(readings("/a%2Fb"), ["/a%2Fb", "/a/b"]);
        assert_eq!(readings("/a//b"), ["/a//b", "/a/b"]);
        assert_eq!(readings("/a;x/b"), ["/a/b", "/a;x/b"]);
        assert_eq!(readings("/a%255Cb"), ["/a%255Cb", "/a%5Cb", "/a/b", "/a\\b"]);
        assert_eq!(readings("/a%3Fb%2Fc"), ["/a", "/a%3Fb%2Fc", "/a?b/c"]);
        assert!(readings("/a%2f%2f;y%5cb").contains(&"/a/b".to_owned()));
    }

    #[test]
    fn hyp_17_names_are_found_as_lenient_file_systems_find_them() {
        for path in [
            "/Admin/x",
            "/ADMIN/X",
            "/admin./x.",
            "/admin . /x ",
            "/admin::$INDEX_ALLOCATION/x:y",
            "/ /.../admin//x/",
            "/admın/x",
        ] {
            let found = as_files_are_found(path);
            assert_eq!(found, "/admin/x", "{path}");
        }
        assert_eq!(as_files_are_found("/.well-known/a b.c"), "/.well-known/a b.c");
        assert_eq!(as_files_are_found("/ſK"), "/sk");
        assert_eq!(as_files_are_found("/"), "");
    }

    #[test]
    fn hyp_17_habits_are_tried_in_any_order() {
        // Parameters cut off first, then decoded, as Tomcat does.
        assert!(readings("/;x%2fp/%71").contains(&"/q".to_owned()));
        assert!(readings("/;x%2fp/%71").contains(&"/p/q".to_owned()));
    }

    #[test]
    fn hyp_17_what_names_nothing_has_no_readings() {
        for path in [
            "/a%2f..%2fb",
            "/..;/a",
            "/a/..%3bx/b",
            "/a\\..\\b",
            "/%252e%252e/a",
            "/a%00",
            "/a%250a",
            "/a%ff",
            "/%25252525252e",
            "a",
        ] {
            assert_eq!(Readings::of(path), None, "{path}");
        }
        assert_eq!(Readings::of(&format!("/{}", "a".repeat(LONGEST))), None);
    }
}
