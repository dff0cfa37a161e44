//! Claims of a provider that templates of routes contain. Pure.
//!
//! Only these claims are kept: a token may have hundreds, and every session record is read often.

use serde_json::{Map, Value};

/// Longest value in bytes.
const MAX_VALUE: usize = 1024;

/// Most bytes of all values of a user.
const MAX_TOTAL: usize = 4096;

/// Returns names and values, in the order of `names`. A claim that the provider does not send is left out.
///
/// # Errors
/// A value has an unusable shape or size; the text is for the log. An app would take a user without the
/// claim for another kind of user.
pub(super) fn select(
    claims: &Map<String, Value>,
    names: &[String],
) -> Result<Vec<(String, String)>, String> {
    let mut kept = Vec::new();
    for name in names {
        let Some(value) = claims.get(name).filter(|value| !value.is_null()) else { continue };
        let text = text(value).ok_or_else(|| {
            format!(
                "the claim `{name}` is not a text of at most {MAX_VALUE} bytes, or a list of texts"
            )
        })?;
        if !text.is_empty() {
            kept.push((name.clone(), text));
        }
    }
    match kept.iter().map(|(_, value)| value.len()).sum::<usize>() <= MAX_TOTAL {
        true => Ok(kept),
        false => Err(format!("the claims of templates have more than {MAX_TOTAL} bytes")),
    }
}

fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Array(values) => joined(values)?,
        Value::Null | Value::Object(_) => return None,
    };
    (text.len() <= MAX_VALUE && !text.chars().any(char::is_control)).then_some(text)
}

/// A comma in a value would add a value.
fn joined(values: &[Value]) -> Option<String> {
    let texts = values.iter().map(|value| value.as_str().filter(|text| !text.contains(',')));
    texts.collect::<Option<Vec<&str>>>().map(|texts| texts.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selected(claims: Value) -> Result<Vec<(String, String)>, String> {
        let Value::Object(claims) = claims else { panic!("no object") };
        select(&claims, &["department", "given_name", "level"].map(str::to_owned))
    }

    #[test]
    fn only_claims_of_templates_are_kept() {
        let claims =
            json!({ "given_name": "Zo\u{eb}", "level": 3, "department": ["a", "b"], "x": "y" });
        let kept = selected(claims).expect("usable");
        let pairs: Vec<_> =
            kept.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("department", "a,b"), ("given_name", "Zo\u{eb}"), ("level", "3")]);
        assert_eq!(selected(json!({ "level": null, "given_name": "" })), Ok(Vec::new()));
    }

    #[test]
    fn a_claim_of_an_unusable_shape_is_refused() {
        let long = "x".repeat(1025);
        for value in [json!({}), json!([1]), json!(["a,b"]), json!("a\nb"), json!(long)] {
            assert!(selected(json!({ "level": value })).is_err(), "{value}");
        }
        let large = json!({ "level": vec!["x"; 400].join(","), "given_name": "x" });
        assert!(selected(large).is_ok());
    }

    #[test]
    fn all_kept_claims_together_are_limited() {
        let names: Vec<String> = (0..5).map(|index| format!("claim{index}")).collect();
        let claims =
            |bytes| names.iter().map(|name| (name.clone(), json!("x".repeat(bytes)))).collect();
        assert!(select(&claims(1024), &names[..4]).is_ok());
        assert!(select(&claims(1024), &names).is_err());
    }
}
