//! Passkeys as second factor, with an authenticator in software.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use data_encoding::BASE64URL_NOPAD;
use http::StatusCode;

use doorward::secret::sha256;
use test_support::browser::{Browser, Response};
use test_support::gateway::{Gateway, PASSWORD, Setup, manual_clock, session_route};
use test_support::upstream::Upstream;

const PAGE: &str = "/.doorward/second-factors";
const ORIGIN: &str = "https://app.test";

/// An authenticator with one credential, and the script of the pages.
struct Authenticator(EcdsaKeyPair);

impl Authenticator {
    fn new() -> Authenticator {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING);
        Authenticator(key.expect("a key"))
    }

    fn client_data(action: &str, origin: &str, page: &Response) -> Vec<u8> {
        let challenge = attribute(page, "data-challenge");
        let json = serde_json::json!({ "type": action, "challenge": challenge, "origin": origin });
        json.to_string().into_bytes()
    }

    fn data(page: &Response, flags: u8) -> Vec<u8> {
        let domain = sha256(attribute(page, "data-domain").as_bytes());
        [&domain[..], &[flags], &[0; 4]].concat()
    }

    /// Submits the form for a new passkey.
    async fn create(&self, browser: &mut Browser, page: &Response, origin: &str) -> Response {
        let client_data = Authenticator::client_data("webauthn.create", origin, page);
        let credential = [[0; 16].as_slice(), &[0, 3], b"one", b"a COSE key"].concat();
        let data = [Authenticator::data(page, 0x41), credential].concat();
        let key = self.0.public_key().as_der().expect("a key").as_ref().to_vec();
        let (csrf, to, challenge) =
            (page.form_field("csrf"), page.form_field("to"), page.form_field("challenge"));
        let encoded = [&client_data, &data, &key].map(|bytes| BASE64URL_NOPAD.encode(bytes));
        let fields = [
            ("csrf", csrf.as_str()),
            ("to", &to),
            ("do", "passkey"),
            ("name", "laptop"),
            ("challenge", &challenge),
            ("client_data", &encoded[0]),
            ("authenticator_data", &encoded[1]),
            ("public_key", &encoded[2]),
            ("algorithm", "-7"),
        ];
        browser.post_form(PAGE, &fields).await
    }

    /// Submits the form of the second step.
    async fn sign(&self, browser: &mut Browser, page: &Response, origin: &str) -> Response {
        let client_data = Authenticator::client_data("webauthn.get", origin, page);
        let data = Authenticator::data(page, 1);
        let message = [&data[..], &sha256(&client_data)].concat();
        let signature = self.0.sign(&SystemRandom::new(), &message).expect("signed");
        let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        let (client_data, data) = (encode(&client_data), encode(&data));
        let (id, signature) = (encode(b"one"), encode(signature.as_ref()));
        let (login, to, challenge) =
            (page.form_field("csrf"), page.form_field("to"), page.form_field("challenge"));
        let fields = [
            ("csrf", login.as_str()),
            ("to", &to),
            ("challenge", &challenge),
            ("credential", &id),
            ("client_data", &client_data),
            ("authenticator_data", &data),
            ("signature", &signature),
        ];
        browser.post_form("/.doorward/login/code", &fields).await
    }
}

fn attribute(page: &Response, name: &str) -> String {
    let text = page.text();
    let start = text.find(&format!("{name}=\"")).unwrap_or_else(|| panic!("{name}: {text}"));
    text[start + name.len() + 2..].split('"').next().expect("closed").to_owned()
}

async fn started() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let routes = session_route(upstream.address);
    let extra = "[login]\nsecond_factor = \"optional\"".to_owned();
    let setup = Setup { routes, extra, clock: manual_clock(), ..Setup::default() };
    (upstream, Gateway::start(setup))
}

/// Sets up a passkey for alice.
async fn with_passkey(gateway: &Gateway) -> Authenticator {
    let (mut alice, authenticator) = (Browser::new(gateway), Authenticator::new());
    alice.log_in("alice").await;
    let page = alice.navigate(PAGE).await;
    let added = authenticator.create(&mut alice, &page, ORIGIN).await;
    assert_eq!(added.status, StatusCode::OK, "{}", added.text());
    assert!(added.text().contains("laptop") && added.text().contains("recovery codes"));
    authenticator
}

async fn first_step(browser: &mut Browser) -> Response {
    let page = browser.try_log_in("alice", PASSWORD, "/").await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text());
    page
}

#[tokio::test]
async fn a_passkey_completes_a_login_once_per_challenge() {
    let (_upstream, gateway) = started().await;
    let authenticator = with_passkey(&gateway).await;
    for h2 in [false, true] {
        gateway.advance(std::time::Duration::from_secs(1));
        let mut browser = Browser::new(&gateway);
        browser.h2 = h2;
        let page = first_step(&mut browser).await;
        assert_eq!(attribute(&page, "data-known"), BASE64URL_NOPAD.encode(b"one"));
        assert!(page.header("content-security-policy").contains("script-src 'self'"));
        let replay = browser.clone();
        let answer = authenticator.sign(&mut browser, &page, ORIGIN).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text());
        assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
        let mut replay = replay;
        let answer = authenticator.sign(&mut replay, &page, ORIGIN).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "the challenge was used");
        assert!(replay.token().is_empty());
    }
}

#[tokio::test]
async fn a_passkey_for_another_origin_or_login_is_refused() {
    let (_upstream, gateway) = started().await;
    let (mut bob, authenticator) = (Browser::new(&gateway), Authenticator::new());
    bob.log_in("bob").await;
    let page = bob.navigate(PAGE).await;
    let refused = authenticator.create(&mut bob, &page, "https://evil.test").await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let authenticator = with_passkey(&gateway).await;
    gateway.advance(std::time::Duration::from_secs(1));
    let mut alice = Browser::new(&gateway);
    let page = first_step(&mut alice).await;
    let phished = authenticator.sign(&mut alice, &page, "https://evil.test").await;
    assert_eq!(phished.status, StatusCode::UNAUTHORIZED);
    let forged = Authenticator::new().sign(&mut alice, &page, ORIGIN).await;
    assert_eq!(forged.status, StatusCode::UNAUTHORIZED);
    gateway.advance(std::time::Duration::from_secs(5 * 60));
    let late = authenticator.sign(&mut alice, &page, ORIGIN).await;
    assert_eq!(late.status, StatusCode::UNAUTHORIZED, "after five minutes");
    assert!(alice.token().is_empty());
    let again = authenticator.sign(&mut alice, &late, ORIGIN).await;
    assert_eq!(again.status, StatusCode::SEE_OTHER, "with the challenge of the next page");
}
