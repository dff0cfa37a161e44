//! What a User-Agent says about family, version and system. Versions change by themselves, and are no
//! signal.

/// A client's software, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Software<'a> {
    /// The browser, or the first word of a program. Not known of what plays videos for a browser: it says
    /// no more than the system.
    pub family: Option<&'a str>,
    /// The first two numbers of its version, 0 where there are none.
    pub version: (u32, u32),
    pub system: Option<System>,
}

/// Systems that one browser does not change between by itself. A phone that asks for the desktop's
/// pages calls itself Linux instead of Android, and macOS instead of iOS, at a tap of its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    Windows,
    Apple,
    Linux,
    ChromeOs,
}

/// The most telling first: each browser also names those that it wants to be taken for.
const FAMILIES: [(&str, &str); 13] = [
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

const SYSTEMS: [(&str, System); 8] = [
    ("Windows", System::Windows),
    ("iPhone", System::Apple),
    ("iPad", System::Apple),
    ("Macintosh", System::Apple),
    ("Android", System::Linux),
    ("CrOS", System::ChromeOs),
    ("Linux", System::Linux),
    ("X11", System::Linux),
];

/// Parts of a system that fetch sounds and videos for whatever browser runs there, with its cookies and a
/// name of their own.
const PLAYERS: [&str; 2] = ["AppleCoreMedia/", "stagefright/"];

impl System {
    /// The name in logs.
    pub fn name(self) -> &'static str {
        match self {
            System::Windows => "Windows",
            System::Apple => "macOS or iOS",
            System::Linux => "Linux or Android",
            System::ChromeOs => "ChromeOS",
        }
    }
}

impl Software<'_> {
    /// Reads a User-Agent. Whatever it says, something is read.
    pub fn read(agent: &str) -> Software<'_> {
        let is_player = PLAYERS.iter().any(|player| agent.starts_with(player));
        let system = SYSTEMS.iter().find(|(sign, _)| agent.contains(sign));
        let system = system.map(|(_, system)| *system);
        if is_player {
            return Software { family: None, version: (0, 0), system };
        }
        let browser = FAMILIES.iter().find(|(sign, _)| agent.contains(sign));
        let program = agent.split(['/', ' ']).next().unwrap_or_default();
        let (sign, family) = browser.copied().unwrap_or((program, program));
        // Safari's own number says which WebKit it is.
        let sign = if family == "Safari" { "Version/" } else { sign };
        Software { family: Some(family), version: version(agent, sign), system }
    }
}

/// The numbers after a sign, as in `Edg/142.0` and `EdgiOS/142.0`.
fn version(agent: &str, sign: &str) -> (u32, u32) {
    let behind = agent.split_once(sign).map_or("", |(_, behind)| behind);
    let numbers = behind.trim_start_matches(|c: char| c.is_ascii_alphabetic() || c == '/');
    let word = numbers.split([' ', ';', ')']).next().unwrap_or_default();
    let mut parts = word.split('.').map(|part| part.parse().unwrap_or_default());
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(agent: &str) -> (&str, Option<System>) {
        let Software { family, system, .. } = Software::read(agent);
        (family.expect("a family"), system)
    }

    #[test]
    fn browsers_are_told_apart_by_family_and_system_and_not_by_version() {
        let chrome = |version: &str| {
            format!(
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version} Safari/537.36"
            )
        };
        assert_eq!(read(&chrome("142.0.0.0")), ("Chrome", Some(System::Windows)));
        assert_eq!(read(&chrome("142.0.0.0")), read(&chrome("143.0.0.0")));
        assert_eq!(read(&(chrome("142.0.0.0") + " Edg/142.0")), ("Edge", Some(System::Windows)));
        let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";
        assert_eq!(read(firefox), ("Firefox", Some(System::Linux)));
        let safari = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1";
        assert_eq!(read(safari), ("Safari", Some(System::Apple)));
        assert_eq!(read("curl/8.5.0"), ("curl", None));
        assert_eq!(read(""), ("", None));
    }

    #[test]
    fn a_version_is_what_stands_after_the_browsers_own_name() {
        let version = |agent: &str| Software::read(agent).version;
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
    fn a_phone_that_asks_for_the_desktops_pages_is_the_same_phone() {
        let phone = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36";
        let desktop = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36";
        assert_eq!(read(phone), read(desktop));
    }

    #[test]
    fn what_plays_videos_for_a_browser_says_no_more_than_the_system() {
        let player = "AppleCoreMedia/1.0.0.22F76 (iPhone; U; CPU OS 18_5 like Mac OS X; de_de)";
        let expected = Software { family: None, version: (0, 0), system: Some(System::Apple) };
        assert_eq!(Software::read(player), expected);
        let expected = Software { family: None, version: (0, 0), system: Some(System::Linux) };
        assert_eq!(Software::read("stagefright/1.2 (Linux;Android 9)"), expected);
    }
}
