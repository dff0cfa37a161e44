//! Reads one section of the file key by key.
//!
//! Each key is read together with its default. The default is parsed by the same code as a value, so it is
//! always valid. When the reader is dropped, every key that was not read is reported as unknown.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "enum of the toml crate: every type other than the expected one is an error"
)]

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::diagnostics::{Diagnostics, KeyDefault, Span};
use super::file_checks::FilePurpose;
use super::unknown;
pub(super) use super::value_reader::{Field, non_empty};
use super::value_reader::{ValueReader, type_name};

/// Reader of one section.
pub(super) struct Reader<'a> {
    pub diagnostics: &'a Diagnostics<'a>,
    /// Location of the section header.
    pub span: Span,
    /// None if the section is not in the file.
    table: Option<&'a DeTable<'a>>,
    path: &'static str,
    /// Values that replace the defaults; empty without a preset.
    preset: Table,
    /// The keys read so far.
    known_keys: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    /// Returns the reader of the top level.
    pub(super) fn root(diagnostics: &'a Diagnostics<'a>, table: &'a DeTable<'a>) -> Reader<'a> {
        let (preset, known_keys) = (Table::new(), Vec::new());
        Reader { diagnostics, span: None, table: Some(table), path: "", preset, known_keys }
    }

    /// Replaces the defaults of the keys that `preset` sets, also in subsections.
    pub(super) fn use_preset(&mut self, preset: Table) {
        self.preset = preset;
    }

    /// Returns the reader of a section that is not in the file.
    pub(super) fn empty(diagnostics: &'a Diagnostics<'a>, path: &'static str) -> Reader<'a> {
        let (preset, known_keys) = (Table::new(), Vec::new());
        Reader { diagnostics, span: None, table: None, path, preset, known_keys }
    }

    /// Reads text with `parse`.
    pub(super) fn text<T, E: Display>(
        &mut self,
        key: &'static str,
        default: KeyDefault,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Field<T>> {
        self.read(key, default, |reader, value| reader.parsed(reader.text(value)?, &parse))
    }

    /// Reads optional text. The outer `None` means an invalid value, the inner one an unset key.
    pub(super) fn optional<T, E: Display>(
        &mut self,
        key: &'static str,
        example: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Option<Field<T>>> {
        let default = KeyDefault::Optional(example);
        if self.is_set(key) {
            return self.text(key, default, parse).map(Some);
        }
        self.take(key, default);
        Some(None)
    }

    /// Reads text with a number and a unit. A bare number gets the parser's error about the missing unit.
    pub(super) fn quantity<T, E: Display>(
        &mut self,
        key: &'static str,
        default: KeyDefault,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Field<T>> {
        self.read(key, default, |reader, value| reader.parsed(reader.quantity(value)?, &parse))
    }

    /// Like [`Reader::optional`], for a quantity.
    pub(super) fn optional_quantity<T, E: Display>(
        &mut self,
        key: &'static str,
        example: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Option<Field<T>>> {
        let default = KeyDefault::Optional(example);
        if self.is_set(key) {
            return self.quantity(key, default, parse).map(Some);
        }
        self.take(key, default);
        Some(None)
    }

    /// Reads a list of texts.
    pub(super) fn list<T, E: Display>(
        &mut self,
        key: &'static str,
        default: KeyDefault,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Field<Vec<Field<T>>>> {
        self.read(key, default, |reader, value| match value {
            DeValue::Array(items) => reader.items(items, &parse),
            DeValue::String(text) => reader.expect_list(text),
            other => reader.wrong_type(other, "a list"),
        })
    }

    /// Reads one text, or a list with at least one.
    pub(super) fn one_or_more<T, E: Display>(
        &mut self,
        key: &'static str,
        default: KeyDefault,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Field<Vec<Field<T>>>> {
        self.read(key, default, |reader, value| match value {
            DeValue::Array(items) if items.is_empty() => reader.invalid("is an empty list"),
            DeValue::Array(items) => reader.items(items, &parse),
            one => Some(vec![reader.field(reader.parsed(reader.text(one)?, &parse)?)]),
        })
    }

    /// Reads a whole number within `bounds`.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        default: KeyDefault,
        bounds: RangeInclusive<usize>,
    ) -> Option<Field<usize>> {
        self.read(key, default, |reader, value| reader.number(value, &bounds))
    }

    /// Like [`Reader::number`], without a default.
    pub(super) fn optional_number(
        &mut self,
        key: &'static str,
        example: &'static str,
        bounds: RangeInclusive<usize>,
    ) -> Option<Option<Field<usize>>> {
        let default = KeyDefault::Optional(example);
        if self.is_set(key) {
            return self.number(key, default, bounds).map(Some);
        }
        self.take(key, default);
        Some(None)
    }

    /// Reads `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str, default: KeyDefault) -> Option<Field<bool>> {
        self.read(key, default, |reader, value| match value {
            DeValue::Boolean(flag) => Some(*flag),
            other => reader.wrong_type(other, "true or false"),
        })
    }

    /// Reads a path. Relative paths start at the directory of the configuration file.
    pub(super) fn path(
        &mut self,
        key: &'static str,
        default: KeyDefault,
    ) -> Option<Field<PathBuf>> {
        let text = self.text(key, default, |text| non_empty(text).map(str::to_owned))?;
        Some(self.resolved(text))
    }

    /// Reads a path; `None` for an empty text.
    pub(super) fn path_or_empty(
        &mut self,
        key: &'static str,
        default: KeyDefault,
    ) -> Option<Field<Option<PathBuf>>> {
        let text = self.text(key, default, |text| Ok::<_, String>(text.to_owned()))?;
        let is_set = !text.value.is_empty();
        let path = self.resolved(text);
        Some(Field { value: is_set.then_some(path.value), span: path.span, is_set: path.is_set })
    }

    /// A path that is not set is a default in the state directory.
    fn resolved(&self, text: Field<String>) -> Field<PathBuf> {
        let value = match text.is_set {
            true => self.diagnostics.resolve(&text.span, &text.value),
            false => self.diagnostics.in_state_dir(Path::new(&text.value)),
        };
        Field { value, span: text.span, is_set: text.is_set }
    }

    /// Reads the path of a file that must exist when the gateway starts.
    pub(super) fn file(
        &mut self,
        key: &'static str,
        default: KeyDefault,
    ) -> Option<Field<PathBuf>> {
        let file = self.path(key, default)?;
        self.diagnostics.register_file(&file.span, &file.value, FilePurpose::Read);
        Some(file)
    }

    /// Like [`Reader::file`], without a default.
    pub(super) fn optional_file(
        &mut self,
        key: &'static str,
        example: &'static str,
    ) -> Option<Option<Field<PathBuf>>> {
        self.optional_file_for(key, example, FilePurpose::Read)
    }

    /// Like [`Reader::optional_file`], with the check for `purpose`.
    pub(super) fn optional_file_for(
        &mut self,
        key: &'static str,
        example: &'static str,
        purpose: FilePurpose,
    ) -> Option<Option<Field<PathBuf>>> {
        let default = KeyDefault::Optional(example);
        if !self.is_set(key) {
            self.take(key, default);
            return Some(None);
        }
        let file = self.path(key, default)?;
        self.diagnostics.register_file(&file.span, &file.value, purpose);
        Some(Some(file))
    }

    /// Reads the pairs of an inline table in file order.
    pub(super) fn pairs<T, E: Display>(
        &mut self,
        key: &'static str,
        default: KeyDefault,
        parse: impl Fn(&str, &str) -> Result<T, E>,
    ) -> Option<Field<Vec<Field<T>>>> {
        self.read(key, default, |reader, value| match value {
            DeValue::Table(table) => reader.pairs(table, &parse),
            other => reader.wrong_type(other, "a table"),
        })
    }

    /// Reads paths into a tree of claims: a list of names is one path, a list of lists several.
    pub(super) fn paths(
        &mut self,
        key: &'static str,
        default: KeyDefault,
    ) -> Option<Field<Vec<Vec<String>>>> {
        self.read(key, default, |reader, value| reader.paths(value))
    }

    /// Reads a key that is either text or a table.
    pub(super) fn text_or_section(
        &mut self,
        key: &'static str,
        path: &'static str,
        default: KeyDefault,
    ) -> TextOrSection<'a> {
        let Some(written) = self.take(key, default) else { return TextOrSection::Missing };
        let span = Some(written.span());
        match written.get_ref() {
            DeValue::String(text) => {
                TextOrSection::Text(Field { value: text.to_string(), span, is_set: true })
            }
            DeValue::Table(table) => TextOrSection::Section(self.child(path, span, Some(table))),
            other => {
                let (diagnostics, literal) = (self.diagnostics, default.literal());
                let reader =
                    ValueReader { diagnostics, key: key.into(), literal, span, default_span: None };
                reader.wrong_type::<()>(other, "text or a table");
                TextOrSection::Invalid
            }
        }
    }

    /// Returns a subsection; it is empty if it is not in the file.
    pub(super) fn section(&mut self, key: &'static str, path: &'static str) -> Option<Reader<'a>> {
        let span = self.span.clone();
        let written = self.section_if_written(key, path)?;
        Some(written.unwrap_or_else(|| self.subsection(key, path, span, None)))
    }

    /// Returns a subsection. The outer `None` means an error, the inner one a missing section.
    pub(super) fn section_if_written(
        &mut self,
        key: &'static str,
        path: &'static str,
    ) -> Option<Option<Reader<'a>>> {
        self.known_keys.push(key);
        let Some(written) = self.table.and_then(|table| table.get(key)) else { return Some(None) };
        let span = Some(written.span());
        if let DeValue::Table(table) = written.get_ref() {
            return Some(Some(self.subsection(key, path, span, Some(table))));
        }
        self.diagnostics.error(
            &span,
            format!("`{key}` is {}, and must be a section", type_name(written.get_ref())),
            format!("write [{path}] and the keys below it"),
        );
        None
    }

    /// Returns every `[[section]]` of a name; `None` if one of them is invalid.
    pub(super) fn sections(
        &mut self,
        key: &'static str,
        path: &'static str,
    ) -> Option<Vec<Reader<'a>>> {
        self.known_keys.push(key);
        let Some(written) = self.table.and_then(|table| table.get(key)) else {
            return Some(Vec::new());
        };
        let DeValue::Array(items) = written.get_ref() else {
            self.expect_sections(key, path, &Some(written.span()));
            return None;
        };
        let readers: Vec<_> = items.iter().map(|item| self.item(key, path, item)).collect();
        readers.into_iter().collect()
    }

    /// Returns the sections below a section, with their names; `None` if one of them is no section.
    pub(super) fn named_sections(
        &mut self,
        key: &'static str,
        path: &'static str,
        item_path: &'static str,
    ) -> Option<Vec<(String, Reader<'a>)>> {
        let Some(section) = self.section_if_written(key, path)? else { return Some(Vec::new()) };
        let mut entries: Vec<_> = section.table.into_iter().flat_map(DeTable::iter).collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let read = entries.into_iter().map(|(name, value)| match value.get_ref() {
            DeValue::Table(table) => {
                let reader = self.child(item_path, Some(name.span()), Some(table));
                Some((name.get_ref().to_string(), reader))
            }
            other => {
                let message =
                    format!("`{}` is {}, and must be a section", name.get_ref(), type_name(other));
                let help = format!("write [{item_path}] and the keys below it");
                self.diagnostics.error(&Some(name.span()), message, help);
                None
            }
        });
        let read: Vec<_> = read.collect();
        section.allow_all_keys();
        read.into_iter().collect()
    }

    /// Drops the reader without a report of its keys.
    fn allow_all_keys(mut self) {
        self.table = None;
    }

    fn item(
        &self,
        key: &'static str,
        path: &'static str,
        item: &'a Spanned<DeValue<'a>>,
    ) -> Option<Reader<'a>> {
        let span = Some(item.span());
        match item.get_ref() {
            DeValue::Table(table) => Some(self.child(path, span, Some(table))),
            _ => {
                self.expect_sections(key, path, &span);
                None
            }
        }
    }

    fn expect_sections(&self, key: &str, path: &str, span: &Span) {
        self.diagnostics.error(
            span,
            format!("`{key}` must be a list of sections"),
            format!("write [[{path}]] with two brackets, once for each"),
        );
    }

    fn child(&self, path: &'static str, span: Span, table: Option<&'a DeTable<'a>>) -> Reader<'a> {
        let (preset, known_keys) = (Table::new(), Vec::new());
        Reader { diagnostics: self.diagnostics, span, table, path, preset, known_keys }
    }

    /// Returns a child with its part of the preset.
    fn subsection(
        &self,
        key: &str,
        path: &'static str,
        span: Span,
        table: Option<&'a DeTable<'a>>,
    ) -> Reader<'a> {
        let mut child = self.child(path, span, table);
        if let Some(Value::Table(preset)) = self.preset.get(key) {
            child.use_preset(preset.clone());
        }
        child
    }

    pub(super) fn is_set(&self, key: &str) -> bool {
        let is_set = |key: &str| self.table.is_some_and(|table| table.contains_key(key));
        is_set(key) || unknown::former_name(self.path, key).is_some_and(is_set)
    }

    /// Returns the value and marks the key as known.
    fn take(&mut self, key: &'static str, default: KeyDefault) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known_keys.push(key);
        self.diagnostics.register_key(unknown::key_path(self.path, key), default);
        self.table?.get(key).or_else(|| self.take_renamed(key))
    }

    /// Returns the value under the former name of the key, with a warning.
    fn take_renamed(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        let former = unknown::former_name(self.path, key)?;
        let (name, value) = self.table?.get_key_value(former)?;
        self.diagnostics.warning(
            &Some(name.span()),
            format!("`{former}` is now called `{key}`"),
            format!("write {key}; the former name will be removed"),
        );
        Some(value)
    }

    /// Whether the key is the former name of a key that is read under it.
    fn is_renamed(&self, name: &str) -> bool {
        self.known_keys.iter().any(|key| {
            unknown::former_name(self.path, key) == Some(name)
                && self.table.is_some_and(|table| !table.contains_key(*key))
        })
    }

    fn read<T>(
        &mut self,
        key: &'static str,
        default: KeyDefault,
        convert: impl Fn(&ValueReader<'_>, &DeValue<'_>) -> Option<T>,
    ) -> Option<Field<T>> {
        let (diagnostics, literal) = (self.diagnostics, default.literal());
        if let Some(written) = self.take(key, default) {
            let reader = ValueReader {
                diagnostics,
                key: key.into(),
                literal,
                span: Some(written.span()),
                default_span: None,
            };
            return convert(&reader, written.get_ref()).map(|value| reader.field(value));
        }
        let section = &self.span;
        let reader = ValueReader {
            diagnostics,
            key: key.into(),
            literal,
            span: section.clone(),
            default_span: Some(section),
        };
        match default {
            KeyDefault::Value(literal) => match self.preset.get(key) {
                Some(preset) => reader.default(&preset.to_string(), convert),
                None => reader.default(literal, convert),
            },
            KeyDefault::Optional(_) | KeyDefault::Required(_) => reader.invalid("is missing"),
        }
        .map(|value| reader.field(value))
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let Some(table) = self.table else { return };
        let is_known = |key: &str| self.known_keys.contains(&key) || self.is_renamed(key);
        for (key, _) in table.iter().filter(|(key, _)| !is_known(key.get_ref())) {
            let (message, help) = unknown::report(self.path, key.get_ref(), &self.known_keys);
            self.diagnostics.error(&Some(key.span()), message, help);
        }
    }
}

/// Result of [`Reader::text_or_section`].
pub(super) enum TextOrSection<'a> {
    Missing,
    Text(Field<String>),
    Section(Reader<'a>),
    /// The error is already reported.
    Invalid,
}
