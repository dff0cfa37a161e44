//! Renders the report as text.

use crate::risk::RiskAction;

use super::summary::{ActionCounts, Report, Stop};

pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    heading(report, &mut text);
    if report.location_changes > 0 {
        actions(report, &mut text);
        days(report, &mut text);
        users(report, &mut text);
        stops(report, &mut text);
    }
    text + "\n" + &report.conclusion + "\n"
}

fn heading(report: &Report, text: &mut String) {
    settings(report, text);
    limitations(report, text);
    counts(report, text);
}

fn settings(report: &Report, text: &mut String) {
    let names = ["log_at", "rotate_at", "login_at", "end_at"];
    let thresholds: Vec<String> = names
        .into_iter()
        .map(|name| match report.thresholds.get(name).copied().flatten() {
            Some(score) => format!("{name} {score}"),
            None => format!("{name} never"),
        })
        .collect();
    let thresholds = thresholds.join(", ");
    push_line(text, &format!("Simulated with {thresholds}, as if every route enforced them."));
}

/// Limits of the result.
fn limitations(report: &Report, text: &mut String) {
    push_line(text, "The audit log is not verified; use `doorward audit verify`.");
    push_line(text, "Scores below the log_at of that time were not logged and are missing here.");
    let log = report.thresholds.get("log_at").copied().flatten();
    let (Some(log), Some(lowest)) = (log, report.lowest_score) else { return };
    if log < lowest {
        let missing = format!("scores from {log} to {} are missing", lowest - 1);
        let line = format!(
            "The lowest score in these files is {lowest}. Unless log_at was lower, {missing}."
        );
        push_line(text, &line);
    }
}

fn counts(report: &Report, text: &mut String) {
    let Report { lines, location_changes, enforced, invalid_lines, after_stop, .. } = report;
    push_line(
        text,
        &format!(
            "lines: {lines}; location changes: {location_changes}; of these enforced: {enforced}"
        ),
    );
    if *invalid_lines > 0 {
        let more = if *invalid_lines > report.invalid.len() as u64 { " …" } else { "" };
        let positions = report.invalid.join(", ");
        push_line(text, &format!("invalid lines: {invalid_lines}: {positions}{more}"));
    }
    if *after_stop > 0 {
        push_line(
            text,
            &format!("location changes after the session was stopped, not scored: {after_stop}"),
        );
    }
}

fn actions(report: &Report, text: &mut String) {
    push_line(text, &format!("\n{:<10}{:>12}{:>14}", "action", "recorded", "simulated"));
    for action in RiskAction::ALL {
        let action = action.as_str();
        let (recorded, simulated) =
            (count(&report.recorded, action), count(&report.simulated, action));
        push_line(text, &format!("{action:<10}{recorded:>12}{simulated:>14}"));
    }
}

fn days(report: &Report, text: &mut String) {
    push_line(text, &format!("\n{:<12}{}{:>8}", "day (UTC)", column_headings(), "users"));
    for day in &report.days {
        push_line(text, &format!("{:<12}{}{:>8}", day.day, row(&day.actions), day.users));
    }
}

fn users(report: &Report, text: &mut String) {
    push_line(text, &format!("\n{:<20}{}", "most affected user", column_headings()));
    for user in &report.users {
        push_line(text, &format!("{:<20}{}", user.user, row(&user.actions)));
    }
}

fn stops(report: &Report, text: &mut String) {
    if report.stops.is_empty() {
        return;
    }
    push_line(text, "\nReauthentications and ended sessions:");
    report.stops.iter().for_each(|stop| push_line(text, &describe(stop)));
    if report.stops_omitted > 0 {
        push_line(text, &format!("  and {} more", report.stops_omitted));
    }
}

fn describe(stop: &Stop) -> String {
    let signals: Vec<String> =
        stop.signals.iter().map(|(name, weight)| format!("{name} {weight}")).collect();
    format!(
        "  {} {} {} {} (recorded: {}) score {}: {}\n    from {}\n    before {}",
        stop.at,
        stop.user,
        stop.session,
        stop.action,
        stop.recorded,
        stop.score,
        signals.join(", "),
        stop.from,
        stop.previous
    )
}

fn column_headings() -> String {
    RiskAction::ALL.iter().map(|action| format!("{:>8}", action.as_str())).collect()
}

fn row(counts: &ActionCounts) -> String {
    RiskAction::ALL.iter().map(|action| format!("{:>8}", count(counts, action.as_str()))).collect()
}

fn count(counts: &ActionCounts, action: &str) -> u64 {
    counts.get(action).copied().unwrap_or(0)
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}
