//! The MAC chain: the MAC of each line covers the line and the MAC of the line before.

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use serde::Deserialize;

/// The action of a line that declares the line before as torn.
pub(super) const TORN: &str = "audit.torn";

/// A line ends in this, 64 hex digits, and [`SUFFIX`].
const MAC_FIELD: &str = ",\"doorward.mac\":\"";
const SUFFIX: &str = "\"}";
const MAC_DIGITS: usize = 64;

/// The last line of a chain: its number and MAC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub chain: String,
    /// Line number; 1 is the first line.
    pub seq: u64,
    /// 32 bytes in hex.
    pub mac: String,
}

/// The position of a line, as the line itself states it.
#[derive(Deserialize)]
pub(super) struct Position {
    #[serde(rename = "@timestamp", default)]
    pub(super) timestamp: String,
    #[serde(rename = "doorward.chain")]
    pub(super) chain: String,
    #[serde(rename = "doorward.seq")]
    pub(super) seq: u64,
    /// The MAC of the line before. The first line, and lines of older versions, have none.
    #[serde(rename = "doorward.prev", default)]
    pub(super) previous: Option<String>,
    #[serde(rename = "event.action")]
    pub(super) action: String,
}

impl Position {
    pub(super) fn parse(line: &str) -> Option<Position> {
        let position: Position = serde_json::from_str(line).ok()?;
        is_chain_name(&position.chain).then_some(position)
    }
}

/// Reports whether `chain` is a valid name. A forged file must not inject terminal control codes.
pub(super) fn is_chain_name(chain: &str) -> bool {
    (1..=64).contains(&chain.len()) && chain.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Reports whether `text` is formatted as a MAC.
pub(super) fn is_mac(text: &str) -> bool {
    text.len() == MAC_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Appends the MAC to a line, which is a JSON object. Returns the line and its MAC.
pub(super) fn seal(key: &hmac::Key, previous: &str, json: &str) -> (String, String) {
    let content = json.strip_suffix('}').unwrap_or(json);
    let mac = mac(key, previous, content);
    (format!("{content}{MAC_FIELD}{mac}{SUFFIX}\n"), mac)
}

pub(super) fn mac(key: &hmac::Key, previous: &str, content: &str) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(previous.as_bytes());
    context.update(content.as_bytes());
    HEXLOWER.encode(context.sign().as_ref())
}

/// Splits a line into its content and its MAC. `None` if it is not a line of an audit log.
pub(super) fn split_mac(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_suffix(SUFFIX)?;
    let (content, mac) = rest.split_at_checked(rest.len().checked_sub(MAC_DIGITS)?)?;
    Some((content.strip_suffix(MAC_FIELD)?, mac)).filter(|(_, mac)| is_mac(mac))
}

/// Returns the head that a line states, without verification of its MAC.
pub(super) fn parse_head(line: &str) -> Option<Head> {
    let (_, mac) = split_mac(line)?;
    Position::parse(line).map(|position| position.head(mac))
}

/// Returns the head of a line if its MAC is valid. Without `previous`, the MAC of the line before is
/// taken from the line itself. `None` also if the line cannot be verified.
pub(super) fn verified_head(key: &hmac::Key, previous: Option<&str>, line: &str) -> Option<Head> {
    let (content, stated) = split_mac(line)?;
    let position = Position::parse(line)?;
    let previous = match position.seq {
        0 => None,
        1 => Some(""),
        _ => previous.or(position.previous.as_deref()),
    };
    (mac(key, previous?, content) == stated).then(|| position.head(stated))
}

impl Position {
    pub(super) fn head(self, mac: &str) -> Head {
        Head { chain: self.chain, seq: self.seq, mac: mac.to_owned() }
    }
}
