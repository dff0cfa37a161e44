//! Authentication of the gateway at the token endpoint.

use data_encoding::BASE64URL_NOPAD;
use doorward::oidc::{ClientAuth, ClientKey, ClientSecret};
use serde_json::Value;
use test_support::identity_provider::{CLIENT_SECRET, seconds};
use test_support::jwt_signer::JwtSigner;

use super::Party;

#[tokio::test]
async fn a_wrong_client_secret_is_an_outage_not_a_refusal() {
    let wrong = || ClientSecret::new("wrong".to_owned());
    for auth in [ClientAuth::SecretBasic(wrong()), ClientAuth::SecretPost(wrong())] {
        let party = Party::with(|settings| settings.client_auth = auth).await;
        assert!(party.outage().await.contains("invalid_client"));
    }
}

#[tokio::test]
async fn a_secret_is_sent_in_the_header_or_the_form() {
    let basic = Party::start().await;
    assert!(basic.login().await.is_ok());
    assert_eq!(basic.provider.requests("/token")[0].field("client_secret"), "");
    let secret = ClientSecret::new(CLIENT_SECRET.to_owned());
    let post = Party::with(|settings| settings.client_auth = ClientAuth::SecretPost(secret)).await;
    assert!(post.login().await.is_ok());
    assert_eq!(post.provider.requests("/token")[0].field("client_secret"), CLIENT_SECRET);
}

#[tokio::test]
async fn an_assertion_names_the_issuer_and_lasts_a_minute() {
    for signer in [JwtSigner::p256("k"), JwtSigner::rsa("k")] {
        let key = ClientKey::parse(signer.private_key().as_bytes(), Some("k".to_owned()));
        let auth = ClientAuth::PrivateKeyJwt(key.expect("a key"));
        let party = Party::with(|settings| settings.client_auth = auth).await;
        assert!(party.login().await.is_ok() && party.login().await.is_ok());
        let sent = party.provider.requests("/token");
        let claims = |at: usize| part(&sent[at].field("client_assertion"), 1);
        assert_eq!(claims(0)["aud"], party.provider.issuer());
        assert_eq!(
            (&claims(0)["iss"], &claims(0)["sub"]),
            (&"doorward".into(), &"doorward".into())
        );
        let expires = claims(0)["exp"].as_u64().expect("a time");
        assert!((seconds()..=seconds() + 61).contains(&expires));
        assert_ne!(claims(0)["jti"], claims(1)["jti"]);
        let header = part(&sent[0].field("client_assertion"), 0);
        assert_eq!((&header["alg"], &header["kid"]), (&signer.algorithm().into(), &"k".into()));
    }
}

#[tokio::test]
async fn an_assertion_file_is_read_before_each_request() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let auth = ClientAuth::AssertionFile(file.path().to_owned());
    let party = Party::with(|settings| settings.client_auth = auth).await;
    for assertion in ["one", "two"] {
        std::fs::write(file.path(), format!("{assertion}\n")).expect("written");
        assert!(party.login().await.is_ok());
        let sent = party.provider.requests("/token");
        assert_eq!(sent.last().expect("a request").field("client_assertion"), assertion);
    }
    drop(file);
    assert!(party.outage().await.contains("the client assertion cannot be made"));
}

#[test]
fn an_unusable_key_file_is_refused() {
    assert!(ClientKey::parse(b"", None).is_err());
    let key = JwtSigner::ed25519("e").private_key();
    assert!(ClientKey::parse(key.as_bytes(), None).is_err(), "Ed25519");
    let key = ClientKey::parse(JwtSigner::p256("p").private_key().as_bytes(), None);
    assert_eq!(format!("{:?}", key.expect("a key")), "ClientKey(ES256, …)");
}

fn part(token: &str, at: usize) -> Value {
    let part = token.split('.').nth(at).expect("a part");
    serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).expect("base64")).expect("JSON")
}
