//! Search filters of LDAP (RFC 4515) with places for the user. Pure.
//!
//! A filter is parsed when the configuration is read. Names are inserted into the parsed filter, so no
//! character of a name can change its structure.

use std::fmt;

use ldap3_proto::proto::{LdapFilter, LdapMatchingRuleAssertion, LdapSubstringFilter};

/// Place of the name that the user typed.
const USER: &str = "{user}";
/// Place of the distinguished name of the user's entry.
const DN: &str = "{dn}";

/// Maximum nesting depth of a filter.
const MAX_DEPTH: usize = 16;

/// A filter that contains `{user}` or `{dn}`.
#[derive(Clone, PartialEq, Eq)]
pub struct FilterTemplate {
    text: String,
    filter: LdapFilter,
}

/// The text of the configuration.
impl fmt::Debug for FilterTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FilterTemplate {
    /// Parses the filter of users, which needs `{user}`.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub fn for_users(text: &str) -> Result<FilterTemplate, String> {
        if text.contains(DN) || !text.contains(USER) {
            return Err(format!("`{text}` needs {USER}, and no {DN}; write \"(uid={USER})\""));
        }
        FilterTemplate::parse(text)
    }

    /// Parses the filter of a user's groups, which needs `{dn}` or `{user}`.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub fn for_groups(text: &str) -> Result<FilterTemplate, String> {
        if !text.contains(DN) && !text.contains(USER) {
            return Err(format!("`{text}` does not contain {DN}; write \"(member={DN})\""));
        }
        FilterTemplate::parse(text)
    }

    fn parse(text: &str) -> Result<FilterTemplate, String> {
        let mut parser = Parser { rest: text.trim() };
        match parser.filter(MAX_DEPTH) {
            Some(filter) if parser.rest.is_empty() => {
                Ok(FilterTemplate { text: text.to_owned(), filter })
            }
            Some(_) | None => Err(format!(
                "`{text}` is not a filter; write parentheses around each part: \"(&(objectClass=person)(uid={USER}))\""
            )),
        }
    }

    /// Returns the filter for a user.
    pub fn fill(&self, user: &str, dn: &str) -> LdapFilter {
        let with_dn = |text: &str| text.replace(DN, dn);
        let insert = |text: &str| text.split(USER).map(with_dn).collect::<Vec<_>>().join(user);
        fill(&self.filter, &insert)
    }
}

/// Applies `insert` to every value.
fn fill(filter: &LdapFilter, insert: &dyn Fn(&str) -> String) -> LdapFilter {
    let all = |parts: &[LdapFilter]| parts.iter().map(|part| fill(part, insert)).collect();
    let optional = |text: &Option<String>| text.as_deref().map(insert);
    match filter {
        LdapFilter::And(parts) => LdapFilter::And(all(parts)),
        LdapFilter::Or(parts) => LdapFilter::Or(all(parts)),
        LdapFilter::Not(part) => LdapFilter::Not(Box::new(fill(part, insert))),
        LdapFilter::Equality(name, value) => LdapFilter::Equality(name.clone(), insert(value)),
        LdapFilter::GreaterOrEqual(name, value) => {
            LdapFilter::GreaterOrEqual(name.clone(), insert(value))
        }
        LdapFilter::LessOrEqual(name, value) => {
            LdapFilter::LessOrEqual(name.clone(), insert(value))
        }
        LdapFilter::Approx(name, value) => LdapFilter::Approx(name.clone(), insert(value)),
        LdapFilter::Present(name) => LdapFilter::Present(name.clone()),
        LdapFilter::Substring(name, parts) => {
            let parts = LdapSubstringFilter {
                initial: optional(&parts.initial),
                any: parts.any.iter().map(|text| insert(text)).collect(),
                final_: optional(&parts.final_),
            };
            LdapFilter::Substring(name.clone(), parts)
        }
        LdapFilter::Extensible(rule) => {
            let match_value = insert(&rule.match_value);
            LdapFilter::Extensible(LdapMatchingRuleAssertion { match_value, ..rule.clone() })
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn filter(&mut self, depth: usize) -> Option<LdapFilter> {
        let depth = depth.checked_sub(1)?;
        self.take("(")?;
        let filter = if self.take("&").is_some() {
            LdapFilter::And(self.filters(depth)?)
        } else if self.take("|").is_some() {
            LdapFilter::Or(self.filters(depth)?)
        } else if self.take("!").is_some() {
            LdapFilter::Not(Box::new(self.filter(depth)?))
        } else {
            self.item()?
        };
        self.take(")")?;
        Some(filter)
    }

    fn filters(&mut self, depth: usize) -> Option<Vec<LdapFilter>> {
        let mut filters = vec![self.filter(depth)?];
        while self.rest.starts_with('(') {
            filters.push(self.filter(depth)?);
        }
        Some(filters)
    }

    fn item(&mut self) -> Option<LdapFilter> {
        let (item, _) = self.rest.split_once(')')?;
        let (left, value) = item.split_once('=')?;
        self.rest = self.rest.strip_prefix(item)?;
        match left.chars().last()? {
            ':' => extensible(left.strip_suffix(':')?, unescape(value)?),
            '>' => {
                Some(LdapFilter::GreaterOrEqual(name(left.strip_suffix('>')?)?, unescape(value)?))
            }
            '<' => Some(LdapFilter::LessOrEqual(name(left.strip_suffix('<')?)?, unescape(value)?)),
            '~' => Some(LdapFilter::Approx(name(left.strip_suffix('~')?)?, unescape(value)?)),
            _ if value == "*" => Some(LdapFilter::Present(name(left)?)),
            _ if value.contains('*') => {
                Some(LdapFilter::Substring(name(left)?, substrings(value)?))
            }
            _ => Some(LdapFilter::Equality(name(left)?, unescape(value)?)),
        }
    }

    fn take(&mut self, text: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(text)?.trim_start();
        Some(())
    }
}

/// Accepts an attribute with its options, or an OID.
fn name(text: &str) -> Option<String> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || "-;.".contains(c);
    (!text.is_empty() && text.chars().all(is_valid)).then(|| text.to_owned())
}

/// Parses `attribute:dn:rule`, of which each part is optional but attribute or rule.
fn extensible(left: &str, match_value: String) -> Option<LdapFilter> {
    let mut parts = left.split(':');
    let type_ = parts.next().filter(|text| !text.is_empty());
    let mut rest = parts.next();
    let dn_attributes = rest == Some("dn");
    if dn_attributes {
        rest = parts.next();
    }
    let optional = |text: Option<&str>| text.map_or(Some(None), |text| name(text).map(Some));
    let (type_, matching_rule) = (optional(type_)?, optional(rest)?);
    let is_valid = parts.next().is_none() && (type_.is_some() || matching_rule.is_some());
    let rule = LdapMatchingRuleAssertion { matching_rule, type_, match_value, dn_attributes };
    is_valid.then_some(LdapFilter::Extensible(rule))
}

fn substrings(value: &str) -> Option<LdapSubstringFilter> {
    let parts: Option<Vec<String>> = value.split('*').map(unescape).collect();
    let mut parts = parts?;
    let some = |text: String| (!text.is_empty()).then_some(text);
    let final_ = parts.pop().and_then(some);
    let initial = (!parts.is_empty()).then(|| parts.remove(0)).and_then(some);
    parts.retain(|text| !text.is_empty());
    Some(LdapSubstringFilter { initial, any: parts, final_ })
}

/// Replaces `\2a` and the like. `None` for an incomplete escape, or bytes that are not UTF-8.
fn unescape(value: &str) -> Option<String> {
    let mut parts = value.split('\\');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        let is_hex = code.bytes().all(|byte| byte.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(code, 16).ok().filter(|_| is_hex)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    let is_valid = !bytes.contains(&0) && !value.contains('(');
    String::from_utf8(bytes).ok().filter(|_| is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn equal(name: &str, value: &str) -> LdapFilter {
        LdapFilter::Equality(name.to_owned(), value.to_owned())
    }

    fn filled(text: &str, user: &str) -> LdapFilter {
        FilterTemplate::for_users(text).expect(text).fill(user, "")
    }

    #[test]
    fn a_name_cannot_change_the_structure_of_a_filter() {
        for name in ["*", "a*", "a)(uid=*", "*)(|(uid=*", "\\2a", "a\0b", "{dn}", "{user}"] {
            assert_eq!(filled("(uid={user})", name), equal("uid", name));
            let both = filled("(&(objectClass=person)(|(uid={user})(mail={user})))", name);
            let either = LdapFilter::Or(vec![equal("uid", name), equal("mail", name)]);
            assert_eq!(both, LdapFilter::And(vec![equal("objectClass", "person"), either]));
        }
        let prefix = filled("(mail={user}@*)", "a*b");
        let LdapFilter::Substring(_, parts) = prefix else { panic!("{prefix:?}") };
        assert_eq!(parts.initial.as_deref(), Some("a*b@"));
    }

    #[test]
    fn a_distinguished_name_is_inserted_as_it_is() {
        let dn = "CN=Smith\\, Jane (HR)*,OU={user},DC=corp";
        let text = "(&(objectClass=group)(member:1.2.840.113556.1.4.1941:={dn}))";
        let filter = FilterTemplate::for_groups(text).expect("valid").fill("jane", dn);
        let rule = LdapMatchingRuleAssertion {
            matching_rule: Some("1.2.840.113556.1.4.1941".to_owned()),
            type_: Some("member".to_owned()),
            match_value: dn.to_owned(),
            dn_attributes: false,
        };
        let parts = vec![equal("objectClass", "group"), LdapFilter::Extensible(rule)];
        assert_eq!(filter, LdapFilter::And(parts));
    }

    #[test]
    fn filters_of_rfc_4515_are_read() {
        for (text, value) in [
            ("(&(cn={user})(o=Parens R Us \\28for all\\29))", "Parens R Us (for all)"),
            ("(&(cn={user})(memberOf=cn=users,ou=groups,dc=a))", "cn=users,ou=groups,dc=a"),
            ("( & (cn={user}) (o=L\\c3\\bc) )", "L\u{fc}"),
        ] {
            let filter = filled(text, "x");
            let LdapFilter::And(parts) = &filter else { panic!("{filter:?}") };
            assert!(
                matches!(&parts[1], LdapFilter::Equality(_, found) if found == value),
                "{text}"
            );
        }
        for text in [
            "(&(cn={user})(!(userAccountControl:1.2.840.113556.1.4.803:=2)))",
            "(&(cn={user})(seeAlso=*)(sn>=a)(sn<=z)(sn~=b)(sn=*a*b*)(o:dn:2.4.6.8.10:=x)(:dn:2.5.13.5:=y))",
        ] {
            filled(text, "x");
        }
    }

    #[test]
    fn other_texts_are_no_filters() {
        let deep = format!("{}(uid={{user}}){}", "(!".repeat(16), ")".repeat(16));
        for text in [
            "",
            "uid={user}",
            "(uid={user}",
            "(uid={user}))",
            "(&)",
            "(uid={user})(a=b)",
            "(u id={user})",
            "(uid={user}\\2)",
            "(uid={user}\\zz)",
            "(uid={user}\\ff)",
            "(uid={user}\\00)",
            "(={user})",
            "(uid=a)",
            "(uid={dn})",
            "(:={user})",
            &deep,
        ] {
            assert!(FilterTemplate::for_users(text).is_err(), "{text}");
        }
        assert!(FilterTemplate::for_groups("(objectClass=group)").is_err());
    }
}
