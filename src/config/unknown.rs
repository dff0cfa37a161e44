//! What to say about a key that nobody asked for.

/// Keys that later versions will know: whoever reads about them should not look for a typing error.
const PLANNED: [&str; 4] = ["session.profile", "login.oidc", "login.ldap", "login.passkey"];

/// Keys that stood elsewhere in the first files, and where they stand now.
const MOVED: [(&str, &str); 5] = [
    ("server.max_connections", "connections"),
    ("server.handshake_timeout", "handshake_timeout"),
    ("server.header_timeout", "header_timeout"),
    ("server.idle_timeout", "idle_timeout"),
    ("server.max_body", "max_body"),
];

/// What is wrong with the key, and what to write.
pub(super) fn report(section: &str, key: &str, known: &[&str]) -> (String, String) {
    let path = joined(section, key);
    if let Some((_, now)) = MOVED.iter().find(|(before, _)| *before == path) {
        return (
            format!("`{key}` does not stand in [{section}] any more"),
            format!("write {now} below [limits]"),
        );
    }
    if PLANNED.contains(&path.as_str()) {
        return (
            format!("`{key}` is planned and does nothing yet"),
            "leave it out until the changelog names it".to_owned(),
        );
    }
    let place = if section.is_empty() { String::new() } else { format!(" in [{section}]") };
    let help = match nearest(key, known) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("known here: {}", known.join(", ")),
    };
    (format!("unknown key `{key}`{place}"), help)
}

/// `section.key`, or `key` at the top.
pub(super) fn joined(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let allowed = (key.len() / 3).clamp(1, 3);
    known
        .iter()
        .filter(|name| name.len().abs_diff(key.len()) <= allowed)
        .map(|name| (distance(key, name), *name))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// How many letters must be added, removed or changed (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (at, letter) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, other) in to.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_letters() {
        let table = [("", "", 0), ("abc", "", 3), ("idel", "idle", 2), ("kitten", "sitting", 3)];
        for (from, to, expected) in table {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn a_typing_error_is_told_what_was_meant_and_another_word_what_is_known() {
        let known = ["idle_timeout", "domain"];
        assert_eq!(report("session", "idel_timeout", &known).1, "did you mean `idle_timeout`?");
        assert_eq!(report("session", "colour", &known).1, "known here: idle_timeout, domain");
    }

    #[test]
    fn a_key_that_moved_says_where_to() {
        let (message, help) = report("server", "max_connections", &["https"]);
        assert!(message.contains("any more"), "{message}");
        assert_eq!(help, "write connections below [limits]");
    }

    #[test]
    fn a_planned_key_is_not_called_a_typing_error() {
        assert!(report("session", "profile", &["url"]).0.contains("planned"));
    }
}
