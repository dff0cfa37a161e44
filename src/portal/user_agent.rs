//! Describes a `User-Agent` header in words that users recognise, such as "Firefox on Linux".
//!
//! The result helps users to identify their sessions. It contains only fixed words, never text from
//! the header, and decides nothing.

/// Description of an unknown header.
const UNKNOWN: &str = "An unknown program";

/// Browsers by a substring. Derived browsers come first, because most headers also contain Safari
/// and Chrome.
const BROWSERS: [(&str, &str); 19] = [
    ("Edg/", "Edge"),
    ("EdgA/", "Edge"),
    ("EdgiOS/", "Edge"),
    ("OPR/", "Opera"),
    ("OPT/", "Opera"),
    ("Vivaldi/", "Vivaldi"),
    ("YaBrowser/", "Yandex Browser"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("DuckDuckGo/", "DuckDuckGo"),
    ("Ddg/", "DuckDuckGo"),
    ("FxiOS/", "Firefox"),
    ("Firefox/", "Firefox"),
    ("Epiphany/", "GNOME Web"),
    ("CriOS/", "Chrome"),
    ("Chromium/", "Chromium"),
    ("HeadlessChrome/", "Chrome without a window"),
    ("Chrome/", "Chrome"),
    ("Trident/", "Internet Explorer"),
    ("Safari/", "Safari"),
];

/// Systems by a substring. Android precedes Linux, and iPhone precedes Mac. An iPad that requests
/// desktop pages is described as a Mac.
const SYSTEMS: [(&str, &str); 9] = [
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Windows", "Windows"),
    ("Macintosh", "Mac"),
    ("FreeBSD", "FreeBSD"),
    ("OpenBSD", "OpenBSD"),
    ("Linux", "Linux"),
];

/// Programs by the start of the header.
const PROGRAMS: [(&str, &str); 12] = [
    ("curl/", "curl"),
    ("Wget/", "Wget"),
    ("HTTPie/", "HTTPie"),
    ("git/", "Git"),
    ("python-requests/", "A Python script"),
    ("python-httpx/", "A Python script"),
    ("Python-urllib/", "A Python script"),
    ("Go-http-client/", "A Go program"),
    ("Java/", "A Java program"),
    ("okhttp/", "An Android or Java app"),
    ("node", "A Node.js program"),
    ("PostmanRuntime/", "Postman"),
];

/// Returns the browser and system, the program, or "An unknown program".
pub fn describe(agent: &str) -> String {
    if let Some(program) = first(&PROGRAMS, |mark| agent.starts_with(mark)) {
        return program.to_owned();
    }
    let browser = first(&BROWSERS, |mark| agent.contains(mark));
    let system = first(&SYSTEMS, |mark| agent.contains(mark));
    match (browser, system) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(browser), None) => browser.to_owned(),
        (None, Some(system)) => format!("{UNKNOWN} on {system}"),
        (None, None) => UNKNOWN.to_owned(),
    }
}

fn first(
    table: &[(&'static str, &'static str)],
    matches: impl Fn(&str) -> bool,
) -> Option<&'static str> {
    table.iter().find(|(mark, _)| matches(mark)).map(|(_, words)| *words)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Headers of real browsers, and their descriptions.
    const KNOWN: [(&str, &str); 17] = [
        (
            "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
            "Firefox on Linux",
        ),
        (
            "Mozilla/5.0 (Android 16; Mobile; rv:145.0) Gecko/145.0 Firefox/145.0",
            "Firefox on Android",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/145.0 Mobile/15E148 Safari/604.1",
            "Firefox on iPhone",
        ),
        (
            "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36",
            "Chrome on Android",
        ),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
            "Chrome on Windows",
        ),
        (
            "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
            "Chrome on ChromeOS",
        ),
        (
            "Mozilla/5.0 (iPad; CPU OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/142.0.0.0 Mobile/15E148 Safari/604.1",
            "Chrome on iPad",
        ),
        (
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/142.0.0.0 Safari/537.36",
            "Chrome without a window on Linux",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
            "Safari on iPhone",
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Safari/605.1.15",
            "Safari on Mac",
        ),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0",
            "Edge on Windows",
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 OPR/125.0.0.0",
            "Opera on Mac",
        ),
        (
            "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36",
            "Samsung Internet on Android",
        ),
        ("curl/8.14.1", "curl"),
        ("python-requests/2.32.5", "A Python script"),
        ("Mozilla/5.0 (X11; Linux x86_64)", "An unknown program on Linux"),
        ("", "An unknown program"),
    ];

    #[test]
    fn real_headers_are_described_by_browser_and_system() {
        for (agent, words) in KNOWN {
            assert_eq!(describe(agent), words, "{agent}");
        }
    }

    #[test]
    fn unknown_headers_are_not_echoed() {
        for agent in ["<script>alert(1)</script>", "My own curl/8", "'\"\n\r\0", "\u{202e}evil"] {
            assert_eq!(describe(agent), UNKNOWN, "{agent:?}");
        }
    }

    #[test]
    fn no_table_entry_is_shadowed_by_an_earlier_one() {
        for table in [&BROWSERS[..], &SYSTEMS[..], &PROGRAMS[..]] {
            for (at, (mark, words)) in table.iter().enumerate() {
                let hidden = table[..at].iter().find(|(earlier, _)| mark.contains(earlier));
                assert!(hidden.is_none(), "{mark} ({words}) is never reached");
            }
        }
    }
}
