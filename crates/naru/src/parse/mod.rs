//! Values of flags: from Docker's notations to wire structs. Every error is a sentence in Docker's words.

pub mod devices;
pub mod environment;
pub mod mounts;
pub mod networks;
pub mod ports;
pub mod time;

/// The result of parsing one value.
pub type Parsed<T> = Result<T, String>;

/// Splits comma-separated fields; a field may be quoted, with `""` for a quote (RFC 4180, as Go's csv reads one record).
pub fn csv(text: &str) -> Parsed<Vec<String>> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        let mut field = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next() {
                    Some('"') if chars.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(c) => field.push(c),
                    None => return Err("parse error on line 1, column 0: extraneous or missing \" in quoted-field".to_owned()),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|&c| c != ',') {
                if c == '"' {
                    return Err("parse error on line 1, column 0: bare \" in non-quoted-field".to_owned());
                }
                field.push(c);
            }
        }
        out.push(field);
        match chars.next() {
            None => return Ok(out),
            Some(',') => {}
            Some(_) => return Err("parse error on line 1, column 0: extraneous or missing \" in quoted-field".to_owned()),
        }
    }
}

/// `soft[:hard]` limits by name.
pub fn ulimit(text: &str) -> Parsed<naru_api::models::Ulimit> {
    const NAMES: &[&str] = &[
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let Some((name, value)) = text.split_once('=') else { return Err(format!("invalid ulimit argument: {text}")) };
    if !NAMES.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let parts: Vec<&str> = value.split(':').collect();
    if parts.len() > 2 {
        return Err(format!("too many limit value arguments - {value}, can only have up to two, `soft[:hard]`"));
    }
    let number = |part: &str| part.parse::<i64>().map_err(|_| format!("strconv.ParseInt: parsing {part:?}: invalid syntax"));
    let soft = number(parts[0])?;
    let hard = parts.get(1).map_or(Ok(soft), |part| number(part))?;
    // -1 is unlimited, above every number.
    if hard != -1 {
        if soft == -1 {
            return Err(format!("ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: {hard}"));
        }
        if soft > hard {
            return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
        }
    }
    Ok(naru_api::models::Ulimit { name: name.to_owned(), hard, soft })
}

/// `no`, `always`, `unless-stopped`, `on-failure[:n]`.
pub fn restart_policy(text: &str) -> Parsed<naru_api::models::RestartPolicy> {
    let (name, count) = text.split_once(':').unwrap_or((text, ""));
    if name.is_empty() && text.contains(':') {
        return Err("invalid restart policy format: no policy provided before colon".to_owned());
    }
    let maximum_retry_count = match count {
        "" => 0,
        count => count.parse().map_err(|_| "invalid restart policy format: maximum retry count must be an integer".to_owned())?,
    };
    Ok(naru_api::models::RestartPolicy { name: name.to_owned(), maximum_retry_count })
}

/// `--cpus`: a decimal number as billionths of a processor.
pub fn nano_cpus(text: &str) -> Parsed<i64> {
    let bad = || format!("failed to parse {text} as a rational number");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.len() + fraction.len() == 0 || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err("value is too precise".to_owned());
    }
    let digits = format!("{whole}{fraction:0<9}");
    digits.parse().map_err(|_| bad())
}

/// The streams of `--attach`.
pub fn attach_stream(text: &str) -> Parsed<String> {
    let lower = text.to_lowercase();
    match lower.as_str() {
        "stdin" | "stdout" | "stderr" => Ok(lower),
        _ => Err("valid streams are STDIN, STDOUT and STDERR".to_owned()),
    }
}

/// `key=value` pairs as a map; a key without value has an empty one.
pub fn key_values(pairs: &[String]) -> naru_api::models::StringMap {
    pairs
        .iter()
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

/// A label: a name, perhaps with a value.
pub fn label(text: &str) -> Parsed<String> {
    match text.split_once('=').map_or(text, |(key, _)| key) {
        "" => Err(format!("invalid label '{text}': empty name")),
        _ => Ok(text.to_owned()),
    }
}

/// `--security-opt`: old `key:value` becomes `key=value`, a seccomp profile becomes its content. The flag tells whether
/// `systempaths=unconfined` was among them.
pub fn security_options(options: &[String]) -> Parsed<(Vec<String>, bool)> {
    let mut out = Vec::new();
    let mut unconfined = false;
    for option in options {
        if option == "systempaths=unconfined" {
            unconfined = true;
            continue;
        }
        let (key, value) = match option.split_once('=').or_else(|| option.split_once(':')) {
            Some(pair) => pair,
            None if option == "no-new-privileges" => {
                out.push(option.clone());
                continue;
            }
            None => return Err(format!("Invalid --security-opt: {option:?}")),
        };
        if key == "seccomp" && value != "unconfined" && value != "builtin" {
            let text =
                std::fs::read(value).map_err(|error| format!("opening seccomp profile ({value}) failed: {}", open_error(value, &error)))?;
            let profile: crate::template::Value =
                serde_json::from_slice(&text).map_err(|error| format!("compacting json for seccomp profile ({value}) failed: {error}"))?;
            out.push(format!("seccomp={}", profile.to_json(false)));
        } else {
            out.push(format!("{key}={value}"));
        }
    }
    Ok((out, unconfined))
}

/// An image's name; errors begin with the words of Docker's clients.
pub fn reference(text: &str) -> Parsed<naru_types::ImageRef> {
    naru_types::ImageRef::parse(text).map_err(|error| error.reason)
}

/// An error of opening a file, as Go says it.
pub fn open_error(path: &str, error: &std::io::Error) -> String {
    let reason = match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::NotADirectory => "not a directory".to_owned(),
        std::io::ErrorKind::IsADirectory => return format!("read {path}: is a directory"),
        _ => error.to_string(),
    };
    format!("open {path}: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_fields() {
        assert_eq!(csv("a,b=c"), Ok(vec!["a".to_owned(), "b=c".to_owned()]));
        assert_eq!(csv("\"a,b\"\"\",c"), Ok(vec!["a,b\"".to_owned(), "c".to_owned()]));
        assert_eq!(csv(""), Ok(vec![String::new()]));
        assert!(csv("\"a").is_err() && csv("a\"b").is_err() && csv("\"a\"b").is_err());
    }

    #[test]
    fn ulimits() {
        let ok = |text: &str| ulimit(text).map(|limit| (limit.soft, limit.hard)).expect(text);
        assert_eq!((ok("nofile=1:2"), ok("core=0"), ok("memlock=-1:-1"), ok("nproc=5:-1")), ((1, 2), (0, 0), (-1, -1), (5, -1)));
        for (text, error) in [
            ("nofile", "invalid ulimit argument: nofile"),
            ("foo=1", "invalid ulimit type: foo"),
            ("nofile=1:2:3", "too many limit value arguments - 1:2:3, can only have up to two, `soft[:hard]`"),
            ("nofile=2:1", "ulimit soft limit must be less than or equal to hard limit: 2 > 1"),
        ] {
            assert_eq!(ulimit(text).expect_err(text), error);
        }
    }

    #[test]
    fn processors_and_policies() {
        for (text, nanos) in [("1", 1_000_000_000), ("0.5", 500_000_000), (".25", 250_000_000), ("1.000000001", 1_000_000_001)] {
            assert_eq!(nano_cpus(text), Ok(nanos));
        }
        assert_eq!(nano_cpus("x").expect_err("x"), "failed to parse x as a rational number");
        assert_eq!(nano_cpus("0.0000000001").expect_err("precise"), "value is too precise");
        assert_eq!(restart_policy("on-failure:3").expect("ok").maximum_retry_count, 3);
        assert!(restart_policy(":3").is_err() && restart_policy("on-failure:x").is_err());
    }

    #[test]
    fn security_options_are_normalised() {
        let parse = |options: &[&str]| security_options(&options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            parse(&["label:disable", "no-new-privileges", "systempaths=unconfined"]),
            Ok((vec!["label=disable".to_owned(), "no-new-privileges".to_owned()], true))
        );
        assert_eq!(parse(&["foo"]).expect_err("foo"), "Invalid --security-opt: \"foo\"");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "{ \"defaultAction\" : \"<x>\" }").expect("written");
        let option = format!("seccomp={}", file.path().display());
        assert_eq!(parse(&[&option]), Ok((vec!["seccomp={\"defaultAction\":\"<x>\"}".to_owned()], false)));
        assert_eq!(
            parse(&["seccomp=/nope"]).expect_err("no file"),
            "opening seccomp profile (/nope) failed: open /nope: no such file or directory"
        );
    }
}
