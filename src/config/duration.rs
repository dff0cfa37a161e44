//! Durations: a whole number with a unit.

use std::time::Duration;

/// Ten years. Prevents overflow in sums of times.
const MAX_DURATION: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// Error of parsing a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DurationError {
    #[error("`{0}` has no unit; write \"{0}s\", \"{0}m\", \"{0}h\" or \"{0}d\"")]
    NoUnit(String),
    #[error("`{0}` is not a duration; write a whole number and ms, s, m, h or d, as in \"30m\"")]
    Shape(String),
    #[error("`{0}` is longer than ten years; write a shorter time")]
    TooLong(String),
    #[error("`{0}` must not be zero; write \"1s\" or longer")]
    Zero(String),
}

/// Parses `500ms`, `90s`, `30m`, `12h` or `7d`.
pub(super) fn parse(text: &str) -> Result<Duration, DurationError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(DurationError::Shape(text.to_owned()));
    }
    let too_long = || DurationError::TooLong(text.to_owned());
    let number: u64 = number.parse().map_err(|_| too_long())?;
    let millis = number.checked_mul(millis_of(unit, text)?).ok_or_else(too_long)?;
    let duration = Duration::from_millis(millis);
    if duration > MAX_DURATION { Err(too_long()) } else { Ok(duration) }
}

/// Like [`parse`], but rejects zero.
pub(super) fn parse_positive(text: &str) -> Result<Duration, DurationError> {
    match parse(text)? {
        Duration::ZERO => Err(DurationError::Zero(text.to_owned())),
        duration => Ok(duration),
    }
}

fn millis_of(unit: &str, text: &str) -> Result<u64, DurationError> {
    match unit {
        "ms" => Ok(1),
        "s" => Ok(1_000),
        "m" => Ok(60_000),
        "h" => Ok(3_600_000),
        "d" => Ok(86_400_000),
        "" => Err(DurationError::NoUnit(text.to_owned())),
        _ => Err(DurationError::Shape(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_with_a_unit() {
        let table = [
            ("500ms", 500),
            ("90s", 90_000),
            ("30m", 1_800_000),
            ("12h", 43_200_000),
            ("7d", 604_800_000),
            ("0s", 0),
        ];
        for (text, millis) in table {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn a_bare_number_needs_a_unit() {
        assert_eq!(parse("30"), Err(DurationError::NoUnit("30".to_owned())));
    }

    #[test]
    fn invalid_and_overlong_durations_are_rejected() {
        for text in ["", "m", "-1s", "1.5h", "30 m", "30min", "１s", "1h30m"] {
            assert_eq!(parse(text), Err(DurationError::Shape(text.to_owned())), "{text}");
        }
        for text in ["3651d", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(parse(text), Err(DurationError::TooLong(text.to_owned())), "{text}");
        }
        assert_eq!(parse_positive("0ms"), Err(DurationError::Zero("0ms".to_owned())));
    }
}
