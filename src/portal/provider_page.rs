//! Paths of the pages of OpenID Connect providers.

use super::forms::PREFIX;

/// A page of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProviderPage {
    Login,
    Callback,
    BackchannelLogout,
}

impl ProviderPage {
    /// Parses a path below `/.doorward/oidc/`. Returns the name of the provider too.
    pub(super) fn find(path: &str) -> Option<(&str, ProviderPage)> {
        let (name, page) = path.strip_prefix(PREFIX)?.strip_prefix("/oidc/")?.split_once('/')?;
        let page = match page {
            "login" => ProviderPage::Login,
            "callback" => ProviderPage::Callback,
            "backchannel-logout" => ProviderPage::BackchannelLogout,
            _ => return None,
        };
        Some((name, page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pages_of_a_provider_are_found() {
        let found = |path| ProviderPage::find(path);
        assert_eq!(found("/.doorward/oidc/corp/callback"), Some(("corp", ProviderPage::Callback)));
        for path in [
            "/.doorward/oidc/",
            "/.doorward/oidc/corp",
            "/.doorward/oidc/corp/login/x",
            "/oidc/corp/login",
        ] {
            assert_eq!(found(path), None, "{path}");
        }
    }
}
