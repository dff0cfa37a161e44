//! User agents and TLS fingerprints of browsers and programs.

use std::net::IpAddr;

use doorward::session::{ClientContext, TlsFingerprint};

/// A browser on an operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    ChromeWindows,
    EdgeWindows,
    FirefoxLinux,
    SafariMac,
    ChromeAndroid,
    SafariPhone,
    /// The media player of Safari on a phone.
    PhoneMedia,
    /// A command-line client used by attackers.
    Curl,
}

/// A running program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Software {
    pub kind: Kind,
    /// The browser that it claims to be, if it is another one.
    pub claims_to_be: Option<Kind>,
    pub version: u16,
    /// Number of updates that changed the TLS handshake.
    pub handshake: u8,
    pub desktop_page: bool,
    pub language: &'static str,
}

impl Software {
    pub fn new(kind: Kind) -> Software {
        let (version, handshake, language) = (142, 0, "de-DE,de");
        Software { kind, claims_to_be: None, version, handshake, desktop_page: false, language }
    }

    pub fn context(&self, address: IpAddr, inspected: bool) -> ClientContext {
        let context = ClientContext::new(address, self.user_agent().as_bytes());
        context
            .with_language(self.language.as_bytes())
            .with_fingerprint(Some(self.handshake(inspected)))
    }

    /// Returns the TLS fingerprint. It depends on the browser engine, not on the operating system.
    fn handshake(&self, inspected: bool) -> TlsFingerprint {
        let engine = match self.kind {
            Kind::ChromeWindows | Kind::EdgeWindows | Kind::ChromeAndroid => 1,
            Kind::FirefoxLinux => 2,
            Kind::SafariMac | Kind::SafariPhone => 3,
            Kind::PhoneMedia => 4,
            Kind::Curl => 5,
        };
        let (cipher_count, extension_count) =
            if inspected { (90, 0) } else { (engine, self.handshake) };
        let (version, has_sni) = (13, true);
        let (cipher_hash, extension_hash) = ([cipher_count; 6], [extension_count; 6]);
        TlsFingerprint {
            version,
            has_sni,
            cipher_count,
            extension_count,
            cipher_hash,
            extension_hash,
        }
    }

    pub fn user_agent(&self) -> String {
        let version = self.version;
        let blink = |system: &str, mobile: &str| {
            format!(
                "Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version}.0.0.0 {mobile}Safari/537.36"
            )
        };
        let webkit = |system: &str, mobile: &str| {
            format!(
                "Mozilla/5.0 ({system}) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{version}.0 {mobile}Safari/604.1"
            )
        };
        let mac = "Macintosh; Intel Mac OS X 10_15_7";
        match (self.claims_to_be.unwrap_or(self.kind), self.desktop_page) {
            (Kind::ChromeWindows, _) => blink("Windows NT 10.0; Win64; x64", ""),
            (Kind::EdgeWindows, _) => {
                blink("Windows NT 10.0; Win64; x64", "") + &format!(" Edg/{version}.0.0.0")
            }
            (Kind::FirefoxLinux, _) => {
                format!(
                    "Mozilla/5.0 (X11; Linux x86_64; rv:{version}.0) Gecko/20100101 Firefox/{version}.0"
                )
            }
            (Kind::SafariMac, _) | (Kind::SafariPhone, true) => webkit(mac, ""),
            (Kind::ChromeAndroid, false) => blink("Linux; Android 10; K", "Mobile "),
            (Kind::ChromeAndroid, true) => blink("X11; Linux x86_64", ""),
            (Kind::SafariPhone, false) => {
                webkit("iPhone; CPU iPhone OS 18_5 like Mac OS X", "Mobile/15E148 ")
            }
            (Kind::PhoneMedia, _) => {
                format!(
                    "AppleCoreMedia/1.0.0.22F{version} (iPhone; U; CPU OS 18_5 like Mac OS X; de_de)"
                )
            }
            (Kind::Curl, _) => "curl/8.5.0".to_owned(),
        }
    }
}
