//! The query of a callback. A repeated parameter is refused, because two programs could read different ones.

use super::failure::LoginRefusal;

/// Longest query in bytes: two sealed states and a code of 4 KiB.
const MAX_QUERY: usize = 12 * 1024;

/// The parameters of a callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    /// The sealed login state.
    pub state: String,
    pub(super) outcome: CallbackOutcome,
    pub(super) issuer: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallbackOutcome {
    Code(String),
    Error { code: String, description: Option<String> },
}

impl Callback {
    /// Parses the query of a callback request.
    ///
    /// # Errors
    /// A parameter is repeated or missing, or code and error occur together.
    pub fn parse(query: &str) -> Result<Callback, LoginRefusal> {
        if query.len() > MAX_QUERY {
            return Err(LoginRefusal::Callback("the query is too long"));
        }
        let mut found = Parameters::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            found.set(&name, &value)?;
        }
        found.into_callback()
    }
}

#[derive(Default)]
struct Parameters {
    state: Option<String>,
    code: Option<String>,
    error: Option<String>,
    description: Option<String>,
    issuer: Option<String>,
}

impl Parameters {
    fn set(&mut self, name: &str, value: &str) -> Result<(), LoginRefusal> {
        let field = match name {
            "state" => &mut self.state,
            "code" => &mut self.code,
            "error" => &mut self.error,
            "error_description" => &mut self.description,
            "iss" => &mut self.issuer,
            _ => return Ok(()),
        };
        match field.replace(value.to_owned()) {
            None => Ok(()),
            Some(_) => Err(LoginRefusal::Callback("a parameter is repeated")),
        }
    }

    fn into_callback(self) -> Result<Callback, LoginRefusal> {
        let state = self.state.ok_or(LoginRefusal::Callback("`state` is missing"))?;
        let outcome = match (self.code, self.error) {
            (Some(code), None) if !code.is_empty() => CallbackOutcome::Code(code),
            (None, Some(code)) => CallbackOutcome::Error { code, description: self.description },
            (Some(_), Some(_)) => {
                return Err(LoginRefusal::Callback("it has both a code and an error"));
            }
            (_, None) => return Err(LoginRefusal::Callback("`code` is missing")),
        };
        Ok(Callback { state, outcome, issuer: self.issuer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_has_a_code_or_an_error() {
        let callback = Callback::parse("code=c%2B1&state=s&iss=https%3A%2F%2Fa.test").expect("ok");
        assert_eq!(callback.outcome, CallbackOutcome::Code("c+1".to_owned()));
        assert_eq!(callback.issuer.as_deref(), Some("https://a.test"));
        let callback = Callback::parse("error=access_denied&error_description=no&state=s");
        let expected = CallbackOutcome::Error {
            code: "access_denied".to_owned(),
            description: Some("no".to_owned()),
        };
        assert_eq!(callback.expect("an error").outcome, expected);
    }

    #[test]
    fn a_repeated_parameter_of_a_callback_is_refused() {
        for repeated in ["state=s", "code=d", "iss=x", "%73tate=t", "error=e"] {
            let query = format!("code=c&state=s&iss=i&{repeated}");
            assert!(matches!(Callback::parse(&query), Err(LoginRefusal::Callback(_))), "{query}");
        }
        let repeated = "error=e&error=f&state=s";
        assert!(matches!(Callback::parse(repeated), Err(LoginRefusal::Callback(_))));
        assert!(Callback::parse("code=c&state=s&session_state=1&session_state=2").is_ok());
    }

    #[test]
    fn an_incomplete_or_long_callback_is_refused() {
        let long = format!("code={}&state=s", "c".repeat(MAX_QUERY));
        for query in ["", "code=c", "state=s", "code=&state=s", "code=c&error=e&state=s", &long] {
            assert!(
                matches!(Callback::parse(query), Err(LoginRefusal::Callback(_))),
                "{query:.40}"
            );
        }
    }
}
