//! `--network` in its short and long forms, and addresses.

use naru_api::models::{EndpointIpamConfig, EndpointSettings, StringMap};

use super::Parsed;

/// A network a container joins, with its wishes there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attachment {
    pub target: String,
    pub aliases: Vec<String>,
    pub driver_options: StringMap,
    pub links: Vec<String>,
    pub ipv4: String,
    pub ipv6: String,
    pub link_local: Vec<String>,
    pub mac: String,
    pub priority: i64,
}

/// The long form has at least one `key=value`.
fn is_long(text: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices('=').any(|(at, _)| text[..at].ends_with(word) && text[at + 1..].starts_with(word))
}

/// One `--network`: a name, or `name=…,alias=…,ip=…`.
pub fn network(text: &str) -> Parsed<Attachment> {
    let mut out = Attachment::default();
    if !is_long(text) {
        out.target = text.to_owned();
        return Ok(out);
    }
    for field in super::csv(text)? {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!("invalid field {field}: must be a key=value pair"));
        };
        let value = value.trim();
        match key.trim().to_lowercase().as_str() {
            "name" => out.target = value.to_owned(),
            "alias" => out.aliases.push(value.to_owned()),
            "ip" => out.ipv4 = value.to_owned(),
            "ip6" => out.ipv6 = value.to_owned(),
            "mac-address" => out.mac = mac(value)?,
            "link-local-ip" => out.link_local.push(value.to_owned()),
            "driver-opt" => match value.split_once('=') {
                Some((key, value)) => drop(out.driver_options.insert(key.to_owned(), value.to_owned())),
                None => return Err("invalid key value pair format in driver options".to_owned()),
            },
            "gw-priority" => out.priority = value.parse().map_err(|_| format!("invalid gw-priority: {value}"))?,
            other => return Err(format!("invalid field key {other}")),
        }
    }
    if out.target.is_empty() {
        return Err("network name/id is not specified".to_owned());
    }
    Ok(out)
}

impl Attachment {
    /// The wire form.
    pub fn endpoint(&self) -> EndpointSettings {
        let list = |items: &[String]| (!items.is_empty()).then(|| items.to_vec());
        let wants_address = !self.ipv4.is_empty() || !self.ipv6.is_empty() || !self.link_local.is_empty();
        EndpointSettings {
            aliases: list(&self.aliases),
            links: list(&self.links),
            driver_opts: (!self.driver_options.is_empty()).then(|| self.driver_options.clone()),
            mac_address: self.mac.clone(),
            gw_priority: self.priority,
            ipam_config: wants_address.then(|| EndpointIpamConfig {
                ipv4_address: self.ipv4.clone(),
                ipv6_address: self.ipv6.clone(),
                link_local_ips: list(&self.link_local),
            }),
            ..EndpointSettings::default()
        }
    }
}

/// `--net-rate`: bandwidth into and out of a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NetRate {
    pub ingress: Option<String>,
    pub egress: Option<String>,
}

/// `10mbit` for both directions, or `in=10mbit,out=5mbit`.
pub fn rate(text: &str) -> Parsed<NetRate> {
    let value = |text: &str| {
        let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let known = ["", "bit", "kbit", "mbit", "gbit", "bps", "kbps", "mbps", "gbps"].contains(&text[digits..].to_lowercase().as_str());
        if digits > 0 && known {
            Ok(Some(text.to_owned()))
        } else {
            Err(format!("invalid rate {text:?}: use a number with kbit, mbit or gbit"))
        }
    };
    if !text.contains('=') {
        return Ok(NetRate { ingress: value(text)?, egress: value(text)? });
    }
    let mut rate = NetRate::default();
    for field in super::csv(text)? {
        match field.split_once('=') {
            Some(("in", one)) => rate.ingress = value(one)?,
            Some(("out", one)) => rate.egress = value(one)?,
            _ => return Err(format!("invalid field {field}: use in=RATE and out=RATE")),
        }
    }
    Ok(rate)
}

impl NetRate {
    /// The driver options of an endpoint that say the same.
    pub fn options(&self) -> StringMap {
        let both = [("naru.network.rate.in", &self.ingress), ("naru.network.rate.out", &self.egress)];
        both.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?))).collect()
    }
}

/// A MAC address of six bytes.
pub fn mac(text: &str) -> Parsed<String> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let parts: Vec<&str> = text.split(separator).collect();
    let hexadecimal = |part: &str, length| part.len() == length && part.bytes().all(|b| b.is_ascii_hexdigit());
    let groups: Vec<&str> = text.split('.').collect();
    let fine = parts.len() == 6 && parts.iter().all(|part| hexadecimal(part, 2))
        || groups.len() == 3 && groups.iter().all(|group| hexadecimal(group, 4));
    if fine { Ok(text.to_owned()) } else { Err(format!("{text} is not a valid mac address")) }
}

/// An address of `--dns` or `--ip`.
pub fn address(text: &str) -> Parsed<String> {
    match text.trim().parse::<std::net::IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => Err(format!("IP address is not correctly formatted: {text}")),
    }
}

/// A search domain; `.` stands for none.
pub fn search_domain(text: &str) -> Parsed<String> {
    let text = text.trim_matches(' ');
    let fine = text == "."
        || (text.len() < 255
            && text.trim_end_matches('.').split('.').all(|part| {
                !part.is_empty()
                    && part.len() <= 63
                    && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
                    && !part.starts_with('-')
            }));
    if fine {
        Ok(text.trim_end_matches('.').to_owned()).map(|out: String| if out.is_empty() { ".".to_owned() } else { out })
    } else {
        Err(format!("{text} is not a valid domain"))
    }
}

/// `--add-host`: `name:address`, `name=address` or `name:host-gateway`.
pub fn extra_host(text: &str) -> Parsed<String> {
    let (name, address) = text.split_once('=').or_else(|| text.split_once(':')).unwrap_or(("", ""));
    if name.is_empty() {
        return Err(format!("bad format for add-host: {text:?}"));
    }
    let address = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
    if address != "host-gateway" && address.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address in add-host: {address:?}"));
    }
    Ok(format!("{name}:{address}"))
}

/// `--link`: `container[:alias]`.
pub fn link(text: &str) -> Parsed<String> {
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [""] | [] => Err("empty string specified for links".to_owned()),
        [_] | [_, _] => Ok(text.to_owned()),
        _ => Err(format!("bad format for links: {text}")),
    }
}

/// `--sysctl`: only those that belong to a namespace.
pub fn sysctl(text: &str) -> Parsed<String> {
    const NAMES: &[&str] = &[
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let Some((name, _)) = text.split_once('=') else { return Err(format!("sysctl '{text}' is not allowed")) };
    let name = name.trim();
    if NAMES.contains(&name) || name.starts_with("net.") || name.starts_with("fs.mqueue.") {
        Ok(text.to_owned())
    } else {
        Err(format!("sysctl '{text}' is not allowed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        assert_eq!(network("front").expect("short").target, "front");
        let long =
            network("name=front,alias=a,alias=b,ip=10.0.0.2,driver-opt=k=v,mac-address=02:00:00:00:00:01,gw-priority=3").expect("long");
        assert_eq!((long.target.as_str(), long.aliases.len(), long.priority), ("front", 2, 3));
        let endpoint = long.endpoint();
        assert_eq!(endpoint.ipam_config.expect("address").ipv4_address, "10.0.0.2");
        assert_eq!(network("alias=a").expect_err("no name"), "network name/id is not specified");
        assert_eq!(network("name=x,foo=y").expect_err("key"), "invalid field key foo");
    }

    #[test]
    fn addresses_and_hosts() {
        assert_eq!(extra_host("a:1.2.3.4"), Ok("a:1.2.3.4".to_owned()));
        assert_eq!(extra_host("a=[::1]"), Ok("a:::1".to_owned()));
        assert_eq!(extra_host("a:host-gateway"), Ok("a:host-gateway".to_owned()));
        assert_eq!(extra_host("a").expect_err("format"), "bad format for add-host: \"a\"");
        assert_eq!(extra_host("a:x").expect_err("address"), "invalid IP address in add-host: \"x\"");
        assert!(mac("02-00-00-00-00-01").is_ok() && mac("02:00").is_err());
        assert_eq!(address("x").expect_err("address"), "IP address is not correctly formatted: x");
        assert!(search_domain("example.org").is_ok() && search_domain(".").is_ok() && search_domain("a b").is_err());
        assert_eq!(sysctl("kernel.x=1").expect_err("host"), "sysctl 'kernel.x=1' is not allowed");
        assert!(sysctl("net.core.somaxconn=1").is_ok() && link("a:b").is_ok() && link("a:b:c").is_err());
    }
}
