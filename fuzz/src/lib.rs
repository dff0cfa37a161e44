//! What must hold for any bytes whatever, one function for each place where bytes of others come in.
//!
//! `fuzz/run` lets libFuzzer look for bytes that break one; `tests/corpus.rs` replays the bytes that
//! were kept, on the stable compiler, with every test run. Both call the same functions, so whatever
//! fell out once stays mended.
//!
//! A function panics where a property does not hold. That nothing panics by itself is a property of
//! all of them.

mod answers;
mod cookies;
mod files;
mod forms;
mod heads;
mod hosts;
mod keys;
mod openings;
mod paths;
mod replies;
mod sessions;
mod streams;
mod wire;

/// One place where bytes come in.
pub struct Target {
    /// Names the binary and the folder of the corpus.
    pub name: &'static str,
    pub check: fn(&[u8]),
}

const fn target(name: &'static str, check: fn(&[u8])) -> Target {
    Target { name, check }
}

/// All of them, in alphabetical order.
pub const TARGETS: [Target; 23] = [
    target("agent", forms::agent),
    target("answer", answers::answer),
    target("authority", hosts::authority),
    target("config", files::config),
    target("cookie", cookies::cookie),
    target("credential", files::credential),
    target("endpoint", hosts::endpoint),
    target("entry", sessions::entry),
    target("form", forms::form),
    target("frames", streams::frames),
    target("head", heads::head),
    target("hello", openings::hello),
    target("htpasswd", files::htpasswd),
    target("introduction", openings::introduction),
    target("keyring", files::keyring),
    target("origin", hosts::origin),
    target("path", paths::path),
    target("readings", paths::readings),
    target("record", sessions::record),
    target("reply", replies::reply),
    target("token", sessions::token),
    target("users", files::users),
    target("wire", wire::wire),
];

/// Runs the target of that name.
///
/// # Panics
/// When a property does not hold, or there is no such target.
pub fn check(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target's name");
    (target.check)(bytes);
}
