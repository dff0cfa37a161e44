//! Personal access tokens: long-lived credentials that a user creates for programs.
//!
//! `dwp_` and base64url without padding of
//! `version 1 | key id 1 | tag 8 | token id 16 | secret 32 | mac 16`: 74 bytes, 103 characters with the
//! prefix. The MAC is checked first, so a forged token never reaches the store. A valid MAC does not make a
//! token live: that takes a grant with the SHA-256 of `secret`.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::hmac;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::UserTag;
use super::token::TokenError;
use crate::clock::UnixMillis;
use crate::secret::{KeyId, KeyRing, constant_time_eq, random_bytes, sha256};

/// First characters of every personal access token.
pub const PREFIX: &str = "dwp_";

/// Longest lifetime of a token.
pub const MAX_LIFETIME: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Maximum number of tokens of a user. They fit into one value of the store.
pub const MAX_TOKENS: usize = 24;

/// Maximum size of the lists of a grant in bytes, together.
const MAX_LISTS: usize = 256;

const VERSION: u8 = 1;
const SIGNED_LENGTH: usize = 58;
const LENGTH: usize = 74;
const TEXT_LENGTH: usize = PREFIX.len() + 99;

/// Separates the MAC from those of session tokens, which have the same key.
const PURPOSE: &[u8] = b"personal access token 1";

/// ID of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TokenId(pub [u8; 16]);

impl TokenId {
    /// Returns the text that lists, logs and commands show. The token cannot be derived from it.
    pub fn handle(&self) -> String {
        HEXLOWER.encode(&sha256(&self.0)[..8])
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({})", self.handle())
    }
}

/// An authentic token: its MAC was verified, or this gateway created it.
pub struct PersonalToken {
    key_id: KeyId,
    pub tag: UserTag,
    pub id: TokenId,
    secret: Zeroizing<[u8; 32]>,
}

impl PersonalToken {
    /// Creates a token for the user with this tag.
    pub fn generate(keys: &KeyRing, tag: UserTag) -> PersonalToken {
        let (id, secret) = (TokenId(random_bytes()), Zeroizing::new(random_bytes()));
        PersonalToken { key_id: keys.signing_key().0, tag, id, secret }
    }

    /// Parses a token and verifies its MAC.
    pub fn parse(keys: &KeyRing, text: &[u8]) -> Result<PersonalToken, TokenError> {
        let body = text.strip_prefix(PREFIX.as_bytes()).ok_or(TokenError::Malformed)?;
        let mut bytes = Zeroizing::new([0; LENGTH]);
        if body.len() != TEXT_LENGTH - PREFIX.len() {
            return Err(TokenError::Malformed);
        }
        BASE64URL_NOPAD
            .decode_mut(body, bytes.as_mut_slice())
            .map_err(|_| TokenError::Malformed)?;
        if bytes[0] != VERSION {
            return Err(TokenError::Malformed);
        }
        let mac = mac(keys, bytes[1], &bytes[..SIGNED_LENGTH]).ok_or(TokenError::UnknownKey)?;
        if !constant_time_eq(&mac, &bytes[SIGNED_LENGTH..]) {
            return Err(TokenError::InvalidMac);
        }
        let (mut tag, mut id, mut secret) = ([0; 8], [0; 16], Zeroizing::new([0; 32]));
        tag.copy_from_slice(&bytes[2..10]);
        id.copy_from_slice(&bytes[10..26]);
        secret.copy_from_slice(&bytes[26..SIGNED_LENGTH]);
        Ok(PersonalToken { key_id: bytes[1], tag: UserTag(tag), id: TokenId(id), secret })
    }

    /// Returns the text of the token, or `None` if its key is not in the ring.
    pub fn encode(&self, keys: &KeyRing) -> Option<Zeroizing<String>> {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        (bytes[0], bytes[1]) = (VERSION, self.key_id);
        bytes[2..10].copy_from_slice(&self.tag.0);
        bytes[10..26].copy_from_slice(&self.id.0);
        bytes[26..SIGNED_LENGTH].copy_from_slice(self.secret.as_slice());
        let mac = mac(keys, self.key_id, &bytes[..SIGNED_LENGTH])?;
        bytes[SIGNED_LENGTH..].copy_from_slice(&mac);
        let mut text = Zeroizing::new(String::with_capacity(TEXT_LENGTH));
        text.push_str(PREFIX);
        BASE64URL_NOPAD.encode_append(bytes.as_slice(), &mut text);
        Some(text)
    }

    /// Returns the hash of the secret, which the grant stores.
    pub fn hash(&self) -> [u8; 32] {
        sha256(self.secret.as_slice())
    }
}

impl fmt::Debug for PersonalToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PersonalToken({})", self.id.handle())
    }
}

fn mac(keys: &KeyRing, id: KeyId, signed: &[u8]) -> Option<[u8; LENGTH - SIGNED_LENGTH]> {
    let mut context = hmac::Context::with_key(keys.key(id)?.mac());
    context.update(PURPOSE);
    context.update(signed);
    let mut out = [0; LENGTH - SIGNED_LENGTH];
    out.copy_from_slice(&context.sign().as_ref()[..LENGTH - SIGNED_LENGTH]);
    Some(out)
}

/// The stored part of a token: its hash, and what it permits. An empty list permits everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenGrant {
    pub id: TokenId,
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// The name of the account.
    pub user: String,
    /// Digest of the account's password when the token was created. A change ends the token, as it ends sessions.
    pub credential: [u8; 8],
    /// Name that the user gave the token.
    pub name: String,
    pub created: UnixMillis,
    pub expires: UnixMillis,
    /// Time of the last use, to the hour; zero if it was never used.
    pub last_used: UnixMillis,
    pub scope: TokenScope,
}

/// The requests that a token permits. An empty list permits all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenScope {
    /// Routes as host and path: `wiki.example.com/`.
    pub routes: Vec<String>,
    pub methods: Vec<String>,
    /// Addresses of the client, in CIDR notation.
    pub networks: Vec<String>,
}

/// A request that presents a token.
#[derive(Clone, Copy, Debug)]
pub struct TokenUse<'a> {
    pub route: &'a str,
    /// Every method that the app may execute the request as.
    pub methods: &'a [&'a str],
    pub client: IpAddr,
    /// User name beside the token, in Basic credentials.
    pub user: Option<&'a str>,
    pub now: UnixMillis,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRefusal {
    /// No token of this form, or its MAC is wrong.
    Forged,
    /// The request has several credentials.
    Several,
    /// Deleted, or of a user without tokens.
    Unknown,
    Expired,
    /// The sessions of the user were revoked, or the password changed, after the token was created.
    Revoked,
    /// The account was removed or disabled, or another program keeps it.
    Account,
    /// The Basic credentials name another user.
    User,
    Route,
    Method,
    Network,
    /// The route requires a recent login, or the request opens a WebSocket.
    NeedsSession,
    /// Too many refused tokens from this network.
    Throttled {
        wait: Duration,
    },
}

impl TokenRefusal {
    /// Returns the code for logs and responses.
    pub fn as_str(self) -> &'static str {
        match self {
            TokenRefusal::Forged => "token-invalid",
            TokenRefusal::Several => "token-several",
            TokenRefusal::Unknown => "token-unknown",
            TokenRefusal::Expired => "token-expired",
            TokenRefusal::Revoked => "token-revoked",
            TokenRefusal::Account => "token-account",
            TokenRefusal::User => "token-user",
            TokenRefusal::Route => "token-route",
            TokenRefusal::Method => "token-method",
            TokenRefusal::Network => "token-network",
            TokenRefusal::NeedsSession => "token-needs-session",
            TokenRefusal::Throttled { .. } => "token-throttled",
        }
    }

    /// Returns whether the token is valid and only not for this request (403 instead of 401).
    pub fn is_out_of_scope(self) -> bool {
        match self {
            TokenRefusal::Route
            | TokenRefusal::Method
            | TokenRefusal::Network
            | TokenRefusal::NeedsSession => true,
            TokenRefusal::Forged
            | TokenRefusal::Several
            | TokenRefusal::Unknown
            | TokenRefusal::Expired
            | TokenRefusal::Revoked
            | TokenRefusal::Account
            | TokenRefusal::User
            | TokenRefusal::Throttled { .. } => false,
        }
    }
}

impl TokenGrant {
    /// Creates the grant of a token that lives for `lifetime`, at most [`MAX_LIFETIME`].
    pub fn new(
        token: &PersonalToken,
        user: String,
        name: String,
        scope: TokenScope,
        now: UnixMillis,
        lifetime: Duration,
    ) -> TokenGrant {
        TokenGrant {
            id: token.id,
            hash: token.hash(),
            user,
            credential: [0; 8],
            name,
            created: now,
            expires: now.plus(lifetime.min(MAX_LIFETIME)),
            last_used: UnixMillis(0),
            scope,
        }
    }

    /// Returns whether the grant belongs to the token.
    pub fn is_of(&self, token: &PersonalToken) -> bool {
        self.id == token.id && constant_time_eq(&self.hash, &token.hash())
    }

    /// Checks whether the token may be used so. Does not cover the account and revocation cutoffs.
    pub fn check(&self, used: TokenUse<'_>) -> Result<(), TokenRefusal> {
        let TokenScope { routes, methods, networks } = &self.scope;
        let permits =
            |list: &[String], name: &str| list.is_empty() || list.iter().any(|it| it == name);
        let contains = |network: &String| {
            network
                .parse()
                .is_ok_and(|network: IpNet| network.contains(&used.client.to_canonical()))
        };
        if self.expires <= used.now {
            Err(TokenRefusal::Expired)
        } else if used.user.is_some_and(|user| user != self.user) {
            Err(TokenRefusal::User)
        } else if !networks.is_empty() && !networks.iter().any(contains) {
            Err(TokenRefusal::Network)
        } else if !permits(routes, used.route) {
            Err(TokenRefusal::Route)
        } else if !used.methods.iter().all(|method| permits(methods, method)) {
            Err(TokenRefusal::Method)
        } else {
            Ok(())
        }
    }

    /// Returns whether the use should be recorded: at most once an hour, because it is a write.
    pub fn is_use_worth_recording(&self, now: UnixMillis) -> bool {
        now.since(self.last_used) >= USE_INTERVAL
    }
}

/// Precision of the last use.
const USE_INTERVAL: Duration = Duration::from_secs(60 * 60);

impl TokenScope {
    /// Checks lists of a user's input: comma-separated, empty for no restriction. `routes` are those that exist.
    ///
    /// # Errors
    /// What to change, for people.
    pub fn parse(
        routes: &str,
        methods: &str,
        networks: &str,
        known_routes: &[String],
    ) -> Result<TokenScope, String> {
        let scope = TokenScope {
            routes: items(routes),
            methods: items(methods).iter().map(|method| method.to_ascii_uppercase()).collect(),
            networks: items(networks).iter().map(|it| network(it)).collect::<Result<_, _>>()?,
        };
        if let Some(route) = scope.routes.iter().find(|route| !known_routes.contains(route)) {
            let known = known_routes.join(", ");
            return Err(format!(
                "`{route}` is no route that accepts tokens; write one of: {known}"
            ));
        }
        let is_method = |method: &String| method.bytes().all(|byte| byte.is_ascii_uppercase());
        if let Some(method) = scope.methods.iter().find(|method| !is_method(method)) {
            return Err(format!("`{method}` is no method; write GET, POST or similar"));
        }
        let lists = [&scope.routes, &scope.methods, &scope.networks];
        let size: usize = lists.into_iter().flatten().map(String::len).sum();
        if size > MAX_LISTS {
            return Err(
                "the lists are too long; leave one empty, or create several tokens".to_owned()
            );
        }
        Ok(scope)
    }
}

fn items(list: &str) -> Vec<String> {
    let items = list.split([',', ' ', '\n', '\r', '\t']).filter(|item| !item.is_empty());
    items.map(str::to_owned).collect()
}

fn network(text: &str) -> Result<String, String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let network = network
        .map_err(|_| format!("`{text}` is no network; write 192.0.2.0/24 or 2001:db8::/32"))?;
    Ok(network.trunc().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> KeyRing {
        KeyRing::generate("now")
    }

    fn token(keys: &KeyRing) -> PersonalToken {
        PersonalToken::generate(keys, UserTag(keys.user_tag("alice")))
    }

    fn grant(scope: TokenScope) -> TokenGrant {
        let token = token(&keys());
        let (now, life) = (UnixMillis(1_000), Duration::from_secs(60));
        TokenGrant::new(&token, "alice".to_owned(), "git".to_owned(), scope, now, life)
    }

    const USE: TokenUse<'_> = TokenUse {
        route: "git.test/",
        methods: &["GET"],
        client: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9)),
        user: None,
        now: UnixMillis(2_000),
    };

    #[test]
    fn a_token_round_trips_and_survives_key_rotation() {
        let mut keys = keys();
        let token = token(&keys);
        let text = token.encode(&keys).expect("the signing key");
        assert_eq!(text.len(), TEXT_LENGTH);
        keys.rotate("later").expect("room");
        let again = PersonalToken::parse(&keys, text.as_bytes()).expect("authentic");
        assert_eq!((again.tag, again.id, again.hash()), (token.tag, token.id, token.hash()));
        assert!(PersonalToken::parse(&super::tests::keys(), text.as_bytes()).is_err());
    }

    #[test]
    fn a_changed_or_cut_token_is_refused() {
        let keys = keys();
        let text = token(&keys).encode(&keys).expect("the signing key");
        for at in 0..text.len() {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(PersonalToken::parse(&keys, &changed).is_err(), "character {at}");
            assert!(PersonalToken::parse(&keys, &text.as_bytes()[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_grant_belongs_to_one_secret() {
        let keys = keys();
        let (token, other) = (token(&keys), token(&keys));
        let scope = TokenScope::default();
        let grant =
            TokenGrant::new(&token, String::new(), String::new(), scope, USE.now, MAX_LIFETIME);
        assert!(grant.is_of(&token) && !grant.is_of(&other));
        let secret = Zeroizing::new([0; 32]);
        assert!(!grant.is_of(&PersonalToken { secret, ..token }));
        assert!(!format!("{other:?}").contains(&HEXLOWER.encode(&other.id.0)));
    }

    #[test]
    fn a_token_is_refused_outside_its_scope() {
        let scope = |routes, methods, networks| {
            let known = ["git.test/".to_owned()];
            grant(TokenScope::parse(routes, methods, networks, &known).expect("a scope"))
        };
        assert_eq!(scope("", "", "").check(USE), Ok(()));
        let narrow = scope("git.test/", "get, head", "192.0.2.7/24 2001:db8::1");
        assert_eq!(narrow.check(USE), Ok(()));
        let refused = |used| narrow.check(used).expect_err("refused");
        assert_eq!(refused(TokenUse { route: "wiki.test/", ..USE }), TokenRefusal::Route);
        assert_eq!(refused(TokenUse { methods: &["GET", "DELETE"], ..USE }), TokenRefusal::Method);
        assert_eq!(
            refused(TokenUse { client: [198, 51, 100, 1].into(), ..USE }),
            TokenRefusal::Network
        );
        assert_eq!(refused(TokenUse { user: Some("bob"), ..USE }), TokenRefusal::User);
        assert_eq!(refused(TokenUse { now: UnixMillis(61_000), ..USE }), TokenRefusal::Expired);
        let mapped = "::ffff:192.0.2.9".parse().expect("an address");
        assert_eq!(narrow.check(TokenUse { client: mapped, user: Some("alice"), ..USE }), Ok(()));
    }

    #[test]
    fn no_token_lives_longer_than_a_year() {
        let long = Duration::from_secs(u64::MAX / 1_000);
        let token = token(&keys());
        let scope = TokenScope::default();
        let grant = TokenGrant::new(&token, String::new(), String::new(), scope, USE.now, long);
        assert_eq!(grant.expires, USE.now.plus(MAX_LIFETIME));
    }

    #[test]
    fn an_unusable_scope_is_refused_with_what_to_write() {
        let error = |routes: &str, methods: &str, networks: &str| {
            let known = ["git.test/".to_owned()];
            TokenScope::parse(routes, methods, networks, &known).expect_err("refused")
        };
        assert!(error("git.test", "", "").contains("git.test/"));
        assert!(error("", "G-T", "").contains("no method"));
        assert!(error("", "", "192.0.2.0/33").contains("192.0.2.0/24"));
        assert!(error("", &"GET,".repeat(100), "").contains("too long"));
    }
}
