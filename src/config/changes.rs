//! What differs between two configuration files, for `doorward reload`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::diagnostic::may_hold_secret;

/// A key whose value differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// Path of the key, such as `session.idle_timeout` or `route[app.example.com/].access`.
    pub key: String,
    /// TOML literal in the running configuration; `None` if the key was not set.
    pub before: Option<String>,
    /// TOML literal in the new configuration; `None` if the key is not set.
    pub after: Option<String>,
}

impl fmt::Display for KeyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match (&self.before, &self.after) {
            (None, Some(after)) => write!(f, "+ {key} = {after}"),
            (Some(before), None) => write!(f, "- {key} = {before}"),
            (Some(before), Some(after)) => write!(f, "~ {key}: {before} -> {after}"),
            (None, None) => write!(f, "  {key}"),
        }
    }
}

/// Compares two configuration files key by key. Comments, order and defaults that are not written have no
/// effect. A text that is not TOML counts as empty.
pub fn changes(before: &str, after: &str) -> Vec<KeyChange> {
    let (before, after) = (flatten(before), flatten(after));
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differing = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    let value = |values: &BTreeMap<String, String>, key| values.get(key).map(|text| redact(text));
    differing
        .map(|key| KeyChange {
            key: key.clone(),
            before: value(&before, key),
            after: value(&after, key),
        })
        .collect()
}

/// Hides a URL that may hold a password.
fn redact(literal: &str) -> String {
    match may_hold_secret(literal, &(0..literal.len())) {
        true => "(hidden)".to_owned(),
        false => literal.to_owned(),
    }
}

fn flatten(text: &str) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    add_table(&mut out, "", &text.parse::<Table>().unwrap_or_default());
    out
}

fn add_table(out: &mut BTreeMap<String, String>, path: &str, table: &Table) {
    for (key, value) in table {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        add_value(out, &path, value);
    }
}

fn add_value(out: &mut BTreeMap<String, String>, path: &str, value: &Value) {
    match value {
        Value::Table(table) => add_table(out, path, table),
        Value::Array(list) if list.iter().any(Value::is_table) => {
            for (index, table) in list.iter().filter_map(Value::as_table).enumerate() {
                add_table(out, &format!("{path}[{}]", label(table, index)), table);
            }
        }
        Value::String(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Datetime(_)
        | Value::Array(_) => {
            out.insert(path.to_owned(), value.to_string());
        }
    }
}

/// Names a section of a list by what identifies it, so that a new one in front renames no other.
fn label(table: &Table, index: usize) -> String {
    let text = |key| table.get(key).and_then(Value::as_str);
    match (text("host"), text("cert")) {
        (Some(host), _) => format!("{host}{}", text("path").unwrap_or("/")),
        (None, Some(cert)) => cert.to_owned(),
        (None, None) => index.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(before: &str, after: &str) -> Vec<String> {
        changes(before, after).iter().map(ToString::to_string).collect()
    }

    const BEFORE: &str = r#"
        [session] # the defaults
        idle_timeout = "30m"
        [[route]]
        host = "app.test"
        access = "session"
    "#;

    #[test]
    fn changes_name_added_removed_and_changed_keys() {
        let after = r#"
            [[route]]
            host = "new.test"
            path = "/x"
            [[route]]
            host = "app.test"
            access = "public"
            [session]
            absolute_timeout = "8h"
        "#;
        let expected = [
            r#"~ route[app.test/].access: "session" -> "public""#,
            r#"+ route[new.test/x].host = "new.test""#,
            r#"+ route[new.test/x].path = "/x""#,
            r#"+ session.absolute_timeout = "8h""#,
            r#"- session.idle_timeout = "30m""#,
        ];
        assert_eq!(lines(BEFORE, after), expected);
    }

    #[test]
    fn comments_and_order_are_no_change() {
        let after = "[[route]]\naccess = \"session\"\nhost = \"app.test\"\n[session]\nidle_timeout = '30m'\n";
        assert!(lines(BEFORE, after).is_empty());
    }

    #[test]
    fn a_url_with_a_password_is_hidden() {
        let url = |secret| format!("[store]\nurl = \"redis://:{secret}@db:6379\"\n");
        assert_eq!(lines(&url("a"), &url("b")), ["~ store.url: (hidden) -> (hidden)"]);
    }
}
