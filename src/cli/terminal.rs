//! Standard output and standard error of the commands. Names, paths and log lines come from others, so
//! characters that a terminal would execute or hide are escaped.

use std::io::{self, Stderr, Stdout};

use crate::telemetry::Printable;

pub(super) fn out() -> Printable<Stdout> {
    Printable(io::stdout())
}

pub(super) fn err() -> Printable<Stderr> {
    Printable(io::stderr())
}
