//! Sizes: `"0"`, or a whole number with a unit.

/// Error of parsing a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SizeError {
    #[error("`{0}` has no unit; write \"{0}B\", \"{0}KiB\", \"{0}MiB\" or \"{0}GiB\"")]
    NoUnit(String),
    #[error("`{0}` is not a size; write a whole number and B, KiB, MiB or GiB, as in \"100MiB\"")]
    Shape(String),
    #[error("`{0}` is too large; write less, or \"0\" for no limit")]
    TooLarge(String),
}

/// Parses `0`, `512B`, `64KiB`, `100MiB` or `2GiB` into bytes.
pub(super) fn parse(text: &str) -> Result<u64, SizeError> {
    if text == "0" {
        return Ok(0);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::Shape(text.to_owned()));
    }
    let factor = bytes_of(unit, text)?;
    let bytes = number.parse().ok().and_then(|number: u64| number.checked_mul(factor));
    bytes.ok_or_else(|| SizeError::TooLarge(text.to_owned()))
}

fn bytes_of(unit: &str, text: &str) -> Result<u64, SizeError> {
    match unit {
        "B" => Ok(1),
        "KiB" => Ok(1 << 10),
        "MiB" => Ok(1 << 20),
        "GiB" => Ok(1 << 30),
        "" => Err(SizeError::NoUnit(text.to_owned())),
        _ => Err(SizeError::Shape(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_zero_or_a_whole_number_with_a_unit() {
        let table = [("0", 0), ("7B", 7), ("64KiB", 65_536), ("1MiB", 1 << 20), ("2GiB", 1 << 31)];
        for (text, bytes) in table {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn invalid_sizes_are_rejected() {
        assert_eq!(parse("100"), Err(SizeError::NoUnit("100".to_owned())));
        for text in ["", "MiB", "10MB", "1.5GiB", "-1B"] {
            assert_eq!(parse(text), Err(SizeError::Shape(text.to_owned())), "{text}");
        }
        let too_large = "18446744073709551615GiB";
        assert_eq!(parse(too_large), Err(SizeError::TooLarge(too_large.to_owned())));
    }
}
