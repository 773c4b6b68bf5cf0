//! The commands: one file each, by the group they belong to.

pub mod container;
pub mod context;
pub mod image;
pub mod inspect;
pub mod manifest;
pub mod network;
pub mod registry_auth;
pub mod store;
pub mod system;
pub mod volume;

use naru_api::Filters;

use crate::cli::error::{Failure, Result};

/// One filter as a flag writes it.
pub fn filter(text: &str) -> std::result::Result<String, String> {
    if text.is_empty() || text.contains('=') { Ok(text.to_owned()) } else { Err("bad format of filter (expected name=value)".to_owned()) }
}

/// Filters as flags write them: `key=value`, several times.
pub fn filters(given: &[String]) -> Result<Filters> {
    let mut out = Filters::new();
    for text in given.iter().filter(|text| !text.is_empty()) {
        let Some((key, value)) = text.split_once('=') else {
            return Err(Failure::message(format!("invalid argument \"{text}\" for \"-f, --filter\" flag: invalid filter '{text}'")));
        };
        out.add(&key.trim().to_lowercase(), value.trim());
    }
    Ok(out)
}

/// The order of names with numbers in them: `n2` before `n10`.
pub fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    fn chunks(text: &str) -> Vec<(u64, &str)> {
        let mut out = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.starts_with(|c: char| c.is_ascii_digit());
            let end = rest.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(rest.len());
            let (chunk, tail) = rest.split_at(end);
            // Letters sort after numbers, as their characters do.
            out.push(if digits { (chunk.parse().unwrap_or(u64::MAX - 1), "") } else { (u64::MAX, chunk) });
            rest = tail;
        }
        out
    }
    chunks(a).cmp(&chunks(b)).then_with(|| a.cmp(b))
}

/// Go's `time.Time.String()` of a moment in UTC.
pub fn go_time(moment: jiff::Timestamp) -> String {
    let zoned = moment.to_zoned(jiff::tz::TimeZone::UTC);
    let nanos = moment.subsec_nanosecond();
    let fraction = if nanos == 0 { String::new() } else { format!(".{}", format!("{nanos:09}").trim_end_matches('0')) };
    format!("{}{fraction} +0000 UTC", zoned.strftime("%Y-%m-%d %H:%M:%S"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_their_numbers() {
        let mut names = vec!["n10", "n2", "a", "n2b", "10", "9"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["9", "10", "a", "n2", "n2b", "n10"]);
    }

    #[test]
    fn filters_need_a_value() {
        let parsed = filters(&["Name=a".to_owned(), "label=x=y".to_owned()]).expect("filters");
        assert_eq!(parsed.to_json(), r#"{"label":{"x=y":true},"name":{"a":true}}"#);
        assert!(filters(&["x".to_owned()]).is_err());
    }
}
