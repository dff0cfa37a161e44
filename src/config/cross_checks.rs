//! Checks that involve several sections.

use super::diagnostics::{Diagnostics, Span};
use super::login::Login;
use super::reader::Field;
use super::route::RouteSection;
use super::server::Tls;
use crate::message::HostPattern;
use crate::message::reserved_headers::fold;
use crate::route::{Access, RouteConflict, RouteTable};
use crate::session::{CERTIFICATE_METHOD, SecondFactorMode};

pub(super) struct CrossChecks<'a> {
    pub diagnostics: &'a Diagnostics<'a>,
    /// Location of the `[server]` line.
    pub server: Span,
    pub routes: &'a [RouteSection],
}

impl CrossChecks<'_> {
    pub(super) fn check_certificates(&self, tls: Option<&Tls>) {
        if tls.is_some_and(|tls| tls.certificates.is_empty()) {
            self.diagnostics.error(
                &self.server,
                "https needs a certificate",
                "write [[tls.certificate]] with cert = \"…\" and key = \"…\" \
                 (`doorward certs dev` creates one for tests)",
            );
        }
    }

    pub(super) fn check_login(&self, login: Option<&Login>) {
        let mut protected = self.protected().filter(|section| !section.route.accepts_certificates);
        let protected = protected.next();
        if let Some(protected) = protected.filter(|_| login.is_some_and(|login| !login.is_any())) {
            self.diagnostics.error(
                &protected.access,
                "this route requires a session, but no login method is configured",
                "write [login.password] and add users with `doorward user add`, or write [login.oidc.NAME] or [login.ldap.NAME]",
            );
        }
    }

    /// Rejects routes that accept a login method which is not configured.
    pub(super) fn check_login_names(&self, tls: Option<&Tls>, login: Option<&Login>) {
        let (Some(tls), Some(login)) = (tls, login) else { return };
        let is_method = |name: &str| {
            login.has_method(name) || name == CERTIFICATE_METHOD && !tls.client_auth.is_empty()
        };
        for section in self.protected() {
            let Access::Session(rule) = &section.route.access else { continue };
            let unknown = rule.logins.iter().find(|name| !is_method(name));
            if let Some(name) = unknown {
                self.diagnostics.error(
                    &section.access,
                    format!("`logins` contains {name}, which is not a login method"),
                    "write \"password\", or the NAME of a [login.oidc.NAME] or [login.ldap.NAME]",
                );
            }
        }
    }

    /// Rejects routes that admit client certificates on a host without them, and certificates whose users could
    /// have the name of a provider's user.
    pub(super) fn check_client_auth(&self, tls: Option<&Tls>, login: Option<&Login>) {
        let Some(tls) = tls else { return };
        for section in self.routes.iter().filter(|section| section.route.accepts_certificates) {
            let host = &section.route.host;
            if !tls.client_auth.iter().any(|at| host.is_within(&at.settings.host)) {
                self.diagnostics.error(
                    &section.span,
                    format!("`client_certificates` has no effect: connections to {host} have none"),
                    "write [[tls.client_auth]] with this host and ca = \"certs/clients-ca.pem\"",
                );
            }
        }
        let providers = login.map_or(&[][..], |login| &login.oidc);
        for at in &tls.client_auth {
            let prefix = at.settings.user_prefix.as_str();
            let overlaps = |other: &str| prefix.starts_with(other) || other.starts_with(prefix);
            let mut untrusted = providers.iter().filter(|provider| !provider.trust_user_names);
            if let Some(provider) = untrusted.find(|provider| overlaps(&provider.user_prefix)) {
                let name = &provider.name;
                self.diagnostics.error(
                    &at.span,
                    format!("a user of `{name}` could have the name of a certificate, and its access"),
                    format!("write user_prefix = \"{name}-\" in [login.oidc.{name}], or trust_user_names = true"),
                );
            }
        }
    }

    /// Rejects routes that accept access tokens of a provider which does not name their audience: a token for
    /// another service would be accepted.
    pub(super) fn check_bearer(&self, login: Option<&Login>) {
        let Some(login) = login else { return };
        for section in self.routes {
            let has_audience = |name: &&String| {
                let mut providers = login.oidc.iter();
                providers.any(|it| it.name == **name && !it.bearer_audience.is_empty())
            };
            if let Some(name) = section.route.bearer.iter().find(|name| !has_audience(name)) {
                self.diagnostics.error(
                    &section.span,
                    format!(
                        "`bearer` contains {name}, which is no provider with `bearer_audience`"
                    ),
                    "write bearer_audience = [\"https://api.example.com\"] in [login.oidc.NAME]",
                );
            }
        }
    }

    /// Rejects routes that require a second factor which no user can have.
    pub(super) fn check_second_factor(&self, login: Option<&Login>) {
        let Some(login) = login else { return };
        let is_off = login.second_factor.mode == SecondFactorMode::Off;
        if !is_off || login.oidc.iter().any(|provider| provider.second_factor) {
            return;
        }
        let needs_one = self.protected().find(|section| section.route.requires_second_factor());
        if let Some(section) = needs_one {
            self.diagnostics.error(
                &section.access,
                "this route requires a second factor, but no user can have one",
                "write second_factor = \"optional\" in [login]",
            );
        }
    }

    /// Rejects routes outside the cookie domain: browsers do not send the cookie there, so every login
    /// would be followed by another one.
    pub(super) fn check_domain(&self, domain: Option<&Option<Field<String>>>) {
        let Some(Some(domain)) = domain else { return };
        for section in self.protected().filter(|at| !is_within(&at.route.host, &domain.value)) {
            let (host, domain_name) = (&section.route.host, &domain.value);
            self.diagnostics.error_between(
                [&domain.span, &section.host],
                format!(
                    "`{host}` is outside the session's domain \
                     {domain_name}: browsers do not send the cookie there"
                ),
                "write a host below it, or leave `domain` out".to_owned(),
            );
        }
    }

    /// Warns about a public route on the host of a protected one: both share one origin and the session
    /// cookie.
    pub(super) fn warn_shared_host(&self) {
        for public in self.routes.iter().filter(|section| !is_protected(section)) {
            let mut protected = self.protected();
            let Some(neighbour) = protected.find(|other| other.route.host == public.route.host)
            else {
                continue;
            };
            self.diagnostics.warning(
                &public.access,
                format!(
                    "scripts of this public route can act for users who are logged in to {}",
                    neighbour.route.label()
                ),
                "use a separate host, unless you trust both apps equally",
            );
        }
    }

    /// Rejects passing an identity header of any route: an app behind two routes would trust it.
    pub(super) fn check_passed_headers(&self) {
        let identity = self.routes.iter().flat_map(|section| &section.route.identity.headers);
        let identity: Vec<&str> = identity.map(|header| header.name.as_str()).collect();
        for section in self.routes {
            let mut passed = section.route.headers.pass.iter();
            if let Some(name) = passed.find(|name| identity.contains(&fold(name.as_str()).as_str()))
            {
                self.diagnostics.error(
                    &section.span,
                    format!("`pass_headers` passes {name}, which is an identity header of a route"),
                    "leave it out, or choose another name in `identity`",
                );
            }
        }
    }

    /// Warns about a mapping of paths around the access rule of another route.
    pub(super) fn warn_mapped_paths(&self) {
        for section in self.routes {
            let mut others = self.routes.iter();
            let Some(other) = others.find(|other| section.route.maps_into(&other.route)) else {
                continue;
            };
            self.diagnostics.warning(
                &section.span,
                format!(
                    "by its `upstream_path`, this route also reaches the paths of {} at the same upstream, \
                     and its access rule admits more",
                    other.route.label()
                ),
                "write an `upstream_path` that does not contain them, or the same access rule",
            );
        }
    }

    pub(super) fn route_table(&self) -> Option<RouteTable> {
        let table = RouteTable::new(self.routes.iter().map(|at| at.route.clone()).collect());
        table
            .map_err(|conflicts| {
                conflicts.iter().for_each(|conflict| self.report_conflict(conflict))
            })
            .ok()
    }

    fn report_conflict(&self, conflict: &RouteConflict) {
        let (first, second) = (&self.routes[conflict.first], &self.routes[conflict.second]);
        let line = self.diagnostics.line(&first.span);
        self.diagnostics.error_between(
            [&first.span, &second.span],
            format!("this route matches {}, like the one in line {line}", second.route.label()),
            "write another host or path, or one route with a list of upstreams".to_owned(),
        );
    }

    fn protected(&self) -> impl Iterator<Item = &RouteSection> {
        self.routes.iter().filter(|section| is_protected(section))
    }
}

fn is_protected(section: &RouteSection) -> bool {
    match section.route.access {
        Access::Public => false,
        Access::Session(_) => true,
    }
}

fn is_within(host: &HostPattern, domain: &str) -> bool {
    let below = |name: &str| name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    match host {
        HostPattern::Exact(name) => name == domain || below(name),
        HostPattern::Subdomain(suffix) => below(suffix),
        HostPattern::Any => false,
    }
}
