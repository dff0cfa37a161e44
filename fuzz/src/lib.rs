//! Properties that hold for any input bytes, one function per parser of untrusted input.
//!
//! `fuzz/run` searches for violations with libFuzzer. `tests/system/fuzz_corpus.rs` replays the
//! corpus on the stable compiler in every test run. Both call the same functions, so a fixed
//! violation stays fixed.
//!
//! A function panics if its property is violated. That no code under test panics is a property of
//! all of them.

mod connection_start;
mod cookies;
mod files;
mod forms;
mod hosts;
mod http1_responses;
mod keys;
mod paths;
mod providers;
mod request_heads;
mod request_pipeline;
mod response_headers;
mod sessions;
mod websocket;

/// One parser of untrusted input.
pub struct Target {
    /// Name of the binary and of the corpus folder.
    pub name: &'static str,
    pub check: fn(&[u8]),
}

const fn target(name: &'static str, check: fn(&[u8])) -> Target {
    Target { name, check }
}

/// All targets, sorted by name.
pub const TARGETS: [Target; 24] = [
    target("client_addr", hosts::client_addr),
    target("client_hello", connection_start::client_hello),
    target("config", files::config),
    target("cookies", cookies::cookies),
    target("credential", files::credential),
    target("endpoint", hosts::endpoint),
    target("form", forms::form),
    target("frames", websocket::frames),
    target("host", hosts::host),
    target("htpasswd", files::htpasswd),
    target("http1_response", http1_responses::http1_response),
    target("keyring", files::keyring),
    target("path", paths::path),
    target("path_interpretations", paths::path_interpretations),
    target("provider_data", providers::provider_data),
    target("proxy_header", connection_start::proxy_header),
    target("record", sessions::record),
    target("request_head", request_heads::request_head),
    target("request_pipeline", request_pipeline::request_pipeline),
    target("response_headers", response_headers::response_headers),
    target("store_entry", sessions::store_entry),
    target("token", sessions::token),
    target("user_agent", forms::user_agent),
    target("users", files::users),
];

/// Runs the target `name`.
///
/// # Panics
/// If a property is violated or the target does not exist.
pub fn check(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target's name");
    (target.check)(bytes);
}
