//! Errors and warnings of a configuration file.
//!
//! Every message has the form `file:line: error; what to write`. A line that may contain a secret is never
//! shown, because the output of `check` ends up in build logs.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// One error or warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// File name as given by the caller.
    pub file: String,
    /// From 1; 0 if the message concerns no line, such as a missing section.
    pub line: usize,
    /// In characters, from 1; 0 if the message concerns no line.
    pub column: usize,
    /// Byte range in the file; `None` if the message concerns no line.
    pub span: Option<Range<usize>>,
    pub message: String,
    pub help: Option<String>,
    /// A second location, such as the other one of two conflicting routes.
    pub related_span: Option<Range<usize>>,
    /// Whether the source line may contain a secret and must not be shown.
    pub redact: bool,
}

/// A configuration that loads but deserves the operator's attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub Diagnostic);

/// All errors of one file: never empty, in line order.
#[derive(Clone)]
pub struct ConfigError {
    pub diagnostics: Vec<Diagnostic>,
    source: String,
}

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenderStyle {
    /// One line per message, for scripts, editors and logs.
    Plain,
    /// Coloured, with source lines.
    Terminal,
}

impl ConfigError {
    pub(super) fn new(mut diagnostics: Vec<Diagnostic>, source: &str) -> ConfigError {
        sort_by_position(&mut diagnostics);
        ConfigError { diagnostics, source: source.to_owned() }
    }

    /// Returns an error of these problems without source lines.
    pub fn of(diagnostics: Vec<Diagnostic>) -> ConfigError {
        ConfigError::new(diagnostics, "")
    }

    /// Returns all errors as text.
    pub fn render(&self, style: RenderStyle) -> String {
        match style {
            RenderStyle::Plain => self.to_string(),
            RenderStyle::Terminal => self
                .diagnostics
                .iter()
                .map(|error| error.render_for_terminal(Level::ERROR, &self.source))
                .collect(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.diagnostics.iter().try_for_each(|error| writeln!(f, "{error}"))
    }
}

/// Omits the source, which may contain secrets.
impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.diagnostics.iter().map(ToString::to_string)).finish()
    }
}

impl std::error::Error for ConfigError {}

impl Warning {
    /// Returns the warning as text; `source` is the file content.
    pub fn render(&self, style: RenderStyle, source: &str) -> String {
        match style {
            RenderStyle::Plain => format!("{self}\n"),
            RenderStyle::Terminal => self.0.render_for_terminal(Level::WARNING, source),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Diagnostic {
    /// Returns an error without a location.
    pub fn for_file(file: &str, message: impl AsRef<str>) -> Diagnostic {
        Diagnostic {
            file: file.to_owned(),
            line: 0,
            column: 0,
            span: None,
            message: printable(message.as_ref()),
            help: None,
            related_span: None,
            redact: false,
        }
    }

    /// Returns the JSON form.
    pub fn json(&self) -> serde_json::Value {
        let place = |number: usize| Some(number).filter(|number| *number > 0);
        serde_json::json!({
            "file": self.file,
            "line": place(self.line),
            "column": place(self.column),
            "message": self.message,
            "help": self.help,
        })
    }

    fn render_for_terminal(&self, level: Level<'_>, source: &str) -> String {
        let place = self.span.clone().filter(|span| !self.redact && is_within(span, source));
        let mut group = Group::with_title(level.primary_title(self.message.as_str()));
        group = match place {
            Some(span) => group.element(self.snippet(source, span)),
            None if self.line == 0 => group.element(Origin::path(self.file.as_str())),
            None => group
                .element(Origin::path(self.file.as_str()).line(self.line).char_column(self.column)),
        };
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let rendered = Renderer::styled().render(&[group]);
        format!("{rendered}\n\n")
    }

    fn snippet<'a>(
        &'a self,
        source: &'a str,
        span: Range<usize>,
    ) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let other = self.related_span.clone().filter(|span| is_within(span, source));
        Snippet::source(source)
            .path(self.file.as_str())
            .annotation(AnnotationKind::Primary.span(span))
            .annotations(other.map(|span| AnnotationKind::Context.span(span)))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "; {help}"))
    }
}

/// Replaces characters that are not printable: quoted file content must neither break the line, nor reorder it,
/// nor control the terminal.
pub(super) fn printable(text: &str) -> String {
    // A printable character is its own debug form, except quotes and the backslash.
    let is_printable = |c: &char| c.is_ascii_graphic() || c.escape_debug().len() == 1;
    text.chars().map(|c| if is_printable(&c) { c } else { '?' }).collect()
}

/// Whether the lines of the span may contain a URL with a password.
pub(super) fn may_hold_secret(source: &str, span: &Range<usize>) -> bool {
    let start = source.get(..span.start).and_then(|before| before.rfind('\n')).unwrap_or(0);
    let rest = source.get(span.end..).and_then(|after| after.find('\n'));
    let end = rest.map_or(source.len(), |newline| span.end + newline);
    source.get(start..end).is_some_and(|lines| lines.contains("://") && lines.contains('@'))
}

/// Returns line and column, from 1, of a byte offset.
pub(super) fn line_column(source: &str, at: usize) -> (usize, usize) {
    let before = source.get(..at).unwrap_or(source);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

pub(super) fn sort_by_position(list: &mut [Diagnostic]) {
    list.sort_by_key(|error| error.span.as_ref().map_or(0, |span| span.start));
}

fn is_within(span: &Range<usize>, source: &str) -> bool {
    source.get(span.clone()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one() {
        let source = "a\né = x\n";
        assert_eq!(line_column(source, 0), (1, 1));
        assert_eq!(line_column(source, 2), (2, 1));
        assert_eq!(line_column(source, source.find('x').expect("an x")), (2, 5));
        assert_eq!(line_column(source, 999), (3, 1));
    }

    fn error(secret: bool) -> ConfigError {
        let source = "url = \"redis://:hunter2@db\"\n";
        let found = Diagnostic {
            line: 1,
            column: 7,
            span: Some(6..27),
            help: Some("write password_file".to_owned()),
            redact: secret,
            ..Diagnostic::for_file("f.toml", "a password")
        };
        ConfigError::new(vec![found], source)
    }

    #[test]
    fn a_line_with_a_secret_is_never_shown() {
        let shown = error(false).render(RenderStyle::Terminal);
        assert!(shown.contains("hunter2"), "{shown}");
        let hidden = error(true);
        for text in
            [hidden.render(RenderStyle::Terminal), hidden.to_string(), format!("{hidden:?}")]
        {
            assert!(!text.contains("hunter2"), "{text}");
            assert!(text.contains("a password") && text.contains("write password_file"), "{text}");
        }
    }

    #[test]
    fn a_plain_error_has_file_line_message_and_help() {
        let plain = error(false).render(RenderStyle::Plain);
        assert_eq!(plain, "f.toml:1: a password; write password_file\n");
    }
}
