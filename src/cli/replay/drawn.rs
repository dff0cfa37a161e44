//! A summary for people.

use std::fmt::Write as _;

use crate::risk::Answer;

use super::tally::{Answers, Stop, Summary};

pub(super) fn drawn(told: &Summary) -> String {
    let mut text = String::new();
    heading(told, &mut text);
    if told.moves > 0 {
        answers(told, &mut text);
        days(told, &mut text);
        users(told, &mut text);
        stops(told, &mut text);
    }
    text + "\n" + &told.conclusion + "\n"
}

fn heading(told: &Summary, text: &mut String) {
    settings(told, text);
    bounds(told, text);
    counts(told, text);
}

fn settings(told: &Summary, text: &mut String) {
    let names = ["log_at", "renew_at", "login_at", "end_at"];
    let thresholds: Vec<String> = names
        .into_iter()
        .map(|name| match told.thresholds.get(name).copied().flatten() {
            Some(score) => format!("{name} {score}"),
            None => format!("{name} never"),
        })
        .collect();
    let thresholds = thresholds.join(", ");
    say(text, &format!("Judged again with {thresholds}, as if every route enforced it."));
}

/// What cannot be concluded from these files.
fn bounds(told: &Summary, text: &mut String) {
    say(text, "Nothing is verified here; that is `doorward audit verify`.");
    say(
        text,
        "What scored below the log_at that was in force was never written, and is missing here.",
    );
    let log = told.thresholds.get("log_at").copied().flatten();
    let (Some(log), Some(lowest)) = (log, told.lowest_score) else { return };
    if log < lowest {
        let missing = format!("what scores {log} to {} is not in them", lowest - 1);
        let line = format!(
            "The lowest score in these files is {lowest}: unless log_at was lower, {missing}."
        );
        say(text, &line);
    }
}

fn counts(told: &Summary, text: &mut String) {
    let Summary { lines, moves, enforced, bad_lines, after_a_stop, .. } = told;
    say(
        text,
        &format!(
            "lines: {lines}, of them session.moved: {moves}, where it was enforced: {enforced}"
        ),
    );
    if *bad_lines > 0 {
        let more = if *bad_lines > told.bad.len() as u64 { " …" } else { "" };
        let bad = told.bad.join(", ");
        say(text, &format!("lines that cannot be read: {bad_lines}, as {bad}{more}"));
    }
    if *after_a_stop > 0 {
        let what = "lines of sessions that would have been stopped before, not judged again";
        say(text, &format!("{what}: {after_a_stop}"));
    }
}

fn answers(told: &Summary, text: &mut String) {
    say(text, &format!("\n{:<10}{:>12}{:>14}", "answer", "as recorded", "judged again"));
    for answer in Answer::ALL {
        let word = answer.word();
        let row = format!(
            "{word:<10}{:>12}{:>14}",
            of(&told.recorded, word),
            of(&told.judged_again, word)
        );
        say(text, &row);
    }
}

fn days(told: &Summary, text: &mut String) {
    say(text, &format!("\n{:<12}{}{:>8}", "day (UTC)", heads(), "users"));
    for day in &told.days {
        say(text, &format!("{:<12}{}{:>8}", day.day, row(&day.answers), day.users));
    }
}

fn users(told: &Summary, text: &mut String) {
    say(text, &format!("\n{:<20}{}", "user, the most", heads()));
    for user in &told.users {
        say(text, &format!("{:<20}{}", user.user, row(&user.answers)));
    }
}

fn stops(told: &Summary, text: &mut String) {
    if told.stops.is_empty() {
        return;
    }
    say(text, "\nA fresh login or the end, instead of what was recorded:");
    told.stops.iter().for_each(|stop| say(text, &one(stop)));
    if told.stops_not_shown > 0 {
        say(text, &format!("  and {} more", told.stops_not_shown));
    }
}

fn one(stop: &Stop) -> String {
    let signals: Vec<String> =
        stop.signals.iter().map(|(name, weight)| format!("{name} {weight}")).collect();
    format!(
        "  {} {} {} {} (was {}) score {}: {}\n    {}\n    renewed last from {}",
        stop.at,
        stop.user,
        stop.session,
        stop.answer,
        stop.recorded,
        stop.score,
        signals.join(", "),
        stop.from,
        stop.before
    )
}

fn heads() -> String {
    Answer::ALL.iter().fold(String::new(), |mut text, answer| {
        let _ = write!(text, "{:>8}", answer.word());
        text
    })
}

fn row(answers: &Answers) -> String {
    Answer::ALL.iter().fold(String::new(), |mut text, answer| {
        let _ = write!(text, "{:>8}", of(answers, answer.word()));
        text
    })
}

fn of(answers: &Answers, word: &str) -> u64 {
    answers.get(word).copied().unwrap_or(0)
}

fn say(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}
