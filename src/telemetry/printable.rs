//! Escapes characters that a terminal does not print.
//!
//! JSON requires escapes only below U+0020. C1 controls could command a terminal, and bidirectional marks
//! would reorder a line. An escape has the form of JSON: in a string of JSON, it does not change the value.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Escapes what is written to `W`. Each write must end at a character boundary.
pub struct Printable<W>(pub W);

impl<W: Write> Write for Printable<W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match text.iter().copied().all(is_plain_byte) {
            true => self.0.write_all(text)?,
            false => self.0.write_all(escape(&String::from_utf8_lossy(text)).as_bytes())?,
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Escapes all characters that a terminal does not print, except line breaks and tabs.
pub fn escape(text: &str) -> Cow<'_, str> {
    match text.chars().all(is_printable) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(escaped(text)),
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_printable(c) {
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

fn is_plain_byte(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\t' | b' '..=b'~')
}

fn is_printable(c: char) -> bool {
    // A printable character is its own debug form; a quote or a backslash has one more.
    u8::try_from(c).is_ok_and(is_plain_byte) || c.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let mut writer = Printable(Vec::new());
        writer.write_all(text.as_bytes()).expect("written");
        String::from_utf8(writer.0).expect("UTF-8")
    }

    #[test]
    fn unprintable_characters_are_escaped() {
        let unprintable =
            "\u{85}\u{9b}31m\u{7f}\u{2028}\u{2029}\u{202e}\u{2066}\u{200b}\u{feff}\u{e0041}";
        let path = format!("/é日本\"\\/{unprintable}");
        let entry = serde_json::json!({ "path": path, "user": "zoë" }).to_string();
        let text = written(&format!("{entry}\n"));
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((read["path"].as_str(), read["user"].as_str()), (Some(&*path), Some("zoë")));
        assert!(text.contains("é日本") && text.contains("\\udb40\\udc41"), "{text}");
        let hidden = |c: char| unprintable.contains(c) && !c.is_ascii_graphic();
        assert_eq!(text.chars().find(|c| hidden(*c)), None, "{text}");
        assert!(text.ends_with("}\n"));
        assert_eq!(written("a\u{1b}[31m\rb\u{7}"), "a\\u001b[31m\\u000db\\u0007");
    }

    #[test]
    fn printable_text_is_unchanged() {
        for text in ["{\"path\":\"/a\"}\n{\"path\":\"/é\"}\n", "\t\n", "日本"] {
            assert_eq!(written(text), text);
            assert!(matches!(escape(text), Cow::Borrowed(_)));
        }
    }
}
