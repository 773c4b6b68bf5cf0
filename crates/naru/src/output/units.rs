//! Sizes and durations in Docker's words.

use super::width;

/// Size with base 1000 and up to four significant digits: `1.984MB`.
pub fn human_size(bytes: f64) -> String {
    human_size_precision(bytes, 4)
}

/// Size with base 1000 and up to `precision` significant digits: `1.98MB`.
pub fn human_size_precision(bytes: f64, precision: usize) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"], precision)
}

/// Size with base 1024: `756KiB`.
pub fn bytes_size(bytes: f64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"], 4)
}

fn scaled(mut size: f64, base: f64, units: &[&str], precision: usize) -> String {
    let mut unit = 0;
    while size >= base && unit < units.len() - 1 {
        size /= base;
        unit += 1;
    }
    format!("{}{}", significant(size, precision), units[unit])
}

/// Go's `%.{n}g` for the values sizes have.
fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let text = format!("{value:.*e}", digits.saturating_sub(1));
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let limit = i32::try_from(digits).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= limit {
        let mantissa = trim_zeros(mantissa);
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let decimals = usize::try_from(limit - 1 - exponent).unwrap_or(0);
    trim_zeros(&format!("{value:.decimals$}")).to_owned()
}

fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// A duration in one rounded unit: `2 minutes`, `About an hour`.
pub fn human_duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    // Go rounds hours half up.
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// Seconds since the epoch, now.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// `2 minutes ago` for a moment in unix seconds.
pub fn ago(moment: i64) -> String {
    human_duration(now() - moment) + " ago"
}

/// Go's `time.Time.String()` in local time: `2026-11-20 23:53:47 +0000 UTC`.
pub fn local_time(moment: i64) -> String {
    match jiff::Timestamp::from_second(moment) {
        Ok(timestamp) => timestamp.to_zoned(local_zone()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string(),
        Err(_) => moment.to_string(),
    }
}

/// The zone of this machine.
pub fn local_zone() -> jiff::tz::TimeZone {
    match jiff::tz::TimeZone::system() {
        zone if zone.iana_name().is_none_or(|name| name == "Etc/UTC" || name == "Etc/Unknown") => jiff::tz::TimeZone::UTC,
        zone => zone,
    }
}

/// The first twelve digits of an id, without its algorithm.
pub fn short_id(id: &str) -> &str {
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

/// Cuts text to a number of columns, the last of which becomes an ellipsis.
pub fn ellipsis(text: &str, length: usize) -> String {
    if width::of(text) <= length {
        return text.to_owned();
    }
    if length <= 1 {
        return text.chars().take(length).collect();
    }
    let mut columns = 0;
    let kept = text.chars().take_while(|character| {
        columns += width::of_char(*character);
        columns < length
    });
    kept.chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_docker_prints_them() {
        for (bytes, four, three) in [
            (0.0, "0B", "0B"),
            (999.0, "999B", "999B"),
            (1000.0, "1kB", "1kB"),
            (1_984_172.0, "1.984MB", "1.98MB"),
            (10_000_000.0, "10MB", "10MB"),
            (123_456_789.0, "123.5MB", "123MB"),
            (999_999.0, "1000kB", "1e+03kB"),
            (2e12, "2TB", "2TB"),
        ] {
            assert_eq!(human_size(bytes), four);
            assert_eq!(human_size_precision(bytes, 3), three);
        }
        assert_eq!(bytes_size(774_144.0), "756KiB");
        assert_eq!(bytes_size(25_274_793_984.0), "23.54GiB");
    }

    #[test]
    fn durations_as_docker_says_them() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (730 * 86400, "2 years"),
        ] {
            assert_eq!(human_duration(seconds), words, "{seconds}");
        }
    }

    #[test]
    fn long_text_ends_in_an_ellipsis() {
        assert_eq!(ellipsis("abcdef", 6), "abcdef");
        assert_eq!(ellipsis("abcdefg", 6), "abcde…");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
    }
}
