//! The headers of a request on its way to an upstream, as a list.
//!
//! They are filled in once, searched for a few names and written in order. A `HeaderMap` computes a hash of each name
//! for that, and again whenever it grows.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Headers in the order in which they are sent.
#[derive(Clone, Debug, Default)]
pub struct HeaderLines {
    lines: Vec<(HeaderName, HeaderValue)>,
    /// A bit for each name that was added. Most searches are for an absent name.
    added: u64,
}

/// Returns the bit of a name, by its length and first letter.
fn bit_of(name: &HeaderName) -> u64 {
    let name = name.as_str().as_bytes();
    let first = name.first().copied().map_or(0, usize::from);
    1 << ((5 * name.len() + first) % 64)
}

impl HeaderLines {
    /// Creates an empty list with room for `lines`.
    pub fn with_capacity(lines: usize) -> HeaderLines {
        HeaderLines { lines: Vec::with_capacity(lines), added: 0 }
    }

    /// Returns the first value of a header.
    pub fn get(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.get_all(name).next()
    }

    /// Returns the values of a header in their order.
    pub fn get_all(&self, name: &HeaderName) -> impl Iterator<Item = &HeaderValue> {
        self.iter().filter(move |(other, _)| *other == name).map(|(_, value)| value)
    }

    /// Whether the header is present.
    pub fn contains(&self, name: &HeaderName) -> bool {
        self.added & bit_of(name) != 0 && self.iter().any(|(other, _)| other == name)
    }

    /// Returns names and values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.lines.iter().map(|(name, value)| (name, value))
    }

    /// Returns all values for changes in place.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut HeaderValue> {
        self.lines.iter_mut().map(|(_, value)| value)
    }

    /// Whether there is no header.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Makes room for more lines.
    pub fn reserve(&mut self, lines: usize) {
        self.lines.reserve(lines);
    }

    /// Adds a line after those of the same name.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.added |= bit_of(&name);
        self.lines.push((name, value));
    }

    /// Sets a header to one value, in place of all others.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.remove(&name);
        self.append(name, value);
    }

    /// Removes all lines of a header.
    pub fn remove(&mut self, name: &HeaderName) {
        // Usually it is absent. `retain` would write each line again.
        if self.contains(name) {
            self.lines.retain(|(other, _)| other != name);
        }
    }
}

impl From<HeaderMap> for HeaderLines {
    fn from(headers: HeaderMap) -> HeaderLines {
        let mut lines = HeaderLines::with_capacity(headers.len());
        let mut current = None;
        for (next, value) in headers {
            // Absent while further values of the same name follow.
            current = next.or(current);
            if let Some(name) = &current {
                lines.append(name.clone(), value);
            }
        }
        lines
    }
}

impl From<HeaderLines> for HeaderMap {
    fn from(lines: HeaderLines) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(lines.lines.len());
        for (name, value) in lines.lines {
            headers.append(name, value);
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAMES: [HeaderName; 4] = [
        http::header::ACCEPT,
        http::header::VIA,
        HeaderName::from_static("x-a"),
        HeaderName::from_static("x-b"),
    ];

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_list_of_headers_has_the_values_of_a_map(
            steps in proptest::collection::vec((0..3, 0..NAMES.len(), 0..9_u16), 0..40),
        ) {
            let (mut lines, mut map) = (HeaderLines::default(), HeaderMap::new());
            for (step, at, number) in steps {
                let (name, value) = (NAMES[at].clone(), HeaderValue::from(number));
                match step {
                    0 => { lines.append(name.clone(), value.clone()); map.append(name, value); }
                    1 => { lines.set(name.clone(), value.clone()); map.insert(name, value); }
                    _ => { lines.remove(&name); map.remove(name); }
                }
                for name in &NAMES {
                    prop_assert_eq!(lines.contains(name), map.contains_key(name));
                    prop_assert_eq!(lines.get(name), map.get(name));
                    let all: Vec<_> = lines.get_all(name).collect();
                    prop_assert_eq!(all, map.get_all(name).iter().collect::<Vec<_>>());
                }
                prop_assert_eq!(lines.is_empty(), map.is_empty());
            }
            prop_assert_eq!(&HeaderMap::from(lines.clone()), &map);
            prop_assert_eq!(HeaderMap::from(HeaderLines::from(map.clone())), map);
        }
    }
}
