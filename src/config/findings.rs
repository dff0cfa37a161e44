//! What reading a file brings to light, collected while it is read: nothing stops at the first
//! problem.

use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::files::{Purpose, Remark};
use super::problem::{self, Problem, Problems, Warning};

/// Bytes of the file, or nothing where no line is to blame.
pub(super) type Place = Option<Range<usize>>;

const SYNTAX_ERRORS: usize = 5;

/// A key that the configuration knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// As in `session.idle_timeout`; lists of sections without a number, as in `route.path`.
    pub path: String,
    pub usual: Usual,
}

/// What holds when a key is not written. Each carries a value as TOML writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usual {
    /// This value.
    Is(&'static str),
    /// Nothing: the key is optional. With an example.
    Absent(&'static str),
    /// The file does not load. With an example.
    Required(&'static str),
}

impl Usual {
    /// The value, or the example.
    pub fn literal(self) -> &'static str {
        match self {
            Usual::Is(literal) | Usual::Absent(literal) | Usual::Required(literal) => literal,
        }
    }
}

/// The collection. Shared by all readers of one file.
pub(super) struct Findings<'a> {
    pub file: &'a str,
    pub source: &'a str,
    /// What relative paths start from.
    pub base: &'a Path,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    keys: RefCell<Vec<Key>>,
    files: RefCell<Vec<(Place, PathBuf, Purpose)>>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(file: &'a str, source: &'a str, base: &'a Path) -> Findings<'a> {
        Findings {
            file,
            source,
            base,
            problems: RefCell::default(),
            warnings: RefCell::default(),
            keys: RefCell::default(),
            files: RefCell::default(),
        }
    }

    /// Notes a problem: what is wrong, and what to write where the first does not say so.
    pub(super) fn problem(
        &self,
        place: &Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(self.at(place, message.into(), help.into()));
    }

    /// As [`Findings::problem`], for two places that do not go together.
    pub(super) fn problem_between(&self, places: [&Place; 2], message: String, help: String) {
        let [first, second] = places;
        let all = first
            .iter()
            .chain(second)
            .cloned()
            .reduce(|first, second| first.start.min(second.start)..first.end.max(second.end));
        let secret = all.is_some_and(|all| problem::may_hold_secret(self.source, &all));
        self.push(Problem { also: first.clone(), secret, ..self.at(second, message, help) });
    }

    pub(super) fn warning(
        &self,
        place: &Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.warnings.borrow_mut().push(self.at(place, message.into(), help.into()));
    }

    /// Notes where the text is no TOML: one error for each line, and not more than a few, for one
    /// bracket that is never closed spoils every line below it.
    pub(super) fn syntax(&self, errors: &[toml::de::Error]) {
        let mut lines = Vec::new();
        for error in errors {
            let line = self.line(&error.span());
            if lines.len() < SYNTAX_ERRORS && !lines.contains(&line) {
                lines.push(line);
                self.problem(&error.span(), error.message(), "");
            }
        }
    }

    /// Notes that the configuration knows a key.
    pub(super) fn key(&self, path: String, usual: Usual) {
        let key = Key { path, usual };
        let mut keys = self.keys.borrow_mut();
        if !keys.contains(&key) {
            keys.push(key);
        }
    }

    /// Notes a file that must be there when the gateway starts.
    pub(super) fn file(&self, place: &Place, path: &Path, purpose: Purpose) {
        self.files.borrow_mut().push((place.clone(), path.to_owned(), purpose));
    }

    /// Says which of the files named cannot be what they are named for.
    pub(super) fn look_for_files(&self) {
        for (place, path, purpose) in self.files.take() {
            let path = path.as_path();
            match purpose.look(path) {
                Remark::Good => {}
                Remark::Wrong(what) => {
                    self.problem(&place, format!("{}: {what}", path.display()), "");
                }
                Remark::Warn { message, help } => {
                    self.warning(&place, format!("{}: {message}", path.display()), help);
                }
            }
        }
    }

    /// The line of a place, from 1.
    pub(super) fn line(&self, place: &Place) -> usize {
        place.as_ref().map_or(0, |span| problem::place(self.source, span.start).0)
    }

    pub(super) fn keys(self) -> Vec<Key> {
        self.keys.into_inner()
    }

    /// The value with its warnings, or the problems.
    pub(super) fn conclude<T>(self, value: Option<T>) -> Result<(T, Vec<Warning>), Problems> {
        let problems = self.problems.into_inner();
        match value {
            Some(value) if problems.is_empty() => {
                let mut warnings = self.warnings.into_inner();
                problem::in_order(&mut warnings);
                Ok((value, warnings.into_iter().map(Warning).collect()))
            }
            Some(_) | None => Err(Problems::new(problems, self.source)),
        }
    }

    fn push(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    fn at(&self, place: &Place, message: String, help: String) -> Problem {
        let whole = Problem::of_file(self.file, in_one_line(&message));
        let help = Some(help).filter(|help| !help.is_empty()).map(|help| in_one_line(&help));
        let Some(span) = place.clone() else { return Problem { help, ..whole } };
        let (line, column) = problem::place(self.source, span.start);
        let secret = problem::may_hold_secret(self.source, &span);
        Problem { line, column, span: Some(span), help, secret, ..whole }
    }
}

/// A message quotes the file, and what it quotes must neither break the line nor steer a terminal.
fn in_one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
