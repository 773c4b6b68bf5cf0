//! Devices and their rates.

use naru_api::models::{DeviceMapping, DeviceRequest, ThrottleDevice, WeightDevice};

use super::Parsed;
use crate::cli::flags::parse_bytes;

/// What one `--device` is: a device file, or a name of the Container Device Interface (`vendor/class=name`).
#[derive(Debug, Clone, PartialEq)]
pub enum Device {
    File(DeviceMapping),
    Interface(String),
}

/// One `--device`.
pub fn device(text: &str) -> Parsed<Device> {
    if let Some((kind, name)) = text.split_once('=')
        && kind.contains('/')
        && !kind.starts_with('/')
        && !name.is_empty()
    {
        return Ok(Device::Interface(text.to_owned()));
    }
    let parts: Vec<&str> = text.split(':').collect();
    let is_mode = |text: &str| {
        let mut seen = String::new();
        !text.is_empty()
            && text.chars().all(|c| {
                matches!(c, 'r' | 'w' | 'm') && !seen.contains(c) && {
                    seen.push(c);
                    true
                }
            })
    };
    let (outside, inside, permissions) = match parts.as_slice() {
        [outside] => (*outside, *outside, "rwm"),
        [outside, mode] if is_mode(mode) => (*outside, *outside, *mode),
        [outside, inside] => (*outside, *inside, "rwm"),
        [outside, inside, mode] if is_mode(mode) => (*outside, *inside, *mode),
        [_, _, mode] => return Err(format!("bad mode specified: {mode}")),
        _ => return Err(format!("bad format for path: {text}")),
    };
    if outside.is_empty() {
        return Err(format!("bad format for path: {text}"));
    }
    if !inside.starts_with('/') {
        return Err(format!("{inside} is not an absolute path"));
    }
    Ok(Device::File(DeviceMapping {
        path_on_host: outside.to_owned(),
        path_in_container: inside.to_owned(),
        cgroup_permissions: permissions.to_owned(),
    }))
}

/// The request that carries names of the Container Device Interface.
pub fn interface_request(names: Vec<String>) -> DeviceRequest {
    DeviceRequest { driver: "cdi".to_owned(), device_ids: Some(names), ..DeviceRequest::default() }
}

/// `--device-cgroup-rule`: `c 1:3 rwm`.
pub fn cgroup_rule(text: &str) -> Parsed<String> {
    let number = |text: &str| text == "*" || (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    let fine = match text.split(' ').collect::<Vec<_>>().as_slice() {
        [kind, numbers, access] => {
            matches!(*kind, "a" | "b" | "c")
                && numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
                && (1..=3).contains(&access.len())
                && access.chars().all(|c| matches!(c, 'r' | 'w' | 'm'))
        }
        _ => false,
    };
    if fine { Ok(text.to_owned()) } else { Err(format!("invalid device cgroup format '{text}'")) }
}

fn device_path(text: &str) -> Parsed<(&str, &str)> {
    match text.split_once(':') {
        Some((path, value)) if !path.is_empty() && !value.contains(':') => {
            if path.starts_with("/dev/") {
                Ok((path, value))
            } else {
                Err(format!("bad format for device path: {text}"))
            }
        }
        _ => Err(format!("bad format: {text}")),
    }
}

/// `--blkio-weight-device`.
pub fn weight(text: &str) -> Parsed<WeightDevice> {
    let (path, value) = device_path(text)?;
    match value.parse::<u16>() {
        Ok(weight) if weight == 0 || (10..=1000).contains(&weight) => Ok(WeightDevice { path: path.to_owned(), weight }),
        _ => Err(format!("invalid weight for device: {text}")),
    }
}

/// `--device-read-bps` and `--device-write-bps`.
pub fn rate_bytes(text: &str) -> Parsed<ThrottleDevice> {
    let (path, value) = device_path(text)?;
    match parse_bytes(value).ok().and_then(|rate| u64::try_from(rate).ok()) {
        Some(rate) => Ok(ThrottleDevice { path: path.to_owned(), rate }),
        None => Err(format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        )),
    }
}

/// `--device-read-iops` and `--device-write-iops`.
pub fn rate_operations(text: &str) -> Parsed<ThrottleDevice> {
    let (path, value) = device_path(text)?;
    match value.parse() {
        Ok(rate) => Ok(ThrottleDevice { path: path.to_owned(), rate }),
        Err(_) => {
            Err(format!("invalid rate for device: {text}. The correct format is <device-path>:<number>. Number must be a positive integer"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        let file = |text: &str| match device(text).expect(text) {
            Device::File(d) => format!("{} {} {}", d.path_on_host, d.path_in_container, d.cgroup_permissions),
            Device::Interface(name) => name,
        };
        for (text, expected) in [
            ("/dev/a", "/dev/a /dev/a rwm"),
            ("/dev/a:r", "/dev/a /dev/a r"),
            ("/dev/a:/dev/b", "/dev/a /dev/b rwm"),
            ("/dev/a:/dev/b:rw", "/dev/a /dev/b rw"),
            ("vendor.com/class=name", "vendor.com/class=name"),
        ] {
            assert_eq!(file(text), expected);
        }
        assert_eq!(device("/dev/a:/dev/b:x").expect_err("mode"), "bad mode specified: x");
        assert!(device("a:b:c:d").is_err() && device("").is_err() && device("/dev/a:b").is_err());
    }

    #[test]
    fn rules_and_rates() {
        assert!(cgroup_rule("c 1:3 rwm").is_ok() && cgroup_rule("a *:* m").is_ok());
        assert!(cgroup_rule("x 1:3 rwm").is_err() && cgroup_rule("c 1 rwm").is_err() && cgroup_rule("c 1:3 ").is_err());
        assert_eq!(rate_bytes("/dev/sda:1mb").expect("rate").rate, 1 << 20);
        assert_eq!(rate_operations("/dev/sda:5").expect("rate").rate, 5);
        assert_eq!(weight("/dev/sda:500").expect("weight").weight, 500);
        assert_eq!(weight("/dev/sda:5").expect_err("weight"), "invalid weight for device: /dev/sda:5");
        assert_eq!(rate_bytes("sda:5").expect_err("path"), "bad format for device path: sda:5");
        assert_eq!(rate_bytes("/dev/sda").expect_err("value"), "bad format: /dev/sda");
    }
}
