//! Escapes characters of JSON log entries that a terminal does not print.
//!
//! JSON requires escapes only below U+0020. C1 controls could command a terminal, and bidirectional marks
//! would reorder an entry. The logging thread does this, so it delays no request.

use std::fmt::Write as _;
use std::io::{self, Write};

/// Writes JSON lines. Each write must end at a character boundary.
pub(super) struct PrintableJson<W> {
    pub(super) out: W,
    /// False for text entries, which are escaped when they are formatted.
    pub(super) is_json: bool,
}

impl<W: Write> Write for PrintableJson<W> {
    fn write(&mut self, entries: &[u8]) -> io::Result<usize> {
        if self.is_json && !is_printable(entries) {
            self.out.write_all(escaped(&String::from_utf8_lossy(entries)).as_bytes())?;
        } else {
            self.out.write_all(entries)?;
        }
        Ok(entries.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn is_printable(entries: &[u8]) -> bool {
    entries.is_ascii() && !entries.contains(&0x7f)
}

fn escaped(entries: &str) -> String {
    let mut out = String::with_capacity(entries.len());
    for c in entries.chars() {
        // A printable character is its own debug form; a quote or a backslash has one more.
        if (c.is_ascii() && c != '\u{7f}') || c.escape_debug().len() == 1 {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            write!(out, "\\u{unit:04x}").unwrap_or_default();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(entries: &str, is_json: bool) -> String {
        let mut writer = PrintableJson { out: Vec::new(), is_json };
        writer.write_all(entries.as_bytes()).expect("written");
        String::from_utf8(writer.out).expect("UTF-8")
    }

    #[test]
    fn unprintable_characters_are_escaped_in_json() {
        let unprintable =
            "\u{85}\u{9b}31m\u{7f}\u{2028}\u{2029}\u{202e}\u{2066}\u{200b}\u{feff}\u{e0041}";
        let path = format!("/é日本\"\\/{unprintable}");
        let entry = serde_json::json!({ "path": path, "user": "zoë" }).to_string();
        let text = written(&format!("{entry}\n"), true);
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((read["path"].as_str(), read["user"].as_str()), (Some(&*path), Some("zoë")));
        assert!(text.contains("é日本") && text.contains("\\udb40\\udc41"), "{text}");
        let hidden = |c: char| unprintable.contains(c) && !c.is_ascii_graphic();
        assert_eq!(text.chars().find(|c| hidden(*c)), None, "{text}");
        assert!(text.ends_with("}\n"));
    }

    #[test]
    fn printable_entries_are_unchanged() {
        for entry in ["{\"path\":\"/a\"}\n{\"path\":\"/é\"}\n", "\t\n"] {
            assert_eq!(written(entry, true), entry);
        }
        assert_eq!(written("\u{85}", false), "\u{85}");
    }
}
