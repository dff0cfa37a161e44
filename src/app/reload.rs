//! Reload: parse and check everything, build a complete snapshot, then swap.
//!
//! Whatever fails, fails before the first swap, so a bad file changes nothing. Keys that only a restart
//! changes keep their values and are reported.

use tracing::{error, info, warn};

use crate::admin::{ReloadMode, ReloadReport};
use crate::config::{Config, Warning, changes};
use crate::route::{Route, RouteTable};
use crate::server::WorkerSnapshot;
use crate::tls::ServedCertificates;

use super::gateway::Gateway;
use super::snapshot::Snapshot;
use super::start_error::StartError;

/// A complete configuration that is ready to be swapped in.
struct Prepared {
    snapshot: Snapshot,
    certificates: ServedCertificates,
    workers: Vec<WorkerSnapshot>,
    /// Whether a public route was removed or now needs a session.
    restricts_public: bool,
}

impl Gateway {
    /// Loads the configuration again, and applies it unless `mode` is a dry run.
    pub(super) fn reload(&self, mode: ReloadMode) -> ReloadReport {
        let _one_at_a_time = self.reloading.lock();
        let report = self.load_and_apply(mode);
        if mode == ReloadMode::Apply {
            self.components.shared.metrics.config_reload(report.is_ok());
            log(&report);
        }
        report
    }

    fn load_and_apply(&self, mode: ReloadMode) -> ReloadReport {
        let Some(load) = self.source.get() else {
            return ReloadReport::failed(vec!["this gateway has no configuration file".to_owned()]);
        };
        let (config, warnings) = match load() {
            Ok(loaded) => loaded,
            Err(error) => {
                return ReloadReport::failed(
                    error.diagnostics.iter().map(ToString::to_string).collect(),
                );
            }
        };
        match self.apply(config, mode) {
            Ok(report) => report.with_warnings(warnings.iter().map(Warning::to_string)),
            Err(error) => ReloadReport::failed(vec![error.to_string()]),
        }
    }

    fn apply(&self, mut config: Config, mode: ReloadMode) -> Result<ReloadReport, StartError> {
        let running = self.snapshot.load_full();
        let report = ReloadReport {
            changes: changes(&running.config.source, &config.source),
            restart_keys: config
                .keep_restart_keys(&running.config)
                .into_iter()
                .map(str::to_owned)
                .collect(),
            ..ReloadReport::default()
        };
        let prepared = self.prepare(&running, config)?;
        if mode == ReloadMode::Apply {
            self.install(&running, prepared);
        }
        Ok(report)
    }

    fn prepare(&self, running: &Snapshot, config: Config) -> Result<Prepared, StartError> {
        let clock = &self.components.shared.clock;
        let snapshot = Snapshot::build(config, clock, Some(running))?;
        let certificates =
            ServedCertificates::read(&snapshot.config.certificates, &snapshot.config.client_auth)?;
        let restricts_public = restricts_public_route(&running.routes, &snapshot.routes);
        let workers = self.workers.iter();
        let workers = workers.map(|worker| worker.prepare(&snapshot, restricts_public));
        let workers = workers.collect::<Result<_, _>>()?;
        Ok(Prepared { snapshot, certificates, workers, restricts_public })
    }

    fn install(&self, running: &Snapshot, new: Prepared) {
        let Prepared { snapshot, certificates, workers, restricts_public } = new;
        let components = &self.components;
        components.certificates.replace(certificates);
        components.report_certificates();
        components.limiter.configure(snapshot.connection_limits());
        // Before the workers: the routes of a connection are never newer than those that judge it.
        components.shared.connections.configure((&snapshot.config).into());
        for (worker, new) in self.workers.iter().zip(workers) {
            worker.install(new, restricts_public);
        }
        components.endpoints.retain(&snapshot.routes);
        components.reconfigure_geoip(&running.config.signals, &snapshot.config.signals);
        self.set_snapshot(snapshot);
    }
}

/// Returns whether a route that was public is not public any more. Its connections have no session, so
/// they are not tracked.
fn restricts_public_route(before: &RouteTable, after: &RouteTable) -> bool {
    // Also requests with credentials that the app checks have no session.
    let is_open = |route: &Route| !route.requires_session() || route.accepts_app_credentials;
    let mut open = before.iter().filter(|route| is_open(route));
    open.any(|route| {
        let after = after.successor(before, route);
        after.is_none_or(|after| {
            !is_open(after) || (after.requires_session() && !route.requires_session())
        })
    })
}

fn log(report: &ReloadReport) {
    for warning in &report.warnings {
        warn!(event = "config.warning", "{warning}");
    }
    match report.is_ok() {
        true => info!(
            event = "config.reloaded",
            changes = report.changes.len(),
            restart_needed = report.restart_keys.join(", "),
        ),
        false => error!(
            event = "config.reload-failed",
            "{}; the configuration loaded before stays in use",
            report.problems.join("; ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    fn routes(access: &str, more: &str) -> RouteTable {
        let text = format!(
            "[[tls.certificate]]\ncert = \"c\"\nkey = \"k\"\n[login.password]\nusers = \"u\"\n[[route]]\nhost = \"a.test\"\nupstream = \"http://127.0.0.1:1\"\naccess = \"{access}\"\n{more}"
        );
        let config = Config::parse(&text, "test.toml", Path::new(""));
        config.expect("a valid configuration").0.routes
    }

    #[test]
    fn a_public_route_is_restricted_if_removed_or_closed() {
        let below = "[[route]]\nhost = \"a.test\"\npath = \"/x\"\nupstream = \"http://127.0.0.1:1\"\naccess = \"session\"\n";
        let public = routes("public", "");
        assert!(!restricts_public_route(&public, &routes("public", "")));
        assert!(restricts_public_route(&public, &routes("session", "")));
        assert!(restricts_public_route(&public, &routes("public", below)));
        assert!(!restricts_public_route(&routes("session", ""), &routes("public", below)));
    }
}
