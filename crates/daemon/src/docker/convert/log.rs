//! Where the output of a container is kept: the log driver and its options.

use super::super::error::{ApiError, Result};
use naru_api::models::LogConfig;
use naru_engine::spec::LogSpec;
use naru_types::ByteSize;
use regex_lite::Regex;
use std::collections::BTreeMap;

/// Rotation that is on by default: 5 files of 20 MiB.
const DEFAULT_SIZE: u64 = 20 << 20;
const DEFAULT_FILES: u32 = 5;
/// What may wait to be written in the mode `non-blocking`, in bytes; Docker's.
const DEFAULT_QUEUE: u64 = 1_000_000;

fn bad(text: impl Into<String>) -> ApiError {
    ApiError::invalid(text)
}

/// The container's log settings over the daemon's, which count as far as the driver is the same.
pub fn merged(wire: &LogConfig, defaults: &LogConfig) -> LogConfig {
    let own = wire.config.clone().unwrap_or_default();
    if !wire.r#type.is_empty() && wire.r#type != defaults.r#type {
        return LogConfig { r#type: wire.r#type.clone(), config: Some(own) };
    }
    let mut options = defaults.config.clone().unwrap_or_default();
    options.extend(own);
    LogConfig { r#type: defaults.r#type.clone(), config: Some(options) }
}

/// Rotation and attributes of the log.
pub fn log(wire: &LogConfig, labels: &BTreeMap<String, String>, env: &[String], defaults: &LogConfig) -> Result<LogSpec> {
    let merged = merged(wire, defaults);
    let (driver, options) = (merged.r#type.as_str(), merged.config.unwrap_or_default());
    match driver {
        "none" => return Ok(LogSpec::None),
        "" | "json-file" => {}
        "local" | "journald" | "syslog" | "gelf" | "fluentd" | "awslogs" | "splunk" | "gcplogs" | "etwlogs" => {
            return Err(bad(format!("log driver {driver:?} is not built into this version; use json-file or none")));
        }
        other => return Err(bad(format!("logger: no log driver named '{other}' is registered"))),
    }
    let (mut max_size, mut max_files, mut compress) = (Some(DEFAULT_SIZE), DEFAULT_FILES, false);
    let mut queue = match options.get("mode").map(String::as_str) {
        None | Some("" | "blocking") => None,
        Some("non-blocking") => Some(DEFAULT_QUEUE),
        Some(other) => return Err(bad(format!("logger: logging mode not supported: {other}"))),
    };
    for (key, value) in &options {
        let wrong = || bad(format!("invalid value {value:?} for log opt '{key}'"));
        match key.as_str() {
            "max-size" if value == "-1" => max_size = None,
            "max-size" => match value.parse::<ByteSize>().map_err(|_| wrong())?.0 {
                0 => return Err(bad("max-size must be a positive number, or -1 for no limit")),
                size => max_size = Some(size),
            },
            "max-file" => max_files = value.parse().ok().filter(|count| (1..=10_000).contains(count)).ok_or_else(wrong)?,
            "compress" => compress = value.parse().map_err(|_| wrong())?,
            "max-buffer-size" => {
                let size = value.parse::<ByteSize>().map_err(|_| bad(format!("error parsing option {key}: invalid size: '{value}'")))?;
                let queue =
                    queue.as_mut().ok_or_else(|| bad("logger: max-buffer-size option is only supported with 'mode=non-blocking'"))?;
                *queue = size.0;
            }
            "mode" | "labels" | "env" | "labels-regex" | "env-regex" | "tag" => {}
            other => return Err(bad(format!("unknown log opt '{other}' for json-file log driver"))),
        }
    }
    Ok(LogSpec::JsonFile { max_size, max_files, compress, attrs: attributes(&options, labels, env)?, queue, options })
}

/// What each entry tells of the container.
fn attributes(options: &BTreeMap<String, String>, labels: &BTreeMap<String, String>, env: &[String]) -> Result<BTreeMap<String, String>> {
    let env: BTreeMap<&str, &str> = env.iter().filter_map(|entry| entry.split_once('=')).collect();
    let labels = labels.iter().map(|(label, value)| (label.as_str(), value.as_str())).collect();
    let mut attributes = BTreeMap::new();
    // Of what has the same name the last one counts.
    for (key, all) in [("labels", &labels), ("env", &env)] {
        let given = |key: &str| options.get(key).filter(|value| !value.is_empty());
        let pattern = format!("{key}-regex");
        let pattern = given(&pattern).map(|pattern| {
            Regex::new(pattern)
                .map_err(|error| bad(format!("failed to initialize logging driver: error parsing regexp: {pattern}: {error}")))
        });
        let pattern = pattern.transpose()?;
        let names: Vec<&str> = given(key).map(|names| names.split(',').collect()).unwrap_or_default();
        let is_wanted = |name: &str| names.contains(&name) || pattern.as_ref().is_some_and(|pattern| pattern.is_match(name));
        let wanted = all.iter().filter(|(name, _)| is_wanted(name));
        attributes.extend(wanted.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    }
    if let Some(tag) = options.get("tag") {
        naru_engine::spec::log_tag(tag, |_| Some(String::new())).map_err(bad)?;
        attributes.insert("tag".into(), tag.clone());
    }
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn parsed(options: &[(&str, &str)]) -> std::result::Result<(Option<u64>, String), String> {
        let wire = LogConfig { r#type: "json-file".into(), config: Some(map(options)) };
        let labels = map(&[("l1", "v1"), ("l2", "v2"), ("com.x", "v"), ("A1", "label"), ("empty", "")]);
        let env = ["A1=first", "A1=x", "B", "Z=", "EQ=a=b"].map(str::to_owned);
        match log(&wire, &labels, &env, &LogConfig::default()) {
            Ok(LogSpec::JsonFile { queue, attrs, .. }) => {
                let attrs: Vec<String> = attrs.iter().map(|(key, value)| format!("{key}:{value}")).collect();
                Ok((queue, attrs.join(" ")))
            }
            Ok(LogSpec::None) => panic!("a driver was named"),
            Err(error) => Err(error.message),
        }
    }

    #[test]
    fn attributes_are_chosen_by_name_and_by_pattern() {
        let chosen = |options: &[(&str, &str)]| parsed(options).unwrap().1;
        assert_eq!(chosen(&[("labels-regex", "^l"), ("labels", "com.x,empty,none")]), "com.x:v empty: l1:v1 l2:v2");
        assert_eq!(chosen(&[("env-regex", "A|EQ|Z|B"), ("env", "none")]), "A1:x EQ:a=b Z:");
        assert_eq!(chosen(&[("labels", "A1"), ("env", "A1"), ("tag", "t")]), "A1:x tag:t");
        assert_eq!(chosen(&[("labels-regex", ""), ("env-regex", ""), ("labels", ""), ("env", "")]), "");
        for pattern in ["(", "[z-a]", "(?=x)"] {
            let told = parsed(&[("env-regex", pattern)]).unwrap_err();
            assert!(told.contains("error parsing regexp"), "{told}");
        }
    }

    #[test]
    fn modes() {
        let queue = |options: &[(&str, &str)]| parsed(options).map(|parsed| parsed.0);
        assert_eq!(queue(&[]), Ok(None));
        assert_eq!(queue(&[("mode", "")]), Ok(None));
        assert_eq!(queue(&[("mode", "blocking")]), Ok(None));
        assert_eq!(queue(&[("mode", "non-blocking")]), Ok(Some(1_000_000)));
        assert_eq!(queue(&[("mode", "non-blocking"), ("max-buffer-size", "1.5k")]), Ok(Some(1536)));
        assert_eq!(queue(&[("mode", "non-blocking"), ("max-buffer-size", "0")]), Ok(Some(0)));
        for (mode, size, words) in [
            ("odd", "1k", "logger: logging mode not supported: odd"),
            ("", "1k", "logger: max-buffer-size option is only supported with 'mode=non-blocking'"),
            ("blocking", "1k", "logger: max-buffer-size option is only supported with 'mode=non-blocking'"),
            ("non-blocking", "x", "error parsing option max-buffer-size: invalid size: 'x'"),
            ("non-blocking", "-1", "error parsing option max-buffer-size: invalid size: '-1'"),
        ] {
            assert_eq!(queue(&[("mode", mode), ("max-buffer-size", size)]), Err(words.to_owned()));
        }
    }
}
