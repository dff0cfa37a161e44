//! Token shapes of known providers, in `tests/data/oidc`: claims, settings and the expected identity.

use std::fs;
use std::path::{Path, PathBuf};

use doorward::oidc::{ClaimPath, OidcSettings, Profile};
use serde_json::Value;
use test_support::identity_provider::IdentityProvider;

use super::Party;

#[tokio::test]
async fn tokens_of_known_providers_map_to_the_expected_identity() {
    let files = files();
    assert_eq!(files.len(), 8, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).expect("a readable file");
        let shape: Value = serde_json::from_str(&text).expect("JSON");
        let provider = IdentityProvider::start().await;
        provider.set(|provider| {
            provider.claims = shape["claims"].as_object().expect("claims").clone();
            provider.userinfo = shape["userinfo"].clone();
        });
        let party = Party::of(provider, |settings| apply(settings, &shape["settings"]));
        let login = party.login().await;
        let login = login.unwrap_or_else(|failure| panic!("{}: {failure}", file.display()));
        assert_eq!(login.profile, expected(&shape["expected"]), "{}", file.display());
        assert_eq!(login.subject, shape["claims"]["sub"], "{}", file.display());
    }
}

fn apply(settings: &mut OidcSettings, shape: &Value) {
    if let Some(paths) = shape["groups"].as_array() {
        settings.claims.groups = paths.iter().map(path).collect();
    }
    if let [claim, value] = shape["allow_claim"].as_array().map_or(&[][..], Vec::as_slice) {
        settings.allow.claims.push((path(claim), vec![text(value).expect("a value")]));
    }
    settings.claims.strip_leading_slash = shape["strip_leading_slash"] == true;
    settings.claims.trust_email = shape["trust_email"] == true;
    settings.userinfo = shape["userinfo"] == true;
}

fn path(names: &Value) -> ClaimPath {
    ClaimPath::new(texts(names)).expect("a path")
}

fn expected(shape: &Value) -> Profile {
    Profile {
        user: text(&shape["user"]).expect("a user"),
        name: text(&shape["name"]),
        email: text(&shape["email"]),
        groups: texts(&shape["groups"]),
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn texts(values: &Value) -> Vec<String> {
    values.as_array().expect("a list").iter().filter_map(text).collect()
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/oidc");
    let entries = fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}
