//! Maps the paths of a route to other paths of its upstream, and back.

use crate::message::PathPrefix;

/// Replaces the path prefix of a route by one of the upstream, for an app without a setting for its base path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathMapping {
    public: PathPrefix,
    upstream: PathPrefix,
}

impl PathMapping {
    /// `upstream` replaces the prefix `public`.
    pub fn new(public: PathPrefix, upstream: PathPrefix) -> PathMapping {
        PathMapping { public, upstream }
    }

    /// Returns the prefix at the upstream.
    pub fn upstream(&self) -> &PathPrefix {
        &self.upstream
    }

    /// Returns the path and query that the upstream receives. `None` if the path spells the prefix of the route in
    /// another way, such as percent-encoded.
    pub fn to_upstream(&self, target: &str) -> Option<String> {
        replace_prefix(target, &self.public, &self.upstream)
    }

    /// Returns the public path of a path that the upstream names; `None` if it is not below the upstream's prefix.
    pub fn to_public(&self, path: &str) -> Option<String> {
        replace_prefix(path, &self.upstream, &self.public)
    }
}

fn replace_prefix(path: &str, from: &PathPrefix, to: &PathPrefix) -> Option<String> {
    let (from, to) = (from.as_str().trim_end_matches('/'), to.as_str().trim_end_matches('/'));
    let rest = path.strip_prefix(from)?;
    let is_at_end = rest.is_empty() || rest.starts_with(['/', '?', '#']);
    let slash = if to.is_empty() && !rest.starts_with('/') { "/" } else { "" };
    is_at_end.then(|| [to, slash, rest].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(public: &str, upstream: &str) -> PathMapping {
        let prefix = |text| PathPrefix::parse(text).expect("a prefix");
        PathMapping::new(prefix(public), prefix(upstream))
    }

    #[test]
    fn the_prefix_of_the_route_is_replaced() {
        for (public, upstream, target, mapped) in [
            ("/wiki", "/", "/wiki", Some("/")),
            ("/wiki", "/", "/wiki/", Some("/")),
            ("/wiki", "/", "/wiki?a=/wiki", Some("/?a=/wiki")),
            ("/wiki", "/", "/wiki/a%2Fb?q", Some("/a%2Fb?q")),
            ("/wiki", "/", "/wiki//a", Some("//a")),
            ("/wiki", "/apps/wiki", "/wiki/a", Some("/apps/wiki/a")),
            ("/wiki", "/apps/wiki", "/wiki", Some("/apps/wiki")),
            ("/", "/app", "/a?b", Some("/app/a?b")),
            ("/", "/app", "/", Some("/app/")),
            ("/wiki", "/", "/wikipedia", None),
            ("/wiki", "/", "/%77iki/a", None),
            ("/wiki", "/", "/WIKI/a", None),
        ] {
            let found = mapping(public, upstream).to_upstream(target);
            assert_eq!(found.as_deref(), mapped, "{public} -> {upstream}: {target}");
        }
    }

    #[test]
    fn a_path_of_the_upstream_becomes_public() {
        for (public, upstream, path, mapped) in [
            ("/wiki", "/", "/", Some("/wiki/")),
            ("/wiki", "/", "/login?next=/", Some("/wiki/login?next=/")),
            ("/wiki", "/", "/a#b", Some("/wiki/a#b")),
            ("/wiki", "/app", "/app", Some("/wiki")),
            ("/wiki", "/app", "/other", None),
            ("/", "/app", "/app", Some("/")),
            ("/", "/app", "/app/a", Some("/a")),
            ("/", "/app", "/application", None),
        ] {
            let found = mapping(public, upstream).to_public(path);
            assert_eq!(found.as_deref(), mapped, "{upstream} -> {public}: {path}");
        }
    }
}
