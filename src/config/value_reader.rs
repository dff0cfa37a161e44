//! Converts the value of one key, and reports a wrong type or an invalid value.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "enum of the toml crate: every type other than the expected one is an error"
)]

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Diagnostics, Span};

/// A value and its location.
#[derive(Clone, Debug)]
pub(super) struct Field<T> {
    pub value: T,
    /// Location of the value; of the section if the key is not set.
    pub span: Span,
    /// False for a default.
    pub is_set: bool,
}

/// Converts the value of one key.
pub(super) struct ValueReader<'a> {
    pub(super) diagnostics: &'a Diagnostics<'a>,
    /// Name in messages.
    pub(super) key: Cow<'static, str>,
    /// The default, or an example.
    pub(super) literal: &'static str,
    pub(super) span: Span,
    /// Location for messages about a default, which is not in the file.
    pub(super) default_span: Option<&'a Span>,
}

impl ValueReader<'_> {
    pub(super) fn field<T>(&self, value: T) -> Field<T> {
        Field { value, span: self.span.clone(), is_set: self.default_span.is_none() }
    }

    pub(super) fn default<T>(
        &self,
        literal: &str,
        convert: impl Fn(&ValueReader<'_>, &DeValue<'_>) -> Option<T>,
    ) -> Option<T> {
        match DeValue::parse(literal) {
            Ok(value) => convert(self, value.get_ref()),
            Err(_) => self.invalid("has an invalid default"),
        }
    }

    pub(super) fn text<'v>(&self, value: &'v DeValue<'_>) -> Option<&'v str> {
        value.as_str().or_else(|| self.wrong_type(value, "text in quotes"))
    }

    pub(super) fn quantity<'v>(&self, value: &'v DeValue<'_>) -> Option<&'v str> {
        match value {
            DeValue::Integer(number) => Some(number.as_str()),
            other => self.text(other),
        }
    }

    pub(super) fn parsed<T, E: Display>(
        &self,
        text: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let report = |error| {
            self.diagnostics.error(&self.span, format!("`{}`: {error}", self.key), "");
        };
        parse(text).map_err(report).ok()
    }

    pub(super) fn items<T, E: Display>(
        &self,
        items: &toml::de::DeArray<'_>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<Field<T>>> {
        let read = |item: &Spanned<DeValue<'_>>| {
            let reader = self.element(item.span());
            let text = item.get_ref().as_str().or_else(|| reader.wrong_item_type(item.get_ref()));
            Some(reader.field(reader.parsed(text?, &parse)?))
        };
        // Reads all items first, so that every invalid item is reported.
        let read: Vec<_> = items.iter().map(read).collect();
        read.into_iter().collect()
    }

    pub(super) fn pairs<T, E: Display>(
        &self,
        table: &DeTable<'_>,
        parse: impl Fn(&str, &str) -> Result<T, E>,
    ) -> Option<Vec<Field<T>>> {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let read: Vec<_> = entries
            .into_iter()
            .map(|(name, value)| {
                let key = format!("{}.{}", self.key, name.get_ref()).into();
                let reader =
                    ValueReader { key, literal: "\"{user}\"", ..self.element(value.span()) };
                let text = reader.text(value.get_ref())?;
                Some(reader.field(reader.parsed(text, |text| parse(name.get_ref(), text))?))
            })
            .collect();
        read.into_iter().collect()
    }

    pub(super) fn paths(&self, value: &DeValue<'_>) -> Option<Vec<Vec<String>>> {
        let DeValue::Array(items) = value else {
            return self.wrong_type(value, "a list of claim names");
        };
        let is_nested = items.iter().any(|item| item.get_ref().is_array());
        let paths: Vec<_> = match is_nested {
            false => vec![self.path(value)],
            true => items.iter().map(|item| self.path(item.get_ref())).collect(),
        };
        paths.into_iter().collect()
    }

    pub(super) fn path(&self, value: &DeValue<'_>) -> Option<Vec<String>> {
        let DeValue::Array(names) = value else {
            return self.wrong_type(value, "a list of claim names");
        };
        if names.is_empty() {
            return self.invalid("is an empty list");
        }
        let names = self.items(names, |name| non_empty(name).map(str::to_owned))?;
        Some(names.into_iter().map(|name| name.value).collect())
    }

    pub(super) fn element(&self, span: std::ops::Range<usize>) -> ValueReader<'_> {
        let span = self.default_span.cloned().unwrap_or(Some(span));
        ValueReader { span, key: self.key.clone(), ..*self }
    }

    pub(super) fn number(
        &self,
        value: &DeValue<'_>,
        bounds: &RangeInclusive<usize>,
    ) -> Option<usize> {
        let DeValue::Integer(number) = value else {
            return self.wrong_type(value, "a whole number");
        };
        let read = usize::from_str_radix(number.as_str(), number.radix()).ok();
        read.filter(|number| bounds.contains(number)).or_else(|| {
            let (min, max) = (bounds.start(), bounds.end());
            self.invalid(&format!("is {number}, and must be from {min} to {max}"))
        })
    }

    pub(super) fn wrong_type<T>(&self, value: &DeValue<'_>, expected: &str) -> Option<T> {
        self.invalid(&format!("is {}, and must be {expected}", type_name(value)))
    }

    pub(super) fn wrong_item_type<T>(&self, value: &DeValue<'_>) -> Option<T> {
        let message =
            format!("`{}` contains {}, and may contain text only", self.key, type_name(value));
        self.diagnostics.error(&self.span, message, "write it in quotes");
        None
    }

    pub(super) fn expect_list<T>(&self, text: &str) -> Option<T> {
        let message = format!("`{}` is text, and must be a list", self.key);
        self.diagnostics.error(&self.span, message, format!("write {} = [\"{text}\"]", self.key));
        None
    }

    pub(super) fn invalid<T>(&self, what: &str) -> Option<T> {
        let (key, literal) = (&self.key, self.literal);
        self.diagnostics.error(
            &self.span,
            format!("`{key}` {what}"),
            format!("write {key} = {literal}"),
        );
        None
    }
}

pub(super) fn type_name(value: &DeValue<'_>) -> &'static str {
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

/// Rejects blank text.
pub(super) fn non_empty(text: &str) -> Result<&str, &'static str> {
    if text.trim().is_empty() {
        Err("the text is empty; write a value, or leave the key out")
    } else {
        Ok(text)
    }
}
