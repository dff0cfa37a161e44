//! Rules that apply to some methods only.

use http::Method;

/// The methods that a rule applies to. By default all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Methods {
    #[default]
    All,
    Only(Vec<Method>),
}

impl Methods {
    /// The methods that a rule can list. HEAD belongs to GET (RFC 9110 9.3.2).
    pub const CONFIGURABLE: [Method; 6] =
        [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

    /// Returns whether the rule lists the method.
    pub fn contains(&self, method: &Method) -> bool {
        match self {
            Methods::All => true,
            Methods::Only(named) => named.contains(configurable(method)),
        }
    }

    /// Returns whether a protective rule applies to a request.
    ///
    /// It also applies to methods that a rule cannot list, and to WebSockets, which transport anything
    /// without a method.
    pub fn applies_to(&self, method: &Method, websocket: bool) -> bool {
        websocket || self.contains(method) || !Methods::CONFIGURABLE.contains(configurable(method))
    }
}

fn configurable(method: &Method) -> &Method {
    if *method == Method::HEAD { &Method::GET } else { method }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_lists_all_methods_by_default_and_head_with_get() {
        let writing = Methods::Only(vec![Method::POST, Method::DELETE]);
        let reading = Methods::Only(vec![Method::GET]);
        let named = |methods: &Methods, method| methods.contains(&method);
        assert!(named(&Methods::All, Method::GET) && named(&Methods::All, Method::TRACE));
        assert!(named(&writing, Method::DELETE) && !named(&writing, Method::PUT));
        assert!(named(&reading, Method::HEAD) && !named(&writing, Method::HEAD));
    }

    #[test]
    fn a_rule_applies_to_methods_that_it_cannot_list() {
        let writing = Methods::Only(vec![Method::POST]);
        let propfind = Method::from_bytes(b"PROPFIND").expect("a method");
        assert!(writing.applies_to(&propfind, false) && !writing.contains(&propfind));
        assert!(writing.applies_to(&Method::GET, true), "a WebSocket");
        assert!(
            !writing.applies_to(&Method::GET, false) && !writing.applies_to(&Method::HEAD, false)
        );
    }
}
