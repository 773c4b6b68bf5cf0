//! Moments and durations as Docker's flags write them.

use super::Parsed;

/// Go's time.ParseDuration, in nanoseconds: `1h30m`, `1.5s`, `-2ms`.
pub fn duration(text: &str) -> Parsed<i64> {
    let bad = || format!("time: invalid duration {text:?}");
    let (sign, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(|| format!("time: missing unit in duration {text:?}"))?;
        if end == 0 {
            return Err(bad());
        }
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') || number.len() > 30 {
            return Err(bad());
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
        total = total.checked_add(whole.checked_mul(scale).ok_or_else(bad)?).ok_or_else(bad)?;
        let mut place = scale;
        for digit in fraction.bytes().take(18) {
            place /= 10;
            total += i128::from(digit - b'0') * place;
        }
        rest = next;
    }
    i64::try_from(total * sign).map_err(|_| bad())
}

/// `--since` and `--until`: a duration back from now, RFC 3339 (also cut short), or unix seconds. The answer is what the
/// wire wants: unix seconds with nanoseconds.
pub fn moment(text: &str) -> Parsed<String> {
    moment_at(text, jiff::Timestamp::now())
}

fn moment_at(text: &str, now: jiff::Timestamp) -> Parsed<String> {
    // A bare 0 is the beginning of time, though Go takes it for a duration too.
    if let (true, Ok(nanos)) = (text != "0", duration(text)) {
        let then = now.as_nanosecond() - i128::from(nanos);
        return Ok(seconds(then));
    }
    let unix = text.split_once('.').map_or((text, ""), |parts| parts);
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if !unix.0.is_empty() && digits(unix.0.trim_start_matches('-')) && digits(unix.1) && !unix.0.contains("--") {
        return Ok(text.to_owned());
    }
    if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        return Ok(seconds(timestamp.as_nanosecond()));
    }
    local(text).map(seconds).ok_or_else(|| format!("failed to parse value as time or duration: {text:?}"))
}

/// RFC 3339 without a zone, or with its end cut off: local time.
fn local(text: &str) -> Option<i128> {
    let full = match text.len() {
        10 => format!("{text}T00:00:00"),
        13 => format!("{text}:00:00"),
        16 => format!("{text}:00"),
        _ => text.to_owned(),
    };
    let civil: jiff::civil::DateTime = full.parse().ok()?;
    civil.to_zoned(jiff::tz::TimeZone::system()).ok().map(|zoned| zoned.timestamp().as_nanosecond())
}

fn seconds(nanos: i128) -> String {
    format!("{}.{:09}", nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, nanos) in [
            ("1s", 1_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("1m30s", 90_000_000_000),
            ("-2ms", -2_000_000),
            ("0", 0),
            (".5s", 500_000_000),
        ] {
            assert_eq!(duration(text), Ok(nanos), "{text}");
        }
        for (text, error) in [
            ("", "time: invalid duration \"\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
            (".s", "time: invalid duration \".s\""),
        ] {
            assert_eq!(duration(text).expect_err(text), error);
        }
    }

    #[test]
    fn moments() {
        let now: jiff::Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
        for (text, expected) in [
            ("10m", "1767322445.000000000"),
            ("1767323045", "1767323045"),
            ("1767323045.5", "1767323045.5"),
            ("2026-01-02T03:04:05Z", "1767323045.000000000"),
            ("2026-01-02T03:04:05.25+01:00", "1767319445.250000000"),
        ] {
            assert_eq!(moment_at(text, now).expect(text), expected, "{text}");
        }
        assert!(moment_at("2026-01-02", now).is_ok() && moment_at("2026-01-02T03:04", now).is_ok());
        assert_eq!(moment_at("0", now).as_deref(), Ok("0"), "the beginning of time");
        assert!(moment_at("yesterday", now).is_err());
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in ".{0,30}") {
            let _ = (duration(&text), moment(&text));
        }
    }
}
