//! What other programs may take an ambiguous path for.
//!
//! An app behind the gateway may decode a path again, fold `\` to `/`, cut `;parameters` off, or merge
//! slashes. Whether a rule can be passed by in that way is a question of where all these readings
//! lead: where every one of them finds the same route, no other route's rule is in play.

use percent_encoding::percent_decode;

/// Longest path that is read in several ways: each costs a copy, and nobody has logged in yet.
const LONGEST: usize = 2_048;

/// How often a path may be encoded on top of itself.
const DEPTH: usize = 4;

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
    /// Of a decoded path that is plain but for `?` and `#`.
    pub(super) fn cut_at_marks(decoded: &str) -> Readings {
        let paths = vec![decoded.to_owned(), before_marks(decoded).to_owned()];
        Readings { doubt: Doubt::Mark, paths }
    }

    /// Of any path; `None` where one of them holds dot segments or control characters, is no text, or
    /// where there is no end to them. Those are nobody's names of anything.
    pub(super) fn of(path: &str) -> Option<Readings> {
        let mut paths = Vec::new();
        for stage in stages(path)? {
            for text in [&stage, before_marks(&stage)] {
                for choice in 0..8_u8 {
                    paths.push(folded(text, choice));
                }
            }
        }
        paths
            .iter()
            .all(|path| is_harmless(path))
            .then_some(Readings { doubt: Doubt::Shape, paths })
    }
}

/// The path as it came, decoded once, decoded twice, until nothing is left to decode.
fn stages(path: &str) -> Option<Vec<String>> {
    if path.len() > LONGEST {
        return None;
    }
    let mut stages = vec![path.to_owned()];
    for _ in 0..DEPTH {
        let last = stages.last()?;
        let next = percent_decode(last.as_bytes()).decode_utf8().ok()?.into_owned();
        if next == *last {
            return Some(stages);
        }
        stages.push(next);
    }
    None
}

/// One reader, made of three habits that it may have or not.
fn folded(path: &str, habits: u8) -> String {
    let mut out = path.to_owned();
    if habits & 1 != 0 {
        out = out.replace('\\', "/");
    }
    if habits & 2 != 0 {
        let segments = out.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
        out = segments.collect::<Vec<_>>().join("/");
    }
    if habits & 4 != 0 {
        while out.contains("//") {
            out = out.replace("//", "/");
        }
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
