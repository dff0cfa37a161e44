//! Interpretations of an ambiguous path by other programs.
//!
//! An upstream may decode a path again, fold `\` to `/`, strip `;parameters`, or merge slashes. An
//! ambiguous path is safe only if every interpretation leads to the same route: then it bypasses no
//! other route's access rule.

use std::collections::HashSet;

use percent_encoding::percent_decode;

/// Maximum length in bytes of a path that is interpreted. Each interpretation costs a copy, and the
/// client is not authenticated yet.
const MAX_PATH: usize = 2_048;

/// Maximum number of interpretations; a path with more is an attack.
const MAX_INTERPRETATIONS: usize = 64;

/// All interpretations of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpretations {
    pub ambiguity: Ambiguity,
    /// At least one.
    pub paths: Vec<String>,
}

/// Kind of ambiguity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguity {
    /// An encoded `?` or `#` (`/C%23`), common in names of pages and files. A program that rewrites
    /// the path without encoding it truncates it there (CVE-2026-32811).
    Delimiter,
    /// The segment boundaries differ.
    Segments,
}

impl Interpretations {
    /// Interprets a decoded path that is plain except for `?` and `#`. Returns `None` if the part
    /// before them ends in a dot segment, as in `/a/..%3fb`.
    pub(super) fn from_encoded_delimiter(decoded: &str) -> Option<Interpretations> {
        let paths = vec![decoded.to_owned(), before_delimiter(decoded).to_owned()];
        let all_plain = paths.iter().all(|path| is_plain_path(path));
        all_plain.then_some(Interpretations { ambiguity: Ambiguity::Delimiter, paths })
    }

    /// Enumerates the interpretations of any path.
    ///
    /// Returns `None` if one contains dot segments or control characters, is not UTF-8, or if there
    /// are too many. Such paths name nothing. Normalizations are combined in any order: stripping
    /// parameters before decoding gives a different path than after.
    pub(super) fn enumerate(path: &str) -> Option<Interpretations> {
        if path.len() > MAX_PATH {
            return None;
        }
        let mut paths = vec![path.to_owned()];
        let mut seen = HashSet::from([path.to_owned()]);
        let mut at = 0;
        while let Some(path) = paths.get(at).cloned() {
            if !is_plain_path(&path) || paths.len() > MAX_INTERPRETATIONS {
                return None;
            }
            let read = NORMALIZATIONS
                .iter()
                .map(|normalize| normalize(&path))
                .collect::<Option<Vec<_>>>()?;
            paths.extend(read.into_iter().filter(|read| seen.insert(read.clone())));
            at += 1;
        }
        Some(Interpretations { ambiguity: Ambiguity::Segments, paths })
    }
}

/// Normalizations that a program may apply before it looks a path up; `None` if one does not apply.
const NORMALIZATIONS: [fn(&str) -> Option<String>; 5] = [
    |path| Some(percent_decode(path.as_bytes()).decode_utf8().ok()?.into_owned()),
    |path| Some(before_delimiter(path).to_owned()),
    |path| Some(path.replace('\\', "/")),
    |path| Some(strip_parameters(path)),
    |path| Some(merge_slashes(path)),
];

/// Folds a path as lenient file systems do: case, trailing dots and spaces of a name, and the part
/// after a colon (`/admin::$DATA`) make no difference. An upper bound: it folds more names together
/// than any one program does.
pub fn fold_filesystem_name(path: &str) -> String {
    let names = path.split('/').map(|name| {
        let name = name.split(':').next().unwrap_or_default();
        name.trim_end_matches(['.', ' '])
    });
    let names = names.filter(|name| !name.is_empty());
    let mut found = String::with_capacity(path.len());
    for name in names {
        found.push('/');
        // Uppercase first: letters such as the long s have no lower case of their own.
        found.extend(name.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase));
    }
    found
}

fn strip_parameters(path: &str) -> String {
    let segments = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    segments.collect::<Vec<_>>().join("/")
}

fn merge_slashes(path: &str) -> String {
    let mut out = path.to_owned();
    while out.contains("//") {
        out = out.replace("//", "/");
    }
    out
}

fn is_plain_path(path: &str) -> bool {
    path.starts_with('/')
        && path.bytes().all(|byte| byte >= 0x20 && byte != 0x7f)
        && !path.split('/').any(|segment| matches!(segment, "." | ".."))
}

fn before_delimiter(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interpretations(path: &str) -> Vec<String> {
        let mut paths = Interpretations::enumerate(path).map_or_else(Vec::new, |all| all.paths);
        paths.sort();
        paths.dedup();
        paths
    }

    /// HYP-17.
    #[test]
    fn every_normalization_is_tried() {
        assert_eq!(interpretations("/a%2Fb"), ["/a%2Fb", "/a/b"]);
        assert_eq!(interpretations("/a//b"), ["/a//b", "/a/b"]);
        assert_eq!(interpretations("/a;x/b"), ["/a/b", "/a;x/b"]);
        assert_eq!(interpretations("/a%255Cb"), ["/a%255Cb", "/a%5Cb", "/a/b", "/a\\b"]);
        assert_eq!(interpretations("/a%3Fb%2Fc"), ["/a", "/a%3Fb%2Fc", "/a?b/c"]);
        assert!(interpretations("/a%2f%2f;y%5cb").contains(&"/a/b".to_owned()));
    }

    /// HYP-17.
    #[test]
    fn names_are_folded_like_lenient_file_systems() {
        for path in [
            "/Admin/x",
            "/ADMIN/X",
            "/admin./x.",
            "/admin . /x ",
            "/admin::$INDEX_ALLOCATION/x:y",
            "/ /.../admin//x/",
            "/admın/x",
        ] {
            let found = fold_filesystem_name(path);
            assert_eq!(found, "/admin/x", "{path}");
        }
        assert_eq!(fold_filesystem_name("/.well-known/a b.c"), "/.well-known/a b.c");
        assert_eq!(fold_filesystem_name("/ſK"), "/sk");
        assert_eq!(fold_filesystem_name("/"), "");
    }

    /// HYP-17.
    #[test]
    fn normalizations_are_tried_in_any_order() {
        // Parameters cut off first, then decoded, as Tomcat does.
        assert!(interpretations("/;x%2fp/%71").contains(&"/q".to_owned()));
        assert!(interpretations("/;x%2fp/%71").contains(&"/p/q".to_owned()));
    }

    /// HYP-17.
    #[test]
    fn paths_that_name_nothing_have_no_interpretation() {
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
            assert_eq!(Interpretations::enumerate(path), None, "{path}");
        }
        assert_eq!(Interpretations::enumerate(&format!("/{}", "a".repeat(MAX_PATH))), None);
    }
}
