//! What is wrong with a configuration, where, and what to write instead.
//!
//! All messages have one shape: `file:line: what is wrong; what to write`. A problem whose line may
//! hold a secret never shows that line, for what `check` prints ends in build logs.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// As the caller named it.
    pub file: String,
    /// From 1; 0 where no line is to blame, as for a section that is missing.
    pub line: usize,
    /// In characters, from 1; 0 where no line is to blame.
    pub column: usize,
    /// In bytes of the file; absent where no line is to blame.
    pub span: Option<Range<usize>>,
    pub message: String,
    pub help: Option<String>,
    /// A second place that takes part, as the other of two routes that clash.
    pub also: Option<Range<usize>>,
    /// Whether the line must not be shown.
    pub secret: bool,
}

/// Something that works but that its operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub Problem);

/// Everything that is wrong with one file: never empty, in the order of the lines.
#[derive(Clone)]
pub struct Problems {
    pub list: Vec<Problem>,
    source: String,
}

/// For whom the findings are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// One line each, for scripts, editors and logs.
    Plain,
    /// With the lines of the file, in colour.
    Terminal,
}

impl Problems {
    pub(super) fn new(mut list: Vec<Problem>, source: &str) -> Problems {
        in_order(&mut list);
        Problems { list, source: source.to_owned() }
    }

    /// All problems as text.
    pub fn render(&self, style: Style) -> String {
        match style {
            Style::Plain => self.to_string(),
            Style::Terminal => {
                self.list.iter().map(|problem| problem.drawn(Level::ERROR, &self.source)).collect()
            }
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.iter().try_for_each(|problem| writeln!(f, "{problem}"))
    }
}

/// Without the source, which may hold what nobody should read in a log.
impl fmt::Debug for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list.iter().map(ToString::to_string)).finish()
    }
}

impl std::error::Error for Problems {}

impl Warning {
    /// The warning as text; `source` is the file's.
    pub fn render(&self, style: Style, source: &str) -> String {
        match style {
            Style::Plain => format!("{self}\n"),
            Style::Terminal => self.0.drawn(Level::WARNING, source),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Problem {
    /// A problem of the file as a whole.
    pub(super) fn of_file(file: &str, message: String) -> Problem {
        Problem {
            file: file.to_owned(),
            line: 0,
            column: 0,
            span: None,
            message,
            help: None,
            also: None,
            secret: false,
        }
    }

    /// For scripts.
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

    fn drawn(&self, level: Level<'_>, source: &str) -> String {
        let place = self.span.clone().filter(|span| !self.secret && is_within(span, source));
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
        let drawn = Renderer::styled().render(&[group]);
        format!("{drawn}\n\n")
    }

    fn snippet<'a>(
        &'a self,
        source: &'a str,
        span: Range<usize>,
    ) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let other = self.also.clone().filter(|span| is_within(span, source));
        Snippet::source(source)
            .path(self.file.as_str())
            .annotation(AnnotationKind::Primary.span(span))
            .annotations(other.map(|span| AnnotationKind::Context.span(span)))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "; {help}"))
    }
}

/// Whether the lines of this span may hold the password of an address.
pub(super) fn may_hold_secret(source: &str, span: &Range<usize>) -> bool {
    let start = source.get(..span.start).and_then(|before| before.rfind('\n')).unwrap_or(0);
    let rest = source.get(span.end..).and_then(|after| after.find('\n'));
    let end = rest.map_or(source.len(), |newline| span.end + newline);
    source.get(start..end).is_some_and(|lines| lines.contains("://") && lines.contains('@'))
}

/// Line and column, from 1, of a byte of the text.
pub(super) fn place(source: &str, at: usize) -> (usize, usize) {
    let before = source.get(..at).unwrap_or(source);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

pub(super) fn in_order(list: &mut [Problem]) {
    list.sort_by_key(|problem| problem.span.as_ref().map_or(0, |span| span.start));
}

fn is_within(span: &Range<usize>, source: &str) -> bool {
    source.get(span.clone()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let source = "a\né = x\n";
        assert_eq!(place(source, 0), (1, 1));
        assert_eq!(place(source, 2), (2, 1));
        assert_eq!(place(source, source.find('x').expect("an x")), (2, 5));
        assert_eq!(place(source, 999), (3, 1));
    }

    fn problem(secret: bool) -> Problems {
        let source = "url = \"redis://:hunter2@db\"\n";
        let found = Problem {
            line: 1,
            column: 7,
            span: Some(6..27),
            help: Some("write password_file".to_owned()),
            secret,
            ..Problem::of_file("f.toml", "a password".to_owned())
        };
        Problems::new(vec![found], source)
    }

    #[test]
    fn a_line_with_a_secret_is_shown_nowhere() {
        let shown = problem(false).render(Style::Terminal);
        assert!(shown.contains("hunter2"), "{shown}");
        let hidden = problem(true);
        for text in [hidden.render(Style::Terminal), hidden.to_string(), format!("{hidden:?}")] {
            assert!(!text.contains("hunter2"), "{text}");
            assert!(text.contains("a password") && text.contains("write password_file"), "{text}");
        }
    }

    #[test]
    fn a_plain_problem_is_file_line_what_and_what_to_write() {
        let plain = problem(false).render(Style::Plain);
        assert_eq!(plain, "f.toml:1: a password; write password_file\n");
    }
}
