//! Request targets, compared with the interpretations of other programs.

use std::cell::RefCell;

use doorward::message::{Ambiguity, PathPrefix, Target};
use http::uri::PathAndQuery;
use percent_encoding::percent_decode;

/// Path normalizations of known programs; each has bypassed access rules somewhere.
const NORMALIZATIONS: [fn(&str) -> String; 6] =
    [dot_segments, merged_slashes, without_parameters, backslashes, decoded_again, up_to_nul];

/// An accepted path is the same for every program and is forwarded unchanged.
pub fn path(bytes: &[u8]) {
    let Ok(raw) = PathAndQuery::try_from(bytes) else { return };
    let Ok(target) = Target::new(raw) else { return };
    let path = target.path();
    // The `http` crate has dropped a fragment and represents an empty target as `/`.
    let sent = bytes.split(|byte| *byte == b'#').next().unwrap_or_default();
    let sent = if sent.is_empty() { b"/" } else { sent };
    assert_eq!(target.raw().to_string().as_bytes(), sent, "forwarded is what was sent");
    assert_eq!(
        path,
        once_decoded(target.raw().path()),
        "the decoded path equals the sent one, decoded once"
    );
    for reader in NORMALIZATIONS {
        assert_eq!(reader(path), path, "{path:?} is another path to another reader");
    }
    assert_eq!(of_a_browser(target.raw().as_str()).as_deref(), Some(path), "WHATWG");
    assert!(path.bytes().all(|byte| byte >= 0x20 && byte != 0x7f), "{path:?}");
    prefix(path);
}

/// Normalizations of an upstream, in any order and repeatedly.
const COMBINED: [fn(&str) -> String; 5] =
    [decoded_again, backslashes, without_parameters, merged_slashes, cut_at_marks];

/// An ambiguous path is accepted only if all its interpretations were checked.
pub fn path_interpretations(bytes: &[u8]) {
    let Ok(raw) = PathAndQuery::try_from(bytes) else { return };
    let checked = RefCell::new(None);
    let result = Target::parse_with(raw, |path| {
        *checked.borrow_mut() = path.interpret().map(|read| (read.ambiguity, read.paths));
        checked.borrow().is_some()
    });
    let Ok(target) = result else { return };
    let Some((ambiguity, paths)) = checked.into_inner() else { return path(bytes) };
    // A path that is ambiguous only by an encoded delimiter is decoded like all others.
    let start = match ambiguity {
        Ambiguity::Delimiter => once_decoded(target.raw().path()),
        Ambiguity::Segments => target.raw().path().to_owned(),
    };
    for first in COMBINED {
        for second in COMBINED {
            for third in COMBINED {
                let read = third(&second(&first(&start)));
                assert!(paths.contains(&read), "unchecked interpretation {read:?}: {paths:?}");
                assert!(!read.split('/').any(|segment| matches!(segment, "." | "..")), "{read:?}");
            }
        }
    }
}

/// A prefix taken from the path covers it, but not a longer last segment.
fn prefix(path: &str) {
    let Ok(prefix) = PathPrefix::parse(path) else { return };
    assert!(prefix.covers(path));
    if path != "/" {
        let longer = format!("{}x", path.trim_end_matches('/'));
        assert!(!prefix.covers(&longer), "{path:?} covers {longer:?}");
    }
}

fn once_decoded(raw: &str) -> String {
    percent_decode(raw.as_bytes()).decode_utf8().expect("UTF-8, or it was refused").into_owned()
}

fn of_a_browser(raw: &str) -> Option<String> {
    let url = url::Url::parse(&format!("https://app.test{raw}")).ok()?;
    (url.host_str() == Some("app.test")).then(|| once_decoded(url.path()))
}

/// RFC 3986 5.2.4.
fn dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (at, segment) in segments.iter().enumerate() {
        let last = at + 1 == segments.len();
        match *segment {
            "." | ".." => {
                if *segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            plain => kept.push(plain),
        }
    }
    format!("/{}", kept.join("/"))
}

/// nginx and most file servers.
fn merged_slashes(path: &str) -> String {
    let mut out = path.to_owned();
    while out.contains("//") {
        out = out.replace("//", "/");
    }
    out
}

/// Tomcat, Jetty and Spring: `/a;x=1/b` is `/a/b`.
fn without_parameters(path: &str) -> String {
    let segments = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    segments.collect::<Vec<_>>().join("/")
}

/// IIS and other software on Windows.
fn backslashes(path: &str) -> String {
    path.replace('\\', "/")
}

/// Two programs in a row that both decode.
fn decoded_again(path: &str) -> String {
    let bytes: Vec<u8> = percent_decode(path.as_bytes()).collect();
    let chunks = bytes.utf8_chunks().map(|chunk| {
        let latin_1 = chunk.invalid().iter().map(|byte| char::from(*byte));
        chunk.valid().chars().chain(latin_1).collect::<String>()
    });
    chunks.collect()
}

/// Software written in C.
fn up_to_nul(path: &str) -> String {
    path.split('\0').next().unwrap_or_default().to_owned()
}

/// Programs that rewrite a path without encoding it.
fn cut_at_marks(path: &str) -> String {
    path.split(['?', '#']).next().unwrap_or_default().to_owned()
}
