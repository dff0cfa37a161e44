//! An entry of a search result.

use data_encoding::HEXLOWER;
use ldap3_proto::proto::LdapSearchResultEntry;

/// An entry. Names of attributes are compared without regard to case.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry(LdapSearchResultEntry);

impl From<LdapSearchResultEntry> for Entry {
    fn from(entry: LdapSearchResultEntry) -> Entry {
        Entry(entry)
    }
}

impl Entry {
    pub(super) fn dn(&self) -> &str {
        &self.0.dn
    }

    /// Returns the values of an attribute; none if the entry does not have it.
    pub(super) fn values(&self, name: &str) -> &[Vec<u8>] {
        let mut attributes = self.0.attributes.iter();
        let found = attributes.find(|attribute| attribute.atype.eq_ignore_ascii_case(name));
        found.map_or(&[], |attribute| &attribute.vals)
    }

    /// Whether the server sent only a part of the values (`memberOf;range=0-1499`).
    pub(super) fn is_partial(&self, name: &str) -> bool {
        let is_part = |attribute: &str| match attribute.split_once(';') {
            Some((base, options)) => {
                base.eq_ignore_ascii_case(name) && options.to_ascii_lowercase().contains("range=")
            }
            None => false,
        };
        self.0.attributes.iter().any(|attribute| is_part(&attribute.atype))
    }

    /// Returns the values as texts; `None` if one of them is no text.
    pub(super) fn texts(&self, name: &str) -> Option<Vec<String>> {
        self.values(name).iter().map(|value| String::from_utf8(value.clone()).ok()).collect()
    }

    /// Returns the first value, if it is a text.
    pub(super) fn first_text(&self, name: &str) -> Option<String> {
        self.values(name).first().and_then(|value| String::from_utf8(value.clone()).ok())
    }

    /// Returns the only value of an attribute, as text or in hexadecimal; `None` if there is none or several.
    pub(super) fn only_id(&self, name: &str) -> Option<String> {
        let [value] = self.values(name) else { return None };
        let text = std::str::from_utf8(value).ok().filter(|text| text.chars().all(is_plain));
        let text = text.map_or_else(|| HEXLOWER.encode(value), str::to_owned);
        (!text.is_empty()).then_some(text)
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_graphic()
}
