//! Times and durations in the forms that Docker's wire uses.

use super::super::error::{ApiError, Result};
use jiff::Timestamp;
use naru_api::filters::Filters;

/// Go's zero time, for what has not happened.
pub const NEVER: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 with as many fraction digits as needed, as Go's RFC3339Nano.
pub fn rfc3339(at: Timestamp) -> String {
    at.to_string()
}

/// RFC 3339 with nine fraction digits, as log lines carry.
pub fn rfc3339_fixed(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
}

/// `seconds[.nanoseconds]` since 1970, the wire form of since and until.
pub fn wire(text: Option<&str>, key: &str) -> Result<Option<Timestamp>> {
    let Some(text) = text.filter(|text| !text.is_empty() && *text != "0") else { return Ok(None) };
    let bad = || ApiError::invalid(format!("invalid value for {key:?}: {text:?} is no unix time"));
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    // Nanoseconds are the end of it.
    let fraction = &fraction[..fraction.len().min(9)];
    let seconds: i64 = seconds.parse().map_err(|_| bad())?;
    let nanoseconds: i32 = format!("{fraction:0<9}").parse().map_err(|_| bad())?;
    Timestamp::new(seconds, nanoseconds).map(Some).map_err(|_| bad())
}

/// A Go duration such as `1h30m`, `500ms`, `1.5h`.
pub fn go_duration(text: &str) -> Option<std::time::Duration> {
    let mut rest = text;
    let mut total = 0.0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[end..];
    }
    std::time::Duration::try_from_secs_f64(total).ok()
}

/// A time in a filter: Go duration back from now, RFC 3339 (also only a date), unix seconds.
pub fn filter_time(text: &str) -> Option<Timestamp> {
    if let Some(back) = go_duration(text) {
        return Timestamp::now().checked_sub(back).ok();
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    if let Ok(at) = text.parse::<jiff::civil::DateTime>() {
        return at.to_zoned(jiff::tz::TimeZone::system()).ok().map(|zoned| zoned.timestamp());
    }
    wire(Some(text), "until").ok().flatten()
}

/// The `until` filter of a prune.
pub fn until_filter(filters: &Filters) -> Result<Option<Timestamp>> {
    let mut values = filters.values("until");
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(text), None) => {
            filter_time(text).map(Some).ok_or_else(|| ApiError::invalid(format!("failed to parse value as time or duration: {text:?}")))
        }
        (Some(_), Some(_)) => Err(ApiError::invalid("more than one until filter specified")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_times() {
        assert_eq!(wire(Some("1.5"), "since").unwrap().unwrap().as_nanosecond(), 1_500_000_000);
        assert_eq!(wire(Some("0"), "since").unwrap(), None);
        assert!(wire(Some("zz"), "since").is_err());
        assert_eq!(wire(Some("1.12345678912"), "since").unwrap().unwrap().as_nanosecond(), 1_123_456_789);
        assert!(wire(Some("1.x"), "since").is_err());
    }

    #[test]
    fn durations() {
        assert_eq!(go_duration("1h30m"), Some(std::time::Duration::from_secs(5400)));
        assert_eq!(go_duration("500ms"), Some(std::time::Duration::from_millis(500)));
        for bad in ["", "1", "h", "1x", "-1s", "1h30"] {
            assert_eq!(go_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn fixed_fractions() {
        assert_eq!(rfc3339_fixed(Timestamp::new(1, 5).unwrap()), "1970-01-01T00:00:01.000000005Z");
    }
}
