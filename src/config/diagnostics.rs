//! Collects errors and warnings while the file is read, so that all of them are reported at once.

use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::diagnostic::{self, ConfigError, Diagnostic, Warning};
use super::file_checks::{FileCheck, FilePurpose};
use super::path_base::PathBase;

/// Byte range in the file; `None` if the message concerns no line.
pub(super) type Span = Option<Range<usize>>;

const SYNTAX_ERRORS: usize = 5;

/// A known key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Path such as `session.idle_timeout`, or `route.path` in a list of sections.
    pub path: String,
    pub default: KeyDefault,
}

/// The default of a key, as a TOML literal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyDefault {
    Value(&'static str),
    /// No default; the literal is an example.
    Optional(&'static str),
    /// The key must be set; the literal is an example.
    Required(&'static str),
}

impl KeyDefault {
    /// Returns the default or the example.
    pub fn literal(self) -> &'static str {
        match self {
            KeyDefault::Value(literal)
            | KeyDefault::Optional(literal)
            | KeyDefault::Required(literal) => literal,
        }
    }
}

/// Shared by all readers of one file.
pub(super) struct Diagnostics<'a> {
    pub file: &'a str,
    pub source: &'a str,
    paths: &'a PathBase,
    state_dir: RefCell<PathBuf>,
    errors: RefCell<Vec<Diagnostic>>,
    warnings: RefCell<Vec<Diagnostic>>,
    keys: RefCell<Vec<Key>>,
    files: RefCell<Vec<(Span, PathBuf, FilePurpose)>>,
}

impl<'a> Diagnostics<'a> {
    pub(super) fn new(file: &'a str, source: &'a str, paths: &'a PathBase) -> Diagnostics<'a> {
        Diagnostics {
            file,
            source,
            paths,
            state_dir: RefCell::default(),
            errors: RefCell::default(),
            warnings: RefCell::default(),
            keys: RefCell::default(),
            files: RefCell::default(),
        }
    }

    /// Returns a path of the file. A file that exists only where earlier versions looked is used, with a
    /// warning.
    pub(super) fn resolve(&self, span: &Span, text: &str) -> PathBuf {
        let path = self.paths.base.join(text);
        let Some(old) = self.paths.fallback.as_ref().map(|fallback| fallback.join(text)) else {
            return path;
        };
        if path.exists() || !old.exists() || Path::new(text).is_absolute() {
            return path;
        }
        self.warning(
            span,
            format!(
                "`{text}` exists in the working directory only; paths start at the directory of this file"
            ),
            format!("move it to {}, or write its absolute path", path.display()),
        );
        old
    }

    /// Sets the directory of [`Diagnostics::in_state_dir`].
    pub(super) fn set_state_dir(&self, directory: &Path) {
        directory.clone_into(&mut self.state_dir.borrow_mut());
    }

    /// Returns the path of a default such as `state/keys.toml`, in the configured state directory.
    pub(super) fn in_state_dir(&self, default: &Path) -> PathBuf {
        let directory = self.state_dir.borrow();
        match default.strip_prefix("state") {
            // Not joined, which would add a slash.
            Ok(name) if name.as_os_str().is_empty() => directory.clone(),
            Ok(name) => directory.join(name),
            Err(_) => self.paths.base.join(default),
        }
    }

    /// Adds an error. `help` states what to write, and may be empty.
    pub(super) fn error(&self, span: &Span, message: impl Into<String>, help: impl Into<String>) {
        self.push(self.diagnostic(span, message.into(), help.into()));
    }

    /// Adds an error about two locations that contradict each other.
    pub(super) fn error_between(&self, spans: [&Span; 2], message: String, help: String) {
        let [first, second] = spans;
        let all = first
            .iter()
            .chain(second)
            .cloned()
            .reduce(|first, second| first.start.min(second.start)..first.end.max(second.end));
        let redact = all.is_some_and(|all| diagnostic::may_hold_secret(self.source, &all));
        self.push(Diagnostic {
            related_span: first.clone(),
            redact,
            ..self.diagnostic(second, message, help)
        });
    }

    pub(super) fn warning(&self, span: &Span, message: impl Into<String>, help: impl Into<String>) {
        self.warnings.borrow_mut().push(self.diagnostic(span, message.into(), help.into()));
    }

    /// Adds TOML syntax errors, one per line and at most five. An unclosed bracket would otherwise report
    /// every following line.
    pub(super) fn syntax(&self, errors: &[toml::de::Error]) {
        let mut lines = Vec::new();
        for error in errors {
            let line = self.line(&error.span());
            if lines.len() < SYNTAX_ERRORS && !lines.contains(&line) {
                lines.push(line);
                let (message, help) = self.syntax_message(error);
                self.error(&error.span(), message, help);
            }
        }
    }

    /// Names the key of a duplicate, which the parser does not.
    fn syntax_message(&self, error: &toml::de::Error) -> (String, &'static str) {
        let key = error.span().and_then(|span| self.source.get(span));
        match key.filter(|_| error.message() == "duplicate key") {
            Some(key) => (
                format!("the key `{}` is set twice in this section", key.trim()),
                "keep one of them",
            ),
            None => (error.message().to_owned(), ""),
        }
    }

    /// Registers a known key.
    pub(super) fn register_key(&self, path: String, default: KeyDefault) {
        let key = Key { path, default };
        let mut keys = self.keys.borrow_mut();
        if !keys.contains(&key) {
            keys.push(key);
        }
    }

    /// Registers a file that must exist when the gateway starts.
    pub(super) fn register_file(&self, span: &Span, path: &Path, purpose: FilePurpose) {
        self.files.borrow_mut().push((span.clone(), path.to_owned(), purpose));
    }

    /// Checks every registered file for its purpose.
    pub(super) fn check_files(&self) {
        for (span, path, purpose) in self.files.take() {
            let path = path.as_path();
            match purpose.check(path) {
                FileCheck::Ok => {}
                FileCheck::Error(message) => {
                    self.error(&span, format!("{}: {message}", path.display()), "");
                }
                FileCheck::Warning { message, help } => {
                    self.warning(&span, format!("{}: {message}", path.display()), help);
                }
            }
        }
    }

    /// Returns the line, from 1; 0 without a location.
    pub(super) fn line(&self, span: &Span) -> usize {
        span.as_ref().map_or(0, |span| diagnostic::line_column(self.source, span.start).0)
    }

    pub(super) fn keys(self) -> Vec<Key> {
        self.keys.into_inner()
    }

    /// Returns the value with its warnings, or the errors.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<(T, Vec<Warning>), ConfigError> {
        let errors = self.errors.into_inner();
        match value {
            Some(value) if errors.is_empty() => {
                let mut warnings = self.warnings.into_inner();
                diagnostic::sort_by_position(&mut warnings);
                Ok((value, warnings.into_iter().map(Warning).collect()))
            }
            Some(_) | None => Err(ConfigError::new(errors, self.source)),
        }
    }

    fn push(&self, error: Diagnostic) {
        self.errors.borrow_mut().push(error);
    }

    fn diagnostic(&self, span: &Span, message: String, help: String) -> Diagnostic {
        let whole = Diagnostic::for_file(self.file, message);
        let help =
            Some(help).filter(|help| !help.is_empty()).map(|help| diagnostic::printable(&help));
        let Some(span) = span.clone() else { return Diagnostic { help, ..whole } };
        let (line, column) = diagnostic::line_column(self.source, span.start);
        let redact = diagnostic::may_hold_secret(self.source, &span);
        Diagnostic { line, column, span: Some(span), help, redact, ..whole }
    }
}
