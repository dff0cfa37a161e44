//! Messages about keys that are unknown, planned, moved or renamed.

/// Keys of later versions. The message must not suggest a typing error.
const PLANNED: [&str; 2] = ["session.profile", "login.passkey"];

/// Keys that moved to the section `[limits]`. They do not load.
const MOVED: [(&str, &str); 5] = [
    ("server.max_connections", "connections"),
    ("server.handshake_timeout", "handshake_timeout"),
    ("server.header_timeout", "header_timeout"),
    ("server.idle_timeout", "idle_timeout"),
    ("server.max_body", "max_body"),
];

/// Keys with a new name in the same section: section, former name, name. The former name still loads,
/// with a warning.
const RENAMED: [(&str, &str, &str); 3] = [
    ("route", "renewal", "rotation"),
    ("route.session", "obey_upstream", "upstream_control"),
    ("signals", "renew_at", "rotate_at"),
];

/// Returns the former name of a renamed key.
pub(super) fn former_name(section: &str, key: &str) -> Option<&'static str> {
    let renamed = RENAMED.iter().find(|(at, _, name)| *at == section && *name == key);
    renamed.map(|(_, former, _)| *former)
}

/// Returns the error about an unknown value, with the known ones.
pub(super) fn unknown_value(text: &str, known: &[&str]) -> String {
    let known: Vec<String> = known.iter().map(|value| format!("\"{value}\"")).collect();
    format!("`{text}` is unknown; write {}", known.join(" or "))
}

/// Returns the error about an unknown key, and what to write.
pub(super) fn report(section: &str, key: &str, known: &[&str]) -> (String, String) {
    let path = key_path(section, key);
    if let Some((_, now)) = MOVED.iter().find(|(before, _)| *before == path) {
        return (
            format!("`{key}` has moved out of [{section}]"),
            format!("write {now} below [limits]"),
        );
    }
    if let Some((_, _, name)) =
        RENAMED.iter().find(|(at, former, _)| *at == section && *former == key)
    {
        return (format!("`{key}` is the former name of `{name}`"), format!("leave out `{key}`"));
    }
    if PLANNED.contains(&path.as_str()) {
        return (
            format!("`{key}` is planned and does nothing yet"),
            "leave it out until a release supports it".to_owned(),
        );
    }
    let location = if section.is_empty() { String::new() } else { format!(" in [{section}]") };
    let help = match closest(key, known) {
        Some(suggestion) => format!("did you mean `{suggestion}`?"),
        None => format!("known here: {}", known.join(", ")),
    };
    (format!("unknown key `{key}`{location}"), help)
}

/// Returns `section.key`, or `key` at the top level.
pub(super) fn key_path(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// Returns the known name that a typing error probably meant.
pub(super) fn closest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let limit = (key.len() / 3).clamp(1, 3);
    known
        .iter()
        .map(|name| (strsim::levenshtein(key, name), *name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_gets_a_suggestion_and_another_key_the_list() {
        let known = ["idle_timeout", "domain"];
        assert_eq!(report("session", "idel_timeout", &known).1, "did you mean `idle_timeout`?");
        assert_eq!(report("session", "colour", &known).1, "known here: idle_timeout, domain");
    }

    #[test]
    fn a_moved_key_names_its_new_section() {
        let (message, help) = report("server", "max_connections", &["https"]);
        assert!(message.contains("has moved"), "{message}");
        assert_eq!(help, "write connections below [limits]");
    }

    #[test]
    fn a_planned_key_is_reported_as_planned() {
        assert!(report("session", "profile", &["url"]).0.contains("planned"));
    }
}
