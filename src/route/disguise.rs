//! Paths that a lenient upstream resolves to a stricter route: `/ADMIN`, `/admin.`, `/admin.json` or
//! full-width letters beside a route `/admin`.
//!
//! An upper bound: it folds more names together than any one program does.

use icu_normalizer::uts46::Uts46MapperBorrowed;

/// The names of a route's path, folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoldedPrefix(Vec<String>);

/// The first names of a request's path, folded as far as any prefix needs them.
pub(super) struct FoldedPath {
    names: Vec<String>,
    /// Whether the path may lead anywhere: it contains a disguised dot segment, or too many empty names.
    is_evasive: bool,
}

/// Names of a path that fold to nothing, such as a space. A path with more of them counts as disguised.
const MAX_EMPTY: usize = 16;

/// How much of a path is folded, so that the cost depends on the routes and not on the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FoldLimits {
    names: usize,
    /// Characters of one name.
    chars: usize,
}

impl FoldedPrefix {
    /// Returns `None` if no name is left, as for a path of dots: it would cover every path.
    pub(super) fn new(path: &str) -> Option<FoldedPrefix> {
        let names: Vec<String> = segments(path).map(|name| fold(name, usize::MAX)).collect();
        let names: Vec<String> = names.into_iter().filter(|name| !name.is_empty()).collect();
        (!names.is_empty()).then_some(FoldedPrefix(names))
    }

    /// Whether the path is at or below the prefix for some upstream. A file extension of the last name
    /// makes no difference: frameworks route `/admin.json` like `/admin`.
    pub(super) fn covers(&self, path: &FoldedPath) -> bool {
        let Some((last, parents)) = self.0.split_last() else { return false };
        let is_below = path.names.starts_with(parents);
        let name = path.names.get(parents.len()).and_then(|name| name.strip_prefix(last.as_str()));
        path.is_evasive
            || is_below && name.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl FoldLimits {
    /// The limits that all prefixes need.
    pub(super) fn new<'a>(prefixes: impl Iterator<Item = &'a FoldedPrefix>) -> FoldLimits {
        prefixes.fold(FoldLimits::default(), |limits, FoldedPrefix(names)| {
            let chars = names.iter().map(|name| name.chars().count()).max();
            FoldLimits {
                names: limits.names.max(names.len()),
                chars: limits.chars.max(chars.unwrap_or_default()),
            }
        })
    }
}

impl FoldedPath {
    pub(super) fn new(path: &str, limits: FoldLimits) -> FoldedPath {
        // One more character shows whether a name ends or has an extension.
        let chars = limits.chars.saturating_add(1);
        let (mut names, mut empty) = (Vec::new(), 0);
        for name in segments(path).filter(|name| !name.is_empty()) {
            if names.len() == limits.names || empty > MAX_EMPTY {
                break;
            }
            match fold(name, chars) {
                name if name.is_empty() => empty += 1,
                name => names.push(name),
            }
        }
        let has_dot_segment = !path.is_ascii() && segments(path).any(is_disguised_dot_segment);
        FoldedPath { names, is_evasive: has_dot_segment || empty > MAX_EMPTY }
    }
}

/// Splits at slashes, and at characters that Windows code pages convert to a slash or a backslash.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split(|c: char| {
        matches!(c, '/' | '\\')
            || matches!(
                c,
                '\u{a5}'
                    | '\u{2044}'
                    | '\u{20a9}'
                    | '\u{2215}'
                    | '\u{2216}'
                    | '\u{29f5}'
                    | '\u{29f8}'
                    | '\u{29f9}'
                    | '\u{fe68}'
                    | '\u{ff0f}'
                    | '\u{ff3c}'
            )
    })
}

/// Folds a name: compatibility forms (NFKC), case, invisible characters, dots and spaces around it,
/// and the part after a colon (`admin::$DATA`).
fn fold(name: &str, chars: usize) -> String {
    let folded: String = if name.is_ascii() {
        let name = name.chars().take_while(|c| *c != ':');
        name.map(|c| c.to_ascii_lowercase()).take(chars).collect()
    } else {
        let visible = name.chars().filter(|c| !is_ignorable(*c));
        let spaced = visible.map(|c| if c.is_whitespace() || c.is_control() { ' ' } else { c });
        let mapper = Uts46MapperBorrowed::new();
        let mapped = mapper.map_normalize(spaced).take_while(|c| *c != ':');
        // Uppercase first: letters such as the dotless i have no lower case of their own.
        let folded = mapped.flat_map(char::to_uppercase).flat_map(char::to_lowercase);
        folded.take(chars).collect()
    };
    folded.trim_start_matches(' ').trim_end_matches(['.', ' ']).to_owned()
}

/// A dot segment of full-width or other dots. One in ASCII never gets here.
fn is_disguised_dot_segment(name: &str) -> bool {
    let mut visible = name.chars().filter(|c| !is_ignorable(*c));
    let dots = ['.', '\u{2024}', '\u{2025}', '\u{3002}', '\u{fe52}', '\u{ff0e}', '\u{ff61}'];
    !name.is_ascii() && visible.clone().next().is_some() && visible.all(|c| dots.contains(&c))
}

/// `Default_Ignorable_Code_Point` of Unicode.
fn is_ignorable(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(prefix: &str, path: &str) -> bool {
        let prefix = FoldedPrefix::new(prefix).expect("a name");
        prefix.covers(&FoldedPath::new(path, FoldLimits::new([&prefix].into_iter())))
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
            "/adm\u{131}n/x",
            "/admin/x/below",
        ] {
            assert!(covers("/admin/x", path), "{path}");
        }
        for path in ["/admin", "/admin/y", "/admin/xx", "/administrator/x", "/x/admin/x", "/"] {
            assert!(!covers("/admin/x", path), "{path}");
        }
        assert!(covers("/sk", "/\u{17f}\u{212a}"));
        assert_eq!(FoldedPrefix::new("/.../ /"), None);
    }

    /// HYP-17.
    #[test]
    fn a_file_extension_makes_no_difference() {
        for path in ["/admin.json", "/admin.php/x", "/ADMIN.tar.gz", "/admin.json::$DATA"] {
            assert!(covers("/admin", path), "{path}");
        }
        for path in ["/adminx.json", "/admin-x.json", "/.admin", "/x.admin"] {
            assert!(!covers("/admin", path), "{path}");
        }
        assert!(!covers("/v1.0", "/v1") && covers("/v1.0", "/v1.0.json"));
    }

    /// HYP-17.
    #[test]
    fn compatibility_forms_and_invisible_characters_are_folded() {
        for path in [
            "/\u{ff41}\u{ff44}\u{ff4d}\u{ff49}\u{ff4e}",
            "/\u{1d41a}dmin",
            "/ad\u{200b}min",
            "/ad\u{ad}min\u{feff}",
            "/ad\u{e0061}m\u{202e}in",
            "/admin\u{a0}",
            "/admin\u{85}",
            "/\u{3000}admin\u{2003}",
            "/admin\u{ff0e}",
            "/admin\u{3002}json",
            "/admin\u{ff1a}\u{ff1a}$DATA",
            "/admin\u{ff0f}x",
            "/admin\u{2215}x",
            "/x\u{2044}..",
            "/admin\u{a5}x",
            "/x/\u{ff0e}\u{ff0e}/admin",
            "/x/\u{2025}/admin",
        ] {
            let climbs = path.starts_with("/x");
            assert_eq!(covers("/admin", path), !path.starts_with("/x\u{2044}"), "{path} {climbs}");
        }
        assert!(covers("/\u{e9}t\u{e9}", "/E\u{301}TE\u{301}"), "NFD");
        assert!(!covers("/admin", "/\u{e1}dmin") && !covers("/admin", "/x/\u{2026}n"));
    }

    #[test]
    fn the_cost_of_folding_depends_on_the_routes_only() {
        let prefix = FoldedPrefix::new("/admin").expect("a name");
        let limits = FoldLimits::new([&prefix].into_iter());
        assert!(!covers("/admin", "/ / /x") && covers("/admin", &"/ ".repeat(20)));
        let path = FoldedPath::new(&"/\u{ff41}".repeat(1_000), limits);
        assert_eq!(path.names.len(), 1);
        assert!(FoldedPath::new(&format!("/{}", "x".repeat(1_000)), limits).names[0].len() < 10);
    }
}
