//! One section of the file, key by key.
//!
//! Each key is asked for with what holds when it is not written: a default is read by the same code
//! as a value, so it cannot be one that the file could not hold. What was not asked for when the
//! reader is dropped is unknown, and a problem.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "not our enum: a value is of the kind that is asked for, or it is a problem"
)]

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::files::Purpose;
use super::findings::{Findings, Place, Usual};
use super::unknown;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Setting<T> {
    pub value: T,
    /// The value's, or the section's where it is not written.
    pub place: Place,
    pub written: bool,
}

pub(super) struct Reader<'a> {
    pub findings: &'a Findings<'a>,
    /// The section's header.
    pub place: Place,
    table: Option<&'a DeTable<'a>>,
    path: &'static str,
    asked: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    /// Reads the top of the file.
    pub(super) fn of_file(findings: &'a Findings<'a>, table: &'a DeTable<'a>) -> Reader<'a> {
        Reader { findings, place: None, table: Some(table), path: "", asked: Vec::new() }
    }

    /// Text that `parse` understands.
    pub(super) fn text<T, E: Display>(
        &mut self,
        key: &'static str,
        usual: Usual,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Setting<T>> {
        self.read(key, usual, |at, value| at.parsed(at.text(value)?, &parse))
    }

    /// Text for which there is no default. The outer option is empty where it is wrong.
    pub(super) fn optional<T, E: Display>(
        &mut self,
        key: &'static str,
        example: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Option<Setting<T>>> {
        let usual = Usual::Absent(example);
        if self.is_written(key) {
            return self.text(key, usual, parse).map(Some);
        }
        self.ask(key, usual);
        Some(None)
    }

    /// As [`Reader::text`], where a number without quotes is told that it lacks a unit.
    pub(super) fn measure<T, E: Display>(
        &mut self,
        key: &'static str,
        usual: Usual,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Setting<T>> {
        self.read(key, usual, |at, value| at.parsed(at.measure(value)?, &parse))
    }

    /// As [`Reader::optional`], for a measure.
    pub(super) fn optional_measure<T, E: Display>(
        &mut self,
        key: &'static str,
        example: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Option<Setting<T>>> {
        let usual = Usual::Absent(example);
        if self.is_written(key) {
            return self.measure(key, usual, parse).map(Some);
        }
        self.ask(key, usual);
        Some(None)
    }

    /// A list of texts.
    pub(super) fn list<T, E: Display>(
        &mut self,
        key: &'static str,
        usual: Usual,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Setting<Vec<Setting<T>>>> {
        self.read(key, usual, |at, value| match value {
            DeValue::Array(items) => at.items(items, &parse),
            DeValue::String(text) => at.not_in_brackets(text),
            other => at.wrong_kind(other, "a list"),
        })
    }

    /// One text, or a list with at least one.
    pub(super) fn one_or_more<T, E: Display>(
        &mut self,
        key: &'static str,
        usual: Usual,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Setting<Vec<Setting<T>>>> {
        self.read(key, usual, |at, value| match value {
            DeValue::Array(items) if items.is_empty() => at.wrong("is an empty list"),
            DeValue::Array(items) => at.items(items, &parse),
            one => Some(vec![at.setting(at.parsed(at.text(one)?, &parse)?)]),
        })
    }

    /// A whole number within these bounds.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        usual: Usual,
        bounds: RangeInclusive<usize>,
    ) -> Option<Setting<usize>> {
        self.read(key, usual, |at, value| at.number(value, &bounds))
    }

    /// As [`Reader::number`], without a default.
    pub(super) fn optional_number(
        &mut self,
        key: &'static str,
        example: &'static str,
        bounds: RangeInclusive<usize>,
    ) -> Option<Option<Setting<usize>>> {
        let usual = Usual::Absent(example);
        if self.is_written(key) {
            return self.number(key, usual, bounds).map(Some);
        }
        self.ask(key, usual);
        Some(None)
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str, usual: Usual) -> Option<Setting<bool>> {
        self.read(key, usual, |at, value| match value {
            DeValue::Boolean(flag) => Some(*flag),
            other => at.wrong_kind(other, "true or false"),
        })
    }

    /// A path; relative ones start from the base directory.
    pub(super) fn path(&mut self, key: &'static str, usual: Usual) -> Option<Setting<PathBuf>> {
        let base = self.findings.base;
        self.text(key, usual, |text| not_empty(text).map(|text| base.join(text)))
    }

    /// A file that must be there when the gateway starts.
    pub(super) fn file(&mut self, key: &'static str, usual: Usual) -> Option<Setting<PathBuf>> {
        let file = self.path(key, usual)?;
        self.findings.file(&file.place, &file.value, Purpose::Read);
        Some(file)
    }

    /// As [`Reader::file`], without a default.
    pub(super) fn optional_file(
        &mut self,
        key: &'static str,
        example: &'static str,
    ) -> Option<Option<Setting<PathBuf>>> {
        self.optional_file_for(key, example, Purpose::Read)
    }

    /// As [`Reader::optional_file`], for what it is named for.
    pub(super) fn optional_file_for(
        &mut self,
        key: &'static str,
        example: &'static str,
        purpose: Purpose,
    ) -> Option<Option<Setting<PathBuf>>> {
        let usual = Usual::Absent(example);
        if !self.is_written(key) {
            self.ask(key, usual);
            return Some(None);
        }
        let file = self.path(key, usual)?;
        self.findings.file(&file.place, &file.value, purpose);
        Some(Some(file))
    }

    /// The pairs of an inline table, in the order written, each with its place.
    pub(super) fn pairs<T, E: Display>(
        &mut self,
        key: &'static str,
        usual: Usual,
        parse: impl Fn(&str, &str) -> Result<T, E>,
    ) -> Option<Setting<Vec<Setting<T>>>> {
        self.read(key, usual, |at, value| match value {
            DeValue::Table(table) => at.pairs(table, &parse),
            other => at.wrong_kind(other, "a table"),
        })
    }

    /// Text or a table of its own, as the file has it.
    pub(super) fn text_or_section(
        &mut self,
        key: &'static str,
        path: &'static str,
        usual: Usual,
    ) -> TextOrSection<'a> {
        let Some(written) = self.ask(key, usual) else { return TextOrSection::Nothing };
        let place = Some(written.span());
        match written.get_ref() {
            DeValue::String(text) => {
                TextOrSection::Text(Setting { value: text.to_string(), place, written: true })
            }
            DeValue::Table(table) => TextOrSection::Section(self.below(path, place, Some(table))),
            other => {
                let (findings, literal) = (self.findings, usual.literal());
                let at = At { findings, key: key.into(), literal, place, fixed: None };
                at.wrong_kind::<()>(other, "text or a table");
                TextOrSection::Wrong
            }
        }
    }

    /// A section below this one; one that is not written is empty.
    pub(super) fn section(&mut self, key: &'static str, path: &'static str) -> Option<Reader<'a>> {
        let place = self.place.clone();
        let written = self.section_if_written(key, path)?;
        Some(written.unwrap_or_else(|| self.below(path, place, None)))
    }

    /// A section below this one, where it is written. The outer option is empty where it is wrong.
    pub(super) fn section_if_written(
        &mut self,
        key: &'static str,
        path: &'static str,
    ) -> Option<Option<Reader<'a>>> {
        self.asked.push(key);
        let Some(written) = self.table.and_then(|table| table.get(key)) else { return Some(None) };
        let place = Some(written.span());
        if let DeValue::Table(table) = written.get_ref() {
            return Some(Some(self.below(path, place, Some(table))));
        }
        self.findings.problem(
            &place,
            format!("`{key}` is {}, and must be a section", kind(written.get_ref())),
            format!("write [{path}] and the keys below it"),
        );
        None
    }

    /// Every `[[section]]` of a name. Empty where one of them is wrong.
    pub(super) fn sections(
        &mut self,
        key: &'static str,
        path: &'static str,
    ) -> Option<Vec<Reader<'a>>> {
        self.asked.push(key);
        let Some(written) = self.table.and_then(|table| table.get(key)) else {
            return Some(Vec::new());
        };
        let DeValue::Array(items) = written.get_ref() else {
            self.not_doubled(key, path, &Some(written.span()));
            return None;
        };
        let readers: Vec<_> = items.iter().map(|item| self.item(key, path, item)).collect();
        readers.into_iter().collect()
    }

    fn item(
        &self,
        key: &'static str,
        path: &'static str,
        item: &'a Spanned<DeValue<'a>>,
    ) -> Option<Reader<'a>> {
        let place = Some(item.span());
        match item.get_ref() {
            DeValue::Table(table) => Some(self.below(path, place, Some(table))),
            _ => {
                self.not_doubled(key, path, &place);
                None
            }
        }
    }

    fn not_doubled(&self, key: &str, path: &str, place: &Place) {
        self.findings.problem(
            place,
            format!("`{key}` must be a list of sections"),
            format!("write [[{path}]] with two brackets, once for each"),
        );
    }

    fn below(
        &self,
        path: &'static str,
        place: Place,
        table: Option<&'a DeTable<'a>>,
    ) -> Reader<'a> {
        Reader { findings: self.findings, place, table, path, asked: Vec::new() }
    }

    pub(super) fn is_written(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// The value as written. From here on the key is known.
    fn ask(&mut self, key: &'static str, usual: Usual) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.push(key);
        self.findings.key(unknown::joined(self.path, key), usual);
        self.table?.get(key)
    }

    fn read<T>(
        &mut self,
        key: &'static str,
        usual: Usual,
        convert: impl Fn(&At<'_>, &DeValue<'_>) -> Option<T>,
    ) -> Option<Setting<T>> {
        let (findings, literal) = (self.findings, usual.literal());
        if let Some(written) = self.ask(key, usual) {
            let at =
                At { findings, key: key.into(), literal, place: Some(written.span()), fixed: None };
            return convert(&at, written.get_ref()).map(|value| at.setting(value));
        }
        let section = &self.place;
        let at =
            At { findings, key: key.into(), literal, place: section.clone(), fixed: Some(section) };
        match usual {
            Usual::Is(literal) => at.default(literal, convert),
            Usual::Absent(_) | Usual::Required(_) => at.wrong("is missing"),
        }
        .map(|value| at.setting(value))
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let Some(table) = self.table else { return };
        for (key, _) in
            table.iter().filter(|(key, _)| !self.asked.contains(&key.get_ref().as_ref()))
        {
            let (message, help) = unknown::report(self.path, key.get_ref(), &self.asked);
            self.findings.problem(&Some(key.span()), message, help);
        }
    }
}

/// What [`Reader::text_or_section`] found.
pub(super) enum TextOrSection<'a> {
    Nothing,
    Text(Setting<String>),
    Section(Reader<'a>),
    /// Reported already.
    Wrong,
}

/// One value of one key while it is read.
struct At<'a> {
    findings: &'a Findings<'a>,
    /// How messages name it.
    key: Cow<'static, str>,
    /// Its default, or an example.
    literal: &'static str,
    place: Place,
    /// Whereto point for a default, none of whose parts stands in the file.
    fixed: Option<&'a Place>,
}

impl At<'_> {
    fn setting<T>(&self, value: T) -> Setting<T> {
        Setting { value, place: self.place.clone(), written: self.fixed.is_none() }
    }

    fn default<T>(
        &self,
        literal: &str,
        convert: impl Fn(&At<'_>, &DeValue<'_>) -> Option<T>,
    ) -> Option<T> {
        match DeValue::parse(literal) {
            Ok(value) => convert(self, value.get_ref()),
            Err(_) => self.wrong("has a default that is no TOML"),
        }
    }

    fn text<'v>(&self, value: &'v DeValue<'_>) -> Option<&'v str> {
        value.as_str().or_else(|| self.wrong_kind(value, "text in quotes"))
    }

    fn measure<'v>(&self, value: &'v DeValue<'_>) -> Option<&'v str> {
        match value {
            DeValue::Integer(number) => Some(number.as_str()),
            other => self.text(other),
        }
    }

    fn parsed<T, E: Display>(&self, text: &str, parse: impl Fn(&str) -> Result<T, E>) -> Option<T> {
        let wrong = |error| {
            self.findings.problem(&self.place, format!("`{}`: {error}", self.key), "");
        };
        parse(text).map_err(wrong).ok()
    }

    fn items<T, E: Display>(
        &self,
        items: &toml::de::DeArray<'_>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<Setting<T>>> {
        let read = |item: &Spanned<DeValue<'_>>| {
            let at = self.part(item.span());
            let text = item.get_ref().as_str().or_else(|| at.wrong_item(item.get_ref()));
            Some(at.setting(at.parsed(text?, &parse)?))
        };
        // All of them, so that each is reported, before one that is wrong spoils the list.
        let read: Vec<_> = items.iter().map(read).collect();
        read.into_iter().collect()
    }

    fn pairs<T, E: Display>(
        &self,
        table: &DeTable<'_>,
        parse: impl Fn(&str, &str) -> Result<T, E>,
    ) -> Option<Vec<Setting<T>>> {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let read: Vec<_> = entries
            .into_iter()
            .map(|(name, value)| {
                let key = format!("{}.{}", self.key, name.get_ref()).into();
                let at = At { key, literal: "\"{user}\"", ..self.part(value.span()) };
                let text = at.text(value.get_ref())?;
                Some(at.setting(at.parsed(text, |text| parse(name.get_ref(), text))?))
            })
            .collect();
        read.into_iter().collect()
    }

    fn part(&self, span: std::ops::Range<usize>) -> At<'_> {
        let place = self.fixed.cloned().unwrap_or(Some(span));
        At { place, key: self.key.clone(), ..*self }
    }

    fn number(&self, value: &DeValue<'_>, bounds: &RangeInclusive<usize>) -> Option<usize> {
        let DeValue::Integer(number) = value else {
            return self.wrong_kind(value, "a whole number");
        };
        let read = usize::from_str_radix(number.as_str(), number.radix()).ok();
        read.filter(|number| bounds.contains(number)).or_else(|| {
            let (least, most) = (bounds.start(), bounds.end());
            self.wrong(&format!("is {number}, and must be from {least} to {most}"))
        })
    }

    fn wrong_kind<T>(&self, value: &DeValue<'_>, wanted: &str) -> Option<T> {
        self.wrong(&format!("is {}, and must be {wanted}", kind(value)))
    }

    fn wrong_item<T>(&self, value: &DeValue<'_>) -> Option<T> {
        let message = format!("`{}` holds {}, and may hold text only", self.key, kind(value));
        self.findings.problem(&self.place, message, "write it in quotes");
        None
    }

    fn not_in_brackets<T>(&self, text: &str) -> Option<T> {
        let message = format!("`{}` is text, and must be a list", self.key);
        self.findings.problem(&self.place, message, format!("write {} = [\"{text}\"]", self.key));
        None
    }

    fn wrong<T>(&self, what: &str) -> Option<T> {
        let (key, literal) = (&self.key, self.literal);
        self.findings.problem(
            &self.place,
            format!("`{key}` {what}"),
            format!("write {key} = {literal}"),
        );
        None
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(true) => "true",
        DeValue::Boolean(false) => "false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Text that says something.
pub(super) fn not_empty(text: &str) -> Result<&str, &'static str> {
    if text.trim().is_empty() {
        Err("the text is empty; write a value, or leave the key out")
    } else {
        Ok(text)
    }
}
