//! The headers of a request on its way to an upstream, as a list.
//!
//! They are filled in once, searched for a few names and written in order. A `HeaderMap` computes a hash of each name
//! for that, and again whenever it grows.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Headers in the order in which they are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderLines(Vec<(HeaderName, HeaderValue)>);

impl HeaderLines {
    /// Creates an empty list with room for `lines`.
    pub fn with_capacity(lines: usize) -> HeaderLines {
        HeaderLines(Vec::with_capacity(lines))
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
        self.iter().any(|(other, _)| other == name)
    }

    /// Returns names and values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// Returns all values for changes in place.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut HeaderValue> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    /// Whether there is no header.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes room for more lines.
    pub fn reserve(&mut self, lines: usize) {
        self.0.reserve(lines);
    }

    /// Adds a line after those of the same name.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.push((name, value));
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
            self.0.retain(|(other, _)| other != name);
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
        let mut headers = HeaderMap::with_capacity(lines.0.len());
        for (name, value) in lines.0 {
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
