//! The request target, against the ways in which other programs read one.

use std::cell::RefCell;

use doorward::message::{Doubt, PathPrefix, Target};
use http::uri::PathAndQuery;
use percent_encoding::percent_decode;

/// How much of a path other programs are known to fold away, each a source of rules passed by.
const READERS: [fn(&str) -> String; 6] =
    [dot_segments, merged_slashes, without_parameters, backslashes, decoded_again, up_to_nul];

/// A path that we let through is the same path to every reader, and goes on as it came.
pub fn path(bytes: &[u8]) {
    let Ok(raw) = PathAndQuery::try_from(bytes) else { return };
    let Ok(target) = Target::new(raw) else { return };
    let path = target.path();
    // The library has cut a fragment off by now, and what is nothing else is `/` to it.
    let sent = bytes.split(|byte| *byte == b'#').next().unwrap_or_default();
    let sent = if sent.is_empty() { b"/" } else { sent };
    assert_eq!(target.raw().to_string().as_bytes(), sent, "forwarded is what was sent");
    assert_eq!(path, once_decoded(target.raw().path()), "judged is what was sent, decoded once");
    for reader in READERS {
        assert_eq!(reader(path), path, "{path:?} is another path to another reader");
    }
    assert_eq!(of_a_browser(target.raw().as_str()).as_deref(), Some(path), "WHATWG");
    assert!(path.bytes().all(|byte| byte >= 0x20 && byte != 0x7f), "{path:?}");
    prefix(path);
}

/// What an app may do with a path before it looks it up, in any order and more than once.
const HABITS: [fn(&str) -> String; 5] =
    [decoded_again, backslashes, without_parameters, merged_slashes, cut_at_marks];

/// A path in doubt passes only if every way to read it was put to the question.
pub fn readings(bytes: &[u8]) {
    let Ok(raw) = PathAndQuery::try_from(bytes) else { return };
    let asked = RefCell::new(None);
    let judged = Target::judged(raw, |readings| {
        *asked.borrow_mut() = Some((readings.doubt, readings.paths.clone()));
        true
    });
    let Ok(target) = judged else { return };
    let Some((doubt, paths)) = asked.into_inner() else { return path(bytes) };
    // A path whose only doubt is a mark is judged decoded, like all others.
    let start = match doubt {
        Doubt::Mark => once_decoded(target.raw().path()),
        Doubt::Shape => target.raw().path().to_owned(),
    };
    for first in HABITS {
        for second in HABITS {
            for third in HABITS {
                let read = third(&second(&first(&start)));
                assert!(paths.contains(&read), "nobody asked about {read:?}: {paths:?}");
                assert!(!read.split('/').any(|segment| matches!(segment, "." | "..")), "{read:?}");
            }
        }
    }
}

/// A prefix made of the path covers it, and never a longer last segment.
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

/// nginx, and most file servers.
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

/// IIS, and everything on Windows.
fn backslashes(path: &str) -> String {
    path.replace('\\', "/")
}

/// Two programs in a row that each decode.
fn decoded_again(path: &str) -> String {
    String::from_utf8_lossy(&percent_decode(path.as_bytes()).collect::<Vec<_>>()).into_owned()
}

/// Programs in C.
fn up_to_nul(path: &str) -> String {
    path.split('\0').next().unwrap_or_default().to_owned()
}

/// Programs that write a path anew without encoding it.
fn cut_at_marks(path: &str) -> String {
    path.split(['?', '#']).next().unwrap_or_default().to_owned()
}
