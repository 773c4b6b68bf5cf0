//! `--publish` and `--expose`.

use std::collections::BTreeMap;

use naru_api::models::{PortBinding, PortMap, Set};

use super::Parsed;

/// What a list of `--publish` says: exposed ports and their bindings.
pub fn publish(specs: &[String]) -> Parsed<(Set, PortMap)> {
    let mut exposed = Set::new();
    let mut bindings: BTreeMap<String, Vec<PortBinding>> = BTreeMap::new();
    for spec in specs {
        let spec = if spec.contains('=') { long_form(spec)? } else { spec.clone() };
        for (port, binding) in one(&spec)? {
            exposed.insert(port.clone(), naru_api::models::Empty {});
            bindings.entry(port).or_default().push(binding);
        }
    }
    Ok((exposed, bindings.into_iter().map(|(port, list)| (port, Some(list))).collect()))
}

/// `published=8080,target=80,protocol=tcp` as `8080:80/tcp`.
fn long_form(spec: &str) -> Parsed<String> {
    let (mut published, mut target, mut protocol) = (String::new(), String::new(), "tcp".to_owned());
    for field in super::csv(spec)? {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!("invalid simple port options: {spec} should contain only key=value pairs separated by comma(s)"));
        };
        match key {
            "published" => published = value.to_owned(),
            "target" => target = value.to_owned(),
            "protocol" => protocol = value.to_owned(),
            "mode" => {}
            _ => return Err(format!("invalid field key {key}")),
        }
    }
    Ok(format!("{published}:{target}/{protocol}"))
}

/// A range of ports: `80` or `80-90`.
fn range(text: &str) -> Option<(u16, u16)> {
    let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<u16>().ok()).flatten();
    match text.split_once('-') {
        Some((from, to)) => number(from).zip(number(to)).filter(|(from, to)| from <= to),
        None => number(text).map(|port| (port, port)),
    }
}

/// `[[ip:][hostPort]:]containerPort[/proto]`
fn one(spec: &str) -> Parsed<Vec<(String, PortBinding)>> {
    let (rest, protocol) = spec.split_once('/').unwrap_or((spec, ""));
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_lowercase() };
    let (address, container) = rest.rsplit_once(':').map_or(("", rest), |parts| parts);
    let (ip, host) = match address.rsplit_once(':') {
        Some((ip, host)) => (ip, host),
        None => ("", address),
    };
    let ip = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    if !ip.is_empty() && ip.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    if container.is_empty() {
        return Err(format!("no port specified: {spec}<empty>"));
    }
    let (first, last) = range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    let host_range = match host {
        "" => None,
        host => Some(range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?),
    };
    let count = last - first;
    if let Some((from, to)) = host_range
        && to - from != count
        && count != 0
    {
        return Err(format!("invalid ranges specified for container and host Ports: {container} and {host}"));
    }
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {protocol}"));
    }
    let binding = |offset: u16| {
        let host_port = match host_range {
            None => String::new(),
            // One container port may take any port of a range.
            Some((from, to)) if count == 0 && from != to => format!("{from}-{to}"),
            Some((from, _)) => (from + offset).to_string(),
        };
        PortBinding { host_ip: ip.to_owned(), host_port }
    };
    Ok((0..=count).map(|offset| (format!("{}/{protocol}", first + offset), binding(offset))).collect())
}

/// What Go says about the first part that is no number.
fn range_error(text: &str) -> String {
    let bad = text.split('-').find(|part| part.parse::<u16>().is_err());
    match bad {
        Some(part) => format!("strconv.ParseUint: parsing {part:?}: invalid syntax"),
        None => format!("invalid range specified for port: {text}"),
    }
}

/// Ports of `--expose`: `80`, `80-90/udp`.
pub fn expose(specs: &[String]) -> Parsed<Set> {
    let mut out = Set::new();
    for spec in specs {
        if spec.contains(':') {
            return Err(format!("invalid port format for --expose: {spec}"));
        }
        let (ports, protocol) = spec.split_once('/').unwrap_or((spec, "tcp"));
        let (first, last) =
            range(ports).ok_or_else(|| format!("invalid range format for --expose: {ports}, error: {}", range_error(ports)))?;
        out.extend((first..=last).map(|port| (format!("{port}/{}", protocol.to_lowercase()), naru_api::models::Empty {})));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(spec: &str) -> String {
        let (_, bindings) = publish(&[spec.to_owned()]).expect(spec);
        let text: Vec<String> = bindings
            .iter()
            .map(|(port, list)| {
                let list = list.as_ref().expect("bound");
                format!("{port}={}", list.iter().map(|b| format!("{}:{}", b.host_ip, b.host_port)).collect::<Vec<_>>().join("+"))
            })
            .collect();
        text.join(" ")
    }

    #[test]
    fn every_notation() {
        for (spec, expected) in [
            ("80", "80/tcp=:"),
            ("8080:80", "80/tcp=:8080"),
            ("8080:80/UDP", "80/udp=:8080"),
            ("127.0.0.1:8080:80", "80/tcp=127.0.0.1:8080"),
            ("127.0.0.1::80", "80/tcp=127.0.0.1:"),
            ("[::1]:8080:80", "80/tcp=::1:8080"),
            ("8000-8001:80-81", "80/tcp=:8000 81/tcp=:8001"),
            ("8000-9000:80", "80/tcp=:8000-9000"),
            ("80-81", "80/tcp=: 81/tcp=:"),
            ("published=8080,target=80,protocol=udp", "80/udp=:8080"),
        ] {
            assert_eq!(shown(spec), expected, "{spec}");
        }
        assert_eq!(expose(&["90-91/udp".to_owned()]).expect("range").len(), 2);
    }

    #[test]
    fn refusals_have_dockers_words() {
        for (spec, error) in [
            ("x", "invalid containerPort: x"),
            ("x:80", "invalid hostPort: x"),
            ("1.2.3:1:80", "invalid IP address: 1.2.3"),
            ("80:81-82", "invalid ranges specified for container and host Ports: 81-82 and 80"),
            ("80/foo", "invalid proto: foo"),
            ("8080:", "no port specified: 8080:<empty>"),
            ("70000", "invalid containerPort: 70000"),
        ] {
            assert_eq!(publish(&[spec.to_owned()]).expect_err(spec), error);
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(spec in "[0-9a-z:\\[\\]./=,-]{0,24}") {
            let _ = (publish(std::slice::from_ref(&spec)), expose(&[spec]));
        }
    }
}
