//! Parses a `User-Agent` header into browser, version and operating system, for risk signals and for
//! the list of sessions. A new version is not a signal.

/// The client software according to its `User-Agent` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserAgent<'a> {
    /// The browser, or the first word of another program. `None` for media players that fetch on behalf of
    /// a browser: they send the operating system only.
    pub browser: Option<&'a str>,
    /// First two numbers of the version; zero if there are none.
    pub version: (u32, u32),
    pub os: Option<OperatingSystem>,
}

/// Groups of operating systems. One browser does not change between groups. Within a group it does: a phone
/// that requests the desktop site sends Linux instead of Android, or macOS instead of iOS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatingSystem {
    Windows,
    Apple,
    Linux,
    ChromeOs,
}

/// Browsers by marker, the most specific first, because each browser also names those it is
/// compatible with.
const BROWSERS: [(&str, &str); 18] = [
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("OPT/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Vivaldi/", "Vivaldi"),
    ("YaBrowser/", "Yandex Browser"),
    ("DuckDuckGo/", "DuckDuckGo"),
    ("Ddg/", "DuckDuckGo"),
    ("FxiOS/", "Firefox"),
    ("Firefox/", "Firefox"),
    ("Epiphany/", "GNOME Web"),
    ("CriOS/", "Chrome"),
    ("HeadlessChrome/", "Headless Chrome"),
    ("Chromium/", "Chromium"),
    ("Chrome/", "Chrome"),
    ("Trident/", "Internet Explorer"),
    ("Safari/", "Safari"),
    ("AppleWebKit/", "Safari"),
];

/// Systems by marker: name and group. Android also sends Linux. An iPad that requests the desktop
/// site sends Macintosh.
const SYSTEMS: [(&str, &str, OperatingSystem); 10] = [
    ("iPhone", "iPhone", OperatingSystem::Apple),
    ("iPad", "iPad", OperatingSystem::Apple),
    ("Android", "Android", OperatingSystem::Linux),
    ("CrOS", "ChromeOS", OperatingSystem::ChromeOs),
    ("Windows", "Windows", OperatingSystem::Windows),
    ("Macintosh", "Mac", OperatingSystem::Apple),
    ("FreeBSD", "FreeBSD", OperatingSystem::Linux),
    ("OpenBSD", "OpenBSD", OperatingSystem::Linux),
    ("Linux", "Linux", OperatingSystem::Linux),
    ("X11", "Unix", OperatingSystem::Linux),
];

/// Programs that begin the header with their own name.
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

/// Description of a program that is in none of the tables.
const UNKNOWN: &str = "An unknown program";

/// System media players, which fetch audio and video with the browser's cookies and their own user agent.
const MEDIA_PLAYERS: [&str; 2] = ["AppleCoreMedia/", "stagefright/"];

impl OperatingSystem {
    /// Returns the name in logs.
    pub fn name(self) -> &'static str {
        match self {
            OperatingSystem::Windows => "Windows",
            OperatingSystem::Apple => "macOS or iOS",
            OperatingSystem::Linux => "Linux or Android",
            OperatingSystem::ChromeOs => "ChromeOS",
        }
    }
}

impl UserAgent<'_> {
    /// Parses a `User-Agent` header. Total: every text has a result.
    pub fn parse(user_agent: &str) -> UserAgent<'_> {
        let is_player = MEDIA_PLAYERS.iter().any(|player| user_agent.starts_with(player));
        let os = SYSTEMS.iter().find(|(marker, ..)| user_agent.contains(marker));
        let os = os.map(|(_, _, os)| *os);
        if is_player {
            return UserAgent { browser: None, version: (0, 0), os };
        }
        let browser = BROWSERS.iter().find(|(marker, _)| user_agent.contains(marker));
        let program = user_agent.split(['/', ' ']).next().unwrap_or_default();
        let (marker, browser) = browser.copied().unwrap_or((program, program));
        // The number after `Safari/` is the WebKit version.
        let marker = if browser == "Safari" { "Version/" } else { marker };
        UserAgent { browser: Some(browser), version: version(user_agent, marker), os }
    }
}

/// Describes a client for its user: "Firefox on Linux". Contains only fixed words, so a hostile
/// header cannot reach the page.
pub fn describe(user_agent: &str) -> String {
    if let Some((_, program)) = PROGRAMS.iter().find(|(start, _)| user_agent.starts_with(start)) {
        return (*program).to_owned();
    }
    let browser = BROWSERS.iter().find(|(marker, _)| user_agent.contains(marker));
    let browser = browser.map_or(UNKNOWN, |(_, name)| *name);
    match SYSTEMS.iter().find(|(marker, ..)| user_agent.contains(marker)) {
        Some((_, system, _)) => format!("{browser} on {system}"),
        None => browser.to_owned(),
    }
}

/// Returns the version after a marker, as in `Edg/142.0` and `EdgiOS/142.0`.
fn version(user_agent: &str, marker: &str) -> (u32, u32) {
    let behind = user_agent.split_once(marker).map_or("", |(_, behind)| behind);
    let numbers = behind.trim_start_matches(|c: char| c.is_ascii_alphabetic() || c == '/');
    let word = numbers.split([' ', ';', ')']).next().unwrap_or_default();
    let mut parts = word.split('.').map(|part| part.parse().unwrap_or_default());
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(user_agent: &str) -> (&str, Option<OperatingSystem>) {
        let UserAgent { browser, os, .. } = UserAgent::parse(user_agent);
        (browser.expect("a family"), os)
    }

    #[test]
    fn browsers_differ_by_name_and_system_but_not_by_version() {
        let chrome = |version: &str| {
            format!(
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version} Safari/537.36"
            )
        };
        assert_eq!(read(&chrome("142.0.0.0")), ("Chrome", Some(OperatingSystem::Windows)));
        assert_eq!(read(&chrome("142.0.0.0")), read(&chrome("143.0.0.0")));
        assert_eq!(
            read(&(chrome("142.0.0.0") + " Edg/142.0")),
            ("Edge", Some(OperatingSystem::Windows))
        );
        let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";
        assert_eq!(read(firefox), ("Firefox", Some(OperatingSystem::Linux)));
        let safari = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1";
        assert_eq!(read(safari), ("Safari", Some(OperatingSystem::Apple)));
        assert_eq!(read("curl/8.5.0"), ("curl", None));
        assert_eq!(read(""), ("", None));
    }

    #[test]
    fn the_version_follows_the_marker_of_the_browser() {
        let version = |user_agent: &str| UserAgent::parse(user_agent).version;
        let edge = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 Edg/143.2.1.0";
        assert_eq!(version(edge), (143, 2));
        let phone = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 EdgiOS/142.3595.94 Mobile/15E148 Safari/605.1.15";
        assert_eq!(version(phone), (142, 3595));
        let safari = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15";
        assert_eq!(version(safari), (18, 5));
        assert_eq!(
            version("Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"),
            (145, 0)
        );
        assert_eq!(version("curl/8.5.0"), (8, 5));
        for none in
            ["", "curl", "Firefox/", "Firefox/x.y", "Firefox/99999999999.1", "Version/1 Safari"]
        {
            assert!(version(none) <= (1, 1), "{none}");
        }
    }

    #[test]
    fn a_phone_that_requests_the_desktop_site_is_the_same_phone() {
        let phone = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36";
        let desktop = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36";
        assert_eq!(read(phone), read(desktop));
    }

    #[test]
    fn a_media_player_has_an_operating_system_and_no_browser() {
        let player = "AppleCoreMedia/1.0.0.22F76 (iPhone; U; CPU OS 18_5 like Mac OS X; de_de)";
        let expected =
            UserAgent { browser: None, version: (0, 0), os: Some(OperatingSystem::Apple) };
        assert_eq!(UserAgent::parse(player), expected);
        let expected =
            UserAgent { browser: None, version: (0, 0), os: Some(OperatingSystem::Linux) };
        assert_eq!(UserAgent::parse("stagefright/1.2 (Linux;Android 9)"), expected);
    }

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
            "Headless Chrome on Linux",
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
        for (agent, description) in KNOWN {
            assert_eq!(describe(agent), description, "{agent}");
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
        let systems = SYSTEMS.map(|(marker, name, _)| (marker, name));
        for table in [&BROWSERS[..], &systems, &PROGRAMS[..]] {
            for (at, (marker, name)) in table.iter().enumerate() {
                let shadowing = table[..at].iter().find(|(earlier, _)| marker.contains(earlier));
                assert!(shadowing.is_none(), "{marker} ({name}) is never reached");
            }
        }
    }
}
