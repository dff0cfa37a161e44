//! `docs/metrics-and-events.md` lists every metric and event of the source, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use doorward::config::Config;
use doorward::risk::{GeoInfo, RiskAction, RiskReport, Signal};
use doorward::session::EndReason;
use doorward::store::{Advice, FlushCause};
use doorward::telemetry::events::RiskContext;
use doorward::telemetry::metrics::{EndpointLabels, NotificationOutcome};
use doorward::telemetry::{Limit, Metrics, RouteMetricsTable, SessionEvent, StoreStats};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sources() -> Vec<(String, String)> {
    fn walk(directory: &Path, out: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                let code = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
                out.push((path.display().to_string(), code));
            }
        }
    }
    let mut out = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut out);
    assert!(out.len() > 200, "{} source files", out.len());
    out
}

/// The cells of the table rows in a section of the page, or in all of it.
fn rows(section: &str) -> Vec<Vec<String>> {
    let page = read("docs/metrics-and-events.md");
    let start = page.find(&format!("\n## {section}\n")).unwrap_or_else(|| panic!("no {section}"));
    let rest = &page[start + 4..];
    let text = &rest[..rest.find("\n## ").unwrap_or(rest.len())];
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    text.lines().filter(|line| line.starts_with("| `")).map(cells).collect()
}

fn names(cell: &str) -> BTreeSet<String> {
    let names = cell.split(',').map(|name| name.trim().trim_matches('`').to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

const ROUTE: &str = "[[tls.certificate]]\ncert = \"c\"\nkey = \"k\"\n[[route]]\nhost = \"a.test\"\nupstream = \"http://127.0.0.1:1\"\naccess = \"public\"\n";

/// All metrics as text, with at least one sample each.
fn exercised() -> String {
    let metrics = Metrics::default();
    let (config, _) = Config::parse(ROUTE, "test.toml", Path::new("")).expect("valid");
    let routes = metrics.routes(&config.routes, &RouteMetricsTable::default());
    let route = config.routes.iter().next().expect("a route");
    routes.get(route).expect("its counts").upstream_error("dns_error");
    let endpoint = EndpointLabels { route: "a.test/".into(), endpoint: "http://a".into() };
    metrics.update_endpoints(std::iter::once((endpoint, true, 1)));
    metrics.request("admit", 200);
    metrics.exchange_cut("client_gone");
    metrics.event(SessionEvent::Ended(EndReason::Logout));
    let signals = vec![Signal::Network];
    let report = RiskReport { signals, score: 10, action: RiskAction::Log };
    let (location, other_location) = (GeoInfo::default(), GeoInfo::default());
    metrics.risk_assessment(RiskContext {
        report: &report,
        enforced: true,
        location,
        other_location,
    });
    metrics.notification(NotificationOutcome::Delivered, 1);
    metrics.update_store(&StoreStats {
        config_warnings: vec![("clock", true)],
        flushes: vec![("subscribed", 1)],
        ..StoreStats::default()
    });
    metrics.tracked_connection_closed("session-ended");
    metrics.tracked_connection_rejected("total");
    metrics.limit(Limit::Headers, None);
    metrics.certificate_expiry("doorward.pem".to_owned(), jiff::Timestamp::UNIX_EPOCH);
    metrics.config_reload(true);
    metrics.providers.up("corp", true);
    metrics.providers.login("corp", "success");
    metrics.providers.logout("corp", "success");
    metrics.providers.ldap_login("corp", "success");
    metrics.providers.recheck("corp", "success");
    metrics.render()
}

/// Type and labels by name, from the text that Prometheus reads.
fn encoded() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = exercised();
    let mut types = BTreeMap::new();
    let mut metrics = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|r| r.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            types.insert(format!("{name}{suffix}"), kind.to_owned());
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().expect("a name");
            let histogram = ["_sum", "_count", "_bucket"].iter().find_map(|suffix| {
                name.strip_suffix(suffix)
                    .filter(|name| types.get(*name).is_some_and(|kind| kind == "histogram"))
            });
            let name = histogram.unwrap_or(name).to_owned();
            let labels = line.split_once('{').map_or("", |(_, rest)| rest);
            let labels = labels.split_once('}').map_or("", |(labels, _)| labels);
            let labels = labels.split(',').filter_map(|label| label.split_once('='));
            let labels = labels.map(|(label, _)| label.to_owned());
            let labels = labels.filter(|label| label != "le").collect();
            let kind = types.get(&name).cloned().unwrap_or_default();
            metrics.insert(name, (kind, labels));
        }
    }
    assert_eq!(metrics.len(), types.len(), "a metric without a sample: {types:?} {metrics:?}");
    metrics
}

#[test]
fn the_page_lists_every_metric_with_type_and_labels() {
    let documented: BTreeMap<String, (String, BTreeSet<String>)> = rows("Metrics")
        .into_iter()
        .filter(|row| row[0].starts_with("`doorward_"))
        .map(|row| (row[0].trim_matches('`').to_owned(), (row[1].clone(), names(&row[3]))))
        .collect();
    assert_eq!(documented, encoded());
    assert_eq!(documented.len(), 45);
}

/// The values in backticks after the colon in the description of a metric.
fn documented_values(metric: &str) -> BTreeSet<String> {
    let rows = rows("Metrics");
    let row = rows.iter().find(|row| row[0] == format!("`{metric}`")).expect("a row");
    let (_, values) = row[4].split_once(": ").expect("values");
    values.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_page_lists_the_label_values_of_the_store() {
    let causes = FlushCause::ALL.map(|cause| cause.as_str().to_owned());
    assert_eq!(documented_values("doorward_session_cache_flushes_total"), causes.into());
    let checks = Advice::ALL.map(|check| check.as_str().to_owned());
    assert_eq!(documented_values("doorward_store_config_warning"), checks.into());
}

/// The arguments of each logging macro, with its level.
fn log_entries(code: &str) -> Vec<(&'static str, &str)> {
    let levels = ["error", "warn", "info", "debug"];
    let calls = levels.into_iter().flat_map(|level| {
        let call = format!("{level}!(");
        let starts: Vec<usize> =
            code.match_indices(&call).map(|(at, call)| at + call.len()).collect();
        starts.into_iter().map(move |start| (level, arguments(&code[start..])))
    });
    calls.collect()
}

/// The text up to the parenthesis that closes a call.
fn arguments(text: &str) -> &str {
    let (mut depth, mut in_string, mut escaped) = (1, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'(' if !in_string => depth += 1,
            b')' if !in_string => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..at];
        }
    }
    panic!("a call without an end: {text}");
}

/// The string after `prefix`, up to the next quote.
fn quoted_after<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(prefix)?;
    rest.strip_prefix('"')?.split('"').next()
}

/// The level of each operational event, by the macro that logs it.
fn logged_events() -> BTreeMap<String, String> {
    let mut events = BTreeMap::new();
    let sources = sources();
    for (path, code) in &sources {
        for (level, arguments) in log_entries(code) {
            let Some((_, event)) = arguments.split_once("event = ") else {
                let is_session_event = path.ends_with("telemetry/events/mod.rs");
                assert!(level == "debug" || is_session_event, "{path}: no event in {arguments}");
                continue;
            };
            let constant = event.split(',').next().unwrap_or_default();
            let name = quoted_after(arguments, "event = ")
                .or_else(|| quoted_after(code, &format!("const {constant}: &str = ")))
                .or_else(|| {
                    let value = format!("const {constant}: &str = ");
                    sources.iter().find_map(|(_, code)| quoted_after(code, &value))
                });
            let name = name.unwrap_or_else(|| panic!("{path}: {event}")).to_owned();
            let other = events.insert(name.clone(), level.to_owned());
            assert!(other.is_none_or(|other| other == level), "{name} has two levels");
        }
    }
    events
}

fn documented_events(section: &str) -> BTreeMap<String, String> {
    rows(section)
        .into_iter()
        .map(|row| (row[0].trim_matches('`').to_owned(), row[1].clone()))
        .collect()
}

#[test]
fn the_page_lists_every_operational_event_with_its_level() {
    let documented = documented_events("Operational events");
    assert_eq!(documented, logged_events());
    assert!(documented.len() >= 68, "only {} events found", documented.len());
}

#[test]
fn the_page_lists_every_session_event() {
    let source = read("src/telemetry/events/mod.rs");
    let names = source.lines().filter_map(|line| quoted_after(line, "=> "));
    let events: BTreeSet<String> = names.map(str::to_owned).collect();
    let documented: BTreeSet<String> = documented_events("Session events").into_keys().collect();
    assert_eq!(documented, events);
    assert_eq!(documented.len(), 22);
}

#[test]
fn the_page_lists_every_action_of_the_audit_log() {
    let logged = logged_events();
    let sources = sources();
    let code = sources.iter().filter(|(path, _)| path.contains("src/audit/"));
    let names =
        code.flat_map(|(_, code)| code.lines().filter_map(|line| quoted_after(line, ": &str = ")));
    let names = names.filter(|name| name.starts_with("audit.") && !logged.contains_key(*name));
    let actions: BTreeSet<String> = names.map(str::to_owned).collect();
    let documented: BTreeSet<String> = documented_events("Audit log").into_keys().collect();
    assert_eq!(documented, actions);
    assert_eq!(documented.len(), 4);
}

#[test]
fn the_dashboard_and_the_alerts_use_known_metrics() {
    let known: BTreeSet<String> = rows("Metrics").iter().flat_map(|row| names(&row[0])).collect();
    for file in ["config/monitoring/grafana.json", "config/monitoring/alerts.yml"] {
        let text = read(file);
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        let used: BTreeSet<&str> = text
            .match_indices("doorward_")
            .map(|(start, _)| text[start..].split(|c| !is_name(c)).next().unwrap_or_default())
            .collect();
        assert!(used.len() > 8, "{file}: {used:?}");
        let is_known = |name: &str| known.contains(name.trim_end_matches("_bucket"));
        let unknown: Vec<&str> = used.into_iter().filter(|name| !is_known(name)).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
}

#[test]
fn the_dashboard_is_valid_json_with_distinct_panels() {
    let board: serde_json::Value =
        serde_json::from_str(&read("config/monitoring/grafana.json")).expect("JSON");
    let panels = board["panels"].as_array().expect("panels");
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let queries = panel["targets"].as_array().expect("queries");
        assert!(queries.iter().all(|query| query["expr"].is_string()), "{panel}");
    }
}
