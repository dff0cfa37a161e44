//! Rules that hold for some methods only.

use http::Method;

/// The methods of a rule. By default all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Methods {
    #[default]
    All,
    These(Vec<Method>),
}

impl Methods {
    /// Those that a rule can name. HEAD goes with GET, whose answer it asks for (RFC 9110 9.3.2).
    pub const NAMED: [Method; 6] =
        [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

    /// Whether the rule names the method.
    pub fn name(&self, method: &Method) -> bool {
        match self {
            Methods::All => true,
            Methods::These(named) => named.contains(as_named(method)),
        }
    }

    /// Whether the rule holds for a request, where to be held is to be safe: also for methods that it
    /// cannot name, and for a WebSocket, through which anything is sent without one.
    pub fn hold(&self, method: &Method, websocket: bool) -> bool {
        websocket || self.name(method) || !Methods::NAMED.contains(as_named(method))
    }
}

fn as_named(method: &Method) -> &Method {
    if *method == Method::HEAD { &Method::GET } else { method }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_without_methods_holds_for_all_and_head_goes_with_get() {
        let writing = Methods::These(vec![Method::POST, Method::DELETE]);
        let reading = Methods::These(vec![Method::GET]);
        let named = |methods: &Methods, method| methods.name(&method);
        assert!(named(&Methods::All, Method::GET) && named(&Methods::All, Method::TRACE));
        assert!(named(&writing, Method::DELETE) && !named(&writing, Method::PUT));
        assert!(named(&reading, Method::HEAD) && !named(&writing, Method::HEAD));
    }

    #[test]
    fn what_a_rule_cannot_name_is_held_by_it() {
        let writing = Methods::These(vec![Method::POST]);
        let propfind = Method::from_bytes(b"PROPFIND").expect("a method");
        assert!(writing.hold(&propfind, false) && !writing.name(&propfind));
        assert!(writing.hold(&Method::GET, true), "a WebSocket");
        assert!(!writing.hold(&Method::GET, false) && !writing.hold(&Method::HEAD, false));
    }
}
