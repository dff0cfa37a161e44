//! Distinguished names (RFC 4514), as far as group names need them. Pure.

/// One part of a name: attribute in lower case, and value.
type Part = (String, String);

/// A distinguished name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dn(Vec<Vec<Part>>);

impl Dn {
    /// Parses a name. `None` if its parts are not certain.
    pub(super) fn parse(text: &str) -> Option<Dn> {
        let mut parts = vec![vec![]];
        let mut rest = text;
        loop {
            let (attribute, after) = rest.split_once('=')?;
            let (value, separator, after) = take_value(after)?;
            let attribute = attribute.trim().to_ascii_lowercase();
            let is_valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
            if attribute.is_empty() || value.is_empty() || !attribute.chars().all(is_valid) {
                return None;
            }
            parts.last_mut()?.push((attribute, value));
            match separator {
                None => return Some(Dn(parts)),
                Some('+') => {}
                Some(_) => parts.push(vec![]),
            }
            rest = after;
        }
    }

    /// Whether the name is below another one.
    pub(super) fn is_below(&self, base: &Dn) -> bool {
        let Some(own) = self.0.len().checked_sub(base.0.len()) else { return false };
        let above = self.0.iter().skip(own);
        own > 0 && above.zip(&base.0).all(|(one, other)| is_same(one, other))
    }

    /// Returns the value of an attribute in the first part.
    pub(super) fn first(&self, attribute: &str) -> Option<&str> {
        let mut parts = self.0.first()?.iter();
        let found = parts.find(|(name, _)| name.eq_ignore_ascii_case(attribute));
        found.map(|(_, value)| value.as_str())
    }
}

/// Directories compare these names without regard to case.
fn is_same(one: &[Part], other: &[Part]) -> bool {
    let has = |(name, value): &Part| {
        other.iter().any(|(n, v)| n == name && v.to_lowercase() == value.to_lowercase())
    };
    one.len() == other.len() && one.iter().all(has)
}

/// Returns a value without escapes, the separator after it, and the rest.
fn take_value(text: &str) -> Option<(String, Option<char>, &str)> {
    // Values as hexadecimal BER (`#04…`) and in quotes (RFC 2253) have no certain text.
    if text.trim_start().starts_with(['#', '"']) {
        return None;
    }
    let mut bytes = Vec::new();
    // The length with the last character that is not an unescaped space.
    let mut kept = 0;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            ',' | '+' | ';' => {
                let rest = text.get(at..)?.strip_prefix(c)?;
                return Some((finish(bytes, kept)?, Some(c), rest));
            }
            '\\' => {
                bytes.extend_from_slice(&unescape(&mut chars)?);
                kept = bytes.len();
            }
            ' ' if bytes.is_empty() => {}
            c => {
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                if c != ' ' {
                    kept = bytes.len();
                }
            }
        }
    }
    Some((finish(bytes, kept)?, None, ""))
}

fn finish(mut bytes: Vec<u8>, kept: usize) -> Option<String> {
    bytes.truncate(kept);
    String::from_utf8(bytes).ok()
}

/// Reads what follows a backslash: two hexadecimal digits, or one character.
fn unescape(chars: &mut std::str::CharIndices<'_>) -> Option<Vec<u8>> {
    let (_, first) = chars.next()?;
    let Some(high) = first.to_digit(16) else {
        return Some(first.to_string().into_bytes());
    };
    let (_, second) = chars.next()?;
    Some(vec![u8::try_from(high * 16 + second.to_digit(16)?).ok()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dn(text: &str) -> Dn {
        Dn::parse(text).expect(text)
    }

    #[test]
    fn escaped_separators_do_not_end_a_part() {
        for (text, name) in [
            ("cn=staff,ou=groups,dc=test", "staff"),
            ("CN=Smith\\, Jane,OU=x", "Smith, Jane"),
            ("cn=a\\2cou=groups\\2cdc=test,ou=x", "a,ou=groups,dc=test"),
            ("cn=L\\c3\\bcbeck , ou=x", "L\u{fc}beck"),
            ("ou=x + cn= two words ,dc=test", "two words"),
            ("cn=a\\ ,dc=test", "a "),
            ("cn=a\\=b\\+c,dc=test", "a=b+c"),
        ] {
            assert_eq!(dn(text).first("cn"), Some(name), "{text}");
        }
        assert_eq!(dn("ou=staff,cn=groups").first("cn"), None);
    }

    #[test]
    fn only_whole_parts_make_a_name_lie_below_another() {
        let base = dn("ou=Groups,dc=Test");
        assert!(dn("cn=a,OU=groups , dc=test").is_below(&base));
        assert!(dn("cn=a,ou=sub,ou=groups,dc=test").is_below(&base));
        for other in [
            "ou=groups,dc=test",
            "cn=a,ou=groups,dc=test,dc=evil",
            "cn=a\\,ou=groups,dc=test",
            "cn=a,ou=xgroups,dc=test",
            "cn=a,ou=groups+l=x,dc=test",
            "dc=test",
        ] {
            assert!(!dn(other).is_below(&base), "{other}");
        }
    }

    #[test]
    fn uncertain_names_are_not_read() {
        for text in [
            "",
            "staff",
            "cn=",
            "=a",
            "cn=a,",
            "cn=#0401",
            "cn=\"a,b\"",
            "cn=a\\",
            "cn=a\\4",
            "cn=\\ff",
            "c n=a",
        ] {
            assert_eq!(Dn::parse(text), None, "{text}");
        }
    }
}
