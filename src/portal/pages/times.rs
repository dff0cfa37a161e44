//! Times and durations as text.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::UnixMillis;

/// A time as text, and in the format of the `datetime` attribute.
pub(super) struct DisplayTime {
    pub(super) text: String,
    pub(super) datetime: String,
}

impl DisplayTime {
    /// Formats as `23 Nov 2026, 14:05 UTC`. The time zone of the browser is unknown without a
    /// script.
    pub(super) fn absolute(at: UnixMillis) -> DisplayTime {
        DisplayTime {
            text: timestamp(at).strftime("%-d %b %Y, %H:%M UTC").to_string(),
            datetime: datetime(at),
        }
    }

    /// Formats as `3 minutes ago`.
    pub(super) fn relative(at: UnixMillis, now: UnixMillis) -> DisplayTime {
        DisplayTime { text: format_ago(now.since(at)), datetime: datetime(at) }
    }
}

fn datetime(at: UnixMillis) -> String {
    timestamp(at).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Converts a time; values beyond the calendar become its last day.
fn timestamp(at: UnixMillis) -> Timestamp {
    let millis = i64::try_from(at.0).ok();
    millis.and_then(|millis| Timestamp::from_millisecond(millis).ok()).unwrap_or(Timestamp::MAX)
}

fn format_ago(passed: Duration) -> String {
    match passed.as_secs() {
        0..60 => "less than a minute ago".to_owned(),
        seconds => format!("{} ago", format_rounded_down(seconds)),
    }
}

fn format_rounded_down(seconds: u64) -> String {
    match seconds {
        0..60 => count(seconds, "second"),
        60..3_600 => count(seconds / 60, "minute"),
        3_600..86_400 => count(seconds / 3_600, "hour"),
        86_400.. => count(seconds / 86_400, "day"),
    }
}

/// Formats a duration, rounded up: a user who waits that long must not have to wait again.
pub(in crate::portal) fn format_wait(seconds: u64) -> String {
    match seconds {
        0..=90 => count(seconds.max(1), "second"),
        91..=5_400 => count(seconds.div_ceil(60), "minute"),
        5_401.. => count(seconds.div_ceil(3_600), "hour"),
    }
}

fn count(number: u64, unit: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_795_442_700_000); // 2026-11-23T14:05:00Z

    #[test]
    fn past_times_round_down_and_future_times_show_as_now() {
        for (seconds, words) in [
            (0, "less than a minute ago"),
            (59, "less than a minute ago"),
            (60, "1 minute ago"),
            (3_599, "59 minutes ago"),
            (3_600, "1 hour ago"),
            (86_399, "23 hours ago"),
            (86_400, "1 day ago"),
            (20 * 86_400, "20 days ago"),
        ] {
            let at = NOW.minus(Duration::from_secs(seconds));
            assert_eq!(DisplayTime::relative(at, NOW).text, words);
        }
        let future = NOW.plus(Duration::from_secs(60));
        assert_eq!(DisplayTime::relative(future, NOW).text, "less than a minute ago");
    }

    #[test]
    fn displayed_wait_times_are_rounded_up() {
        for (seconds, words) in [
            (0, "1 second"),
            (1, "1 second"),
            (90, "90 seconds"),
            (91, "2 minutes"),
            (121, "3 minutes"),
            (5_400, "90 minutes"),
            (5_401, "2 hours"),
        ] {
            assert_eq!(format_wait(seconds), words);
        }
    }

    #[test]
    fn times_beyond_the_calendar_are_displayed() {
        assert_eq!(DisplayTime::absolute(UnixMillis(0)).text, "1 Jan 1970, 00:00 UTC");
        assert!(DisplayTime::absolute(UnixMillis(u64::MAX)).datetime.starts_with("9999-12-"));
    }
}
