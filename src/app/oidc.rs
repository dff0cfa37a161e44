//! External providers: built from `[login.oidc.NAME]` and `[login.ldap.NAME]`. OpenID Connect providers are kept over
//! a reload that does not change them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::config::{self, Config, OidcClientAuth};
use crate::identity::{LoginProvider, LoginProviders};
use crate::oidc::{
    AllowRules, ClaimMapping, ClaimPath, ClientAuth, ClientKey, ClientSecret, OidcProvider,
    OidcSettings, WebUrl,
};
use crate::secret::sha256;
use crate::tls;

use super::ldap;
use super::secrets;
use super::start_error::StartError;

/// The providers, and what they were built from.
pub(super) struct BuiltProviders {
    pub(super) providers: Arc<LoginProviders>,
    /// Digests of the secrets, in the same order.
    secrets: Vec<[u8; 32]>,
}

impl BuiltProviders {
    /// Builds the providers. Sends nothing, so a provider that is down does not delay a start.
    ///
    /// # Errors
    /// A secret, key or CA file cannot be used.
    pub(super) fn build(
        config: &Config,
        clock: &Clock,
        running: Option<&BuiltProviders>,
    ) -> Result<BuiltProviders, StartError> {
        let mut built = (Vec::new(), Vec::new());
        let kept_claims = kept_claims(config);
        for settings in &config.login.oidc {
            let secret = read_secret(settings)?;
            let digest = sha256(secret.as_bytes());
            let client = match running.and_then(|running| running.same(settings, &digest)) {
                Some(client) => client,
                None => Arc::new(client(settings, &secret, clock)?),
            };
            let (settings, kept_claims) = (settings.clone(), Arc::clone(&kept_claims));
            built.0.push(LoginProvider { settings, client, kept_claims });
            built.1.push(digest);
        }
        let ldap = ldap::directories(&config.login.ldap, clock)?;
        Ok(BuiltProviders {
            providers: Arc::new(LoginProviders::new(built.0, ldap)),
            secrets: built.1,
        })
    }

    /// Returns the client of an unchanged provider, which has its metadata and keys already.
    fn same(&self, settings: &config::OidcSection, secret: &[u8; 32]) -> Option<Arc<OidcProvider>> {
        let mut all = self.providers.iter().zip(&self.secrets);
        let same = all.find(|(other, digest)| other.settings == *settings && *digest == secret);
        same.map(|(other, _)| Arc::clone(&other.client))
    }
}

/// Returns the names of the claims that templates of routes contain.
fn kept_claims(config: &Config) -> Arc<[String]> {
    let routes = config.routes.iter();
    let names = routes.flat_map(|route| route.identity.claim_names().map(str::to_owned));
    let names: BTreeSet<String> = names.collect();
    names.into_iter().collect()
}

/// Reads the client secret or the private key; empty if there is none.
fn read_secret(settings: &config::OidcSection) -> Result<Zeroizing<String>, StartError> {
    let unset = |problem: String| unusable(settings, problem);
    match settings.client_auth {
        OidcClientAuth::SecretBasic | OidcClientAuth::SecretPost => {
            let (file, variable) =
                (settings.client_secret_file.as_ref(), settings.secret_variable());
            let secret = secrets::read_file_or_variable(file, &variable)?;
            secret.filter(|secret| !secret.is_empty()).ok_or_else(|| {
                unset(format!(
                    "has no client secret: write client_secret_file = \"…\", or set the environment variable {variable}"
                ))
            })
        }
        OidcClientAuth::PrivateKeyJwt => match &settings.client_key_file {
            Some(path) => secrets::read_file(path),
            None => Err(unset("has no client_key_file".to_owned())),
        },
        OidcClientAuth::AssertionFile | OidcClientAuth::None => Ok(Zeroizing::default()),
    }
}

fn client(
    settings: &config::OidcSection,
    secret: &str,
    clock: &Clock,
) -> Result<OidcProvider, StartError> {
    let tls = tls::client_config(settings.ca.as_deref())?;
    Ok(OidcProvider::new(oidc_settings(settings, secret)?, &tls, clock.clone()))
}

fn oidc_settings(settings: &config::OidcSection, secret: &str) -> Result<OidcSettings, StartError> {
    let url = |text: &str| {
        WebUrl::parse(text).map_err(|error| unusable(settings, format!("`{text}`: {error}")))
    };
    Ok(OidcSettings {
        name: settings.name.clone(),
        issuer: url(&settings.issuer)?,
        client_id: settings.client_id.clone(),
        client_auth: client_auth(settings, secret)?,
        scopes: settings.scopes.clone(),
        claims: claim_mapping(&settings.claims),
        allow: allow_rules(&settings.allow),
        userinfo: settings.userinfo,
        graph: settings.graph.as_deref().map(url).transpose()?,
        pushed_requests: settings.pushed_requests,
        max_age: settings.max_age,
        acr: settings.acr.clone(),
        bearer_audience: settings.bearer_audience.clone(),
        timeout: settings.timeout,
    })
}

fn client_auth(settings: &config::OidcSection, secret: &str) -> Result<ClientAuth, StartError> {
    let file = |path: &Option<PathBuf>| path.clone().unwrap_or_default();
    Ok(match settings.client_auth {
        OidcClientAuth::SecretBasic => {
            ClientAuth::SecretBasic(ClientSecret::new(secret.to_owned()))
        }
        OidcClientAuth::SecretPost => ClientAuth::SecretPost(ClientSecret::new(secret.to_owned())),
        OidcClientAuth::PrivateKeyJwt => {
            let path = file(&settings.client_key_file);
            let key = ClientKey::parse(secret.as_bytes(), settings.client_key_id.clone());
            let failed = |error| unusable(settings, format!("{}: {error}", path.display()));
            ClientAuth::PrivateKeyJwt(key.map_err(failed)?)
        }
        OidcClientAuth::AssertionFile => {
            ClientAuth::AssertionFile(file(&settings.client_assertion_file))
        }
        OidcClientAuth::None => ClientAuth::None,
    })
}

fn claim_mapping(claims: &config::OidcClaims) -> ClaimMapping {
    let paths = |paths: &[Vec<String>]| paths.iter().cloned().filter_map(ClaimPath::new).collect();
    ClaimMapping {
        user: paths(&claims.user),
        name: paths(&claims.name),
        email: paths(&claims.email),
        groups: paths(&claims.groups),
        strip_leading_slash: claims.strip_leading_slash,
        trust_email: claims.trust_email,
    }
}

fn allow_rules(allow: &config::OidcAllow) -> AllowRules {
    let claim = |(name, value): &(String, String)| {
        Some((ClaimPath::new(vec![name.clone()])?, vec![value.clone()]))
    };
    AllowRules {
        groups: allow.groups.clone(),
        domains: allow.domains.clone(),
        claims: allow.claims.iter().filter_map(claim).collect(),
    }
}

fn unusable(settings: &config::OidcSection, problem: String) -> StartError {
    StartError::Oidc { provider: settings.name.clone(), problem }
}
