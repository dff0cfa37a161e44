//! What sections must say together.

use super::findings::{Findings, Place};
use super::login::Login;
use super::reader::Setting;
use super::route::RouteSection;
use super::server::CertificateFiles;
use crate::message::HostPattern;
use crate::route::{Access, Clash, RouteTable};

/// The file as a whole.
pub(super) struct Together<'a> {
    pub findings: &'a Findings<'a>,
    /// The `[server]` line.
    pub server: Place,
    pub routes: &'a [RouteSection],
}

impl Together<'_> {
    pub(super) fn certificates(&self, certificates: Option<&[CertificateFiles]>) {
        if certificates.is_some_and(<[_]>::is_empty) {
            self.findings.problem(
                &self.server,
                "https needs a certificate",
                "write [[tls.certificate]] with cert = \"…\" and key = \"…\" \
                 (`doorward certs dev` makes one to try with)",
            );
        }
    }

    pub(super) fn login(&self, login: Option<&Login>) {
        let closed = self.closed().next();
        if let Some(closed) = closed.filter(|_| login.is_some_and(|login| !login.is_any())) {
            self.findings.problem(
                &closed.access,
                "this route asks for a session, and nobody can log in",
                "write [login.password] with users = \"config/users.toml\"",
            );
        }
    }

    /// A browser sends the cookie to hosts at and below the domain only: elsewhere every login
    /// would lead to the next.
    pub(super) fn domain(&self, domain: Option<&Option<Setting<String>>>) {
        let Some(Some(domain)) = domain else { return };
        for section in self.closed().filter(|at| !is_within(&at.route.host, &domain.value)) {
            let (host, domain_name) = (&section.route.host, &domain.value);
            self.findings.problem_between(
                [&domain.place, &section.host],
                format!(
                    "`{host}` does not lie below the session's domain \
                     {domain_name}: nobody could stay logged in"
                ),
                "write a host below it, or leave `domain` out".to_owned(),
            );
        }
    }

    /// Pages of one host share one origin, and the session's cookie goes with every request to it.
    pub(super) fn warn_of_neighbours(&self) {
        for public in self.routes.iter().filter(|section| !is_closed(section)) {
            let mut closed = self.closed();
            let Some(neighbour) = closed.find(|other| other.route.host == public.route.host) else {
                continue;
            };
            self.findings.warning(
                &public.access,
                format!(
                    "scripts of this public route can act for whoever is logged in to {}",
                    neighbour.route.label()
                ),
                "give it a host of its own, unless you trust its app as much",
            );
        }
    }

    pub(super) fn table(&self) -> Option<RouteTable> {
        let table = RouteTable::new(self.routes.iter().map(|at| at.route.clone()).collect());
        table.map_err(|clashes| clashes.iter().for_each(|clash| self.clash(clash))).ok()
    }

    fn clash(&self, clash: &Clash) {
        let (first, second) = (&self.routes[clash.first], &self.routes[clash.second]);
        let line = self.findings.line(&first.place);
        self.findings.problem_between(
            [&first.place, &second.place],
            format!("this route claims {}, as the one in line {line} does", second.route.label()),
            "write another host or path, or both upstreams as one list".to_owned(),
        );
    }

    fn closed(&self) -> impl Iterator<Item = &RouteSection> {
        self.routes.iter().filter(|section| is_closed(section))
    }
}

fn is_closed(section: &RouteSection) -> bool {
    match section.route.access {
        Access::Public => false,
        Access::Session(_) => true,
    }
}

fn is_within(host: &HostPattern, domain: &str) -> bool {
    let below = |name: &str| name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    match host {
        HostPattern::Exact(name) => name == domain || below(name),
        HostPattern::Below(suffix) => below(suffix),
        HostPattern::Any => false,
    }
}
