//! Parses a `User-Agent` header into browser, version and operating system. A new version is not a signal.

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

/// Markers of browsers, the most specific first, because each browser also names those it is compatible with.
const BROWSERS: [(&str, &str); 13] = [
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung"),
    ("Vivaldi/", "Vivaldi"),
    ("YaBrowser/", "Yandex"),
    ("FxiOS/", "Firefox"),
    ("Firefox/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("HeadlessChrome/", "HeadlessChrome"),
    ("Chromium/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("AppleWebKit/", "Safari"),
];

const SYSTEMS: [(&str, OperatingSystem); 8] = [
    ("Windows", OperatingSystem::Windows),
    ("iPhone", OperatingSystem::Apple),
    ("iPad", OperatingSystem::Apple),
    ("Macintosh", OperatingSystem::Apple),
    ("Android", OperatingSystem::Linux),
    ("CrOS", OperatingSystem::ChromeOs),
    ("Linux", OperatingSystem::Linux),
    ("X11", OperatingSystem::Linux),
];

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
        let os = SYSTEMS.iter().find(|(marker, _)| user_agent.contains(marker));
        let os = os.map(|(_, os)| *os);
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
}
