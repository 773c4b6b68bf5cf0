//! How a container shall be connected: the wire's network mode and endpoint settings become attachments.

use super::super::error::{ApiError, Result};
use super::host;
use naru_api::models::{ContainerConfig, EndpointSettings, HostConfig, NetworkingConfig};
use naru_engine::network::Networks;
use naru_engine::network::endpoint::EndpointOptions;
use naru_engine::spec::{Attachment, Given, NetworkMode, NetworkSpec};
use std::net::IpAddr;

fn bad(text: impl Into<String>) -> ApiError {
    ApiError::invalid(text)
}

/// The network part of a create request.
pub fn spec(networks: &Networks, config: &ContainerConfig, host: &HostConfig, networking: &NetworkingConfig) -> Result<NetworkSpec> {
    let mode = if config.network_disabled { NetworkMode::None } else { host::network_mode(&host.network_mode)? };
    let attachments = match &mode {
        NetworkMode::Bridge => attachments(networks, "bridge", config, networking)?,
        NetworkMode::Network(name) => attachments(networks, name, config, networking)?,
        NetworkMode::Host | NetworkMode::None | NetworkMode::Container(_) => {
            refuse_attachments(&host.network_mode, config, networking)?;
            vec![]
        }
    };
    let links = host.links.clone().unwrap_or_default();
    let attachments = place_links(&mode, attachments, &links)?;
    for line in host.extra_hosts.iter().flatten() {
        let valid = line.split_once(':').is_some_and(|(name, address)| {
            !name.is_empty()
                && !name.contains(char::is_whitespace)
                && (address == "host-gateway" || address.trim_matches(['[', ']']).parse::<IpAddr>().is_ok())
        });
        if !valid {
            return Err(bad(format!("bad format for add-host: {line:?}")));
        }
    }
    Ok(NetworkSpec {
        links: if mode == NetworkMode::Bridge { links } else { vec![] },
        mode,
        attachments,
        ports: host::ports(host)?,
        publish_all: host.publish_all_ports,
        exposed: host::exposed(config)?,
        dns: addresses(host.dns.as_ref())?,
        dns_search: host.dns_search.clone().unwrap_or_default(),
        dns_options: host.dns_options.clone().unwrap_or_default(),
        extra_hosts: host.extra_hosts.clone().unwrap_or_default(),
        none_changed: false,
    })
}

fn addresses(list: Option<&Vec<String>>) -> Result<Vec<IpAddr>> {
    list.into_iter().flatten().map(|text| text.parse().map_err(|_| bad(format!("bad format for dns: {text:?} is no IP address")))).collect()
}

/// The attachments, that of the mode's network first. A network may be named by name or id.
fn attachments(networks: &Networks, first: &str, config: &ContainerConfig, networking: &NetworkingConfig) -> Result<Vec<Attachment>> {
    let name_of = |reference: &str| match reference {
        "default" => "bridge".to_owned(),
        other => networks.find(other).map_or_else(|_| other.to_owned(), |entry| entry.record.name.clone()),
    };
    let first = name_of(first);
    let mut list = Vec::new();
    let mut own = None;
    for (reference, settings) in networking.endpoints_config.iter().flatten() {
        let name = name_of(reference);
        let settings = settings.as_ref().ok_or_else(|| bad(format!("invalid config for network {name}: EndpointsConfig is nil")))?;
        if name == "bridge" {
            check_default_bridge(config, settings)?;
        }
        let attachment = attachment(&name, settings).map_err(|error| of_network(&name, error))?;
        if let Ok(entry) = networks.find(&name) {
            let checked = entry.check_addresses(&attachment.addresses);
            checked.map_err(|error| of_network(&name, bad(error.to_string())))?;
        }
        match name == first {
            true => own = Some(attachment),
            false => list.push(attachment),
        }
    }
    let mut own = own.unwrap_or_else(|| Attachment { network: first, ..Attachment::default() });
    if let Some(mac) = parse_mac(&config.mac_address)?
        && *own.mac.get_or_insert(mac) != mac
    {
        return Err(bad(
            "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty",
        ));
    }
    list.insert(0, own);
    Ok(list)
}

/// What is wrong with an endpoint's settings is told with its network where there may be several.
fn of_network(name: &str, error: ApiError) -> ApiError {
    if error.message.starts_with(SETTINGS) { bad(format!("invalid config for network {name}: {}", error.message)) } else { error }
}

/// Names work in networks of the user's only (moby `daemon/container_operations.go`).
fn check_default_bridge(config: &ContainerConfig, settings: &EndpointSettings) -> Result<()> {
    if settings.aliases.iter().flatten().any(|alias| *alias != config.hostname) {
        return Err(bad("network-scoped aliases are only supported for user-defined networks"));
    }
    Ok(())
}

const SETTINGS: &str = "invalid endpoint settings:";

/// An endpoint's settings, as in `create` and `connect`.
pub fn attachment(network: &str, settings: &EndpointSettings) -> Result<Attachment> {
    let invalid = |what: String| bad(format!("{SETTINGS}\n{what}"));
    let ipam = settings.ipam_config.clone().unwrap_or_default();
    let mut wanted = Vec::new();
    for (text, family, ipv4) in [(&ipam.ipv4_address, "IPv4", true), (&ipam.ipv6_address, "IPv6", false)] {
        if text.is_empty() {
            continue;
        }
        match text.parse::<IpAddr>() {
            Ok(address) if address.is_ipv4() == ipv4 && !address.is_unspecified() => wanted.push(address),
            _ => return Err(invalid(format!("invalid {family} address: {text}"))),
        }
    }
    let link_local = ipam.link_local_ips.iter().flatten().map(|text| {
        let address: IpAddr = text.parse().map_err(|_| invalid(format!("invalid link-local IP address: {text}")))?;
        if address.is_unspecified() { Err(invalid(format!("invalid link-local IP address: {text}"))) } else { Ok(address) }
    });
    let options = settings.driver_opts.clone().unwrap_or_default();
    EndpointOptions::parse(&options).map_err(invalid)?;
    let links = settings.links.clone().unwrap_or_default();
    check_links(&links)?;
    Ok(Attachment {
        network: network.to_owned(),
        link_local: link_local.collect::<Result<_>>()?,
        addresses: wanted,
        aliases: settings.aliases.clone().unwrap_or_default(),
        links,
        mac: parse_mac(&settings.mac_address)?,
        options,
        gateway_priority: settings.gw_priority,
        given: Given {
            addresses: settings.ipam_config.is_some(),
            aliases: settings.aliases.is_some(),
            links: settings.links.is_some(),
            options: settings.driver_opts.is_some(),
        },
        connected: None,
    })
}

fn check_links(links: &[String]) -> Result<()> {
    for link in links {
        let parts: Vec<&str> = link.split(':').collect();
        if parts.len() > 2 || parts.iter().any(|part| part.trim_start_matches('/').is_empty()) {
            return Err(bad(format!("bad format for links: {link}")));
        }
    }
    Ok(())
}

/// `--link` belongs to the default bridge or to the mode's network; elsewhere there is nothing it could mean.
fn place_links(mode: &NetworkMode, mut attachments: Vec<Attachment>, links: &[String]) -> Result<Vec<Attachment>> {
    check_links(links)?;
    match mode {
        _ if links.is_empty() => {}
        NetworkMode::Bridge => {}
        NetworkMode::Network(_) => {
            for own in attachments.iter_mut().take(1) {
                own.links.extend(links.iter().filter(|link| !own.links.contains(link)).cloned().collect::<Vec<_>>());
            }
        }
        NetworkMode::Host => {
            return Err(bad("conflicting options: host type networking can't be used with links. This would result in undefined behavior"));
        }
        NetworkMode::Container(_) => {
            return Err(bad(
                "conflicting options: container type network can't be used with links. This would result in undefined behavior",
            ));
        }
        NetworkMode::None => return Err(bad("conflicting options: links need a network, and the container has none")),
    }
    Ok(attachments)
}

/// With `host`, `none` and another container's network there are no endpoints; clients send empty ones.
fn refuse_attachments(mode: &str, config: &ContainerConfig, networking: &NetworkingConfig) -> Result<()> {
    for (name, settings) in networking.endpoints_config.iter().flatten() {
        if name != mode {
            let text = if mode == "none" || config.network_disabled {
                "container cannot be connected to multiple networks with one of the networks in private (none) mode".to_owned()
            } else {
                format!("conflicting options: the container has network mode {mode:?} and cannot be connected to network {name:?}")
            };
            return Err(bad(text));
        }
        let wanted = attachment(name, &settings.clone().unwrap_or_default()).map_err(|error| of_network(name, error))?;
        if !wanted.addresses.is_empty() || !wanted.link_local.is_empty() {
            return Err(bad(format!(
                "invalid config for network {name}: invalid endpoint settings:\nuser specified IP address is supported on user defined networks only"
            )));
        }
        if !wanted.aliases.is_empty() {
            return Err(bad("network-scoped aliases are only supported for user-defined networks"));
        }
    }
    Ok(())
}

/// What is asked for and means nothing in the network mode; Docker takes it too.
pub fn warnings(mode: &NetworkMode, config: &ContainerConfig, host: &HostConfig, networking: &NetworkingConfig) -> Vec<String> {
    let mut list = Vec::new();
    if *mode == NetworkMode::Host && host.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty()) {
        list.push("Published ports are discarded when using host network mode".to_owned());
    }
    let own_interface = matches!(mode, NetworkMode::Bridge | NetworkMode::Network(_));
    let endpoints = networking.endpoints_config.iter().flatten().filter_map(|(_, settings)| settings.as_ref());
    if !own_interface && (!config.mac_address.is_empty() || endpoints.into_iter().any(|settings| !settings.mac_address.is_empty())) {
        list.push("The MAC address is discarded: in this network mode the container has no interface of its own".to_owned());
    }
    list
}

/// Six bytes, not a multicast address.
pub fn parse_mac(text: &str) -> Result<Option<[u8; 6]>> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || bad(format!("invalid mac address: {text:?}"));
    // Go also reads `0242.ac11.0002`.
    let parts: Vec<&str> = match text.split('.').collect::<Vec<_>>().as_slice() {
        [first, second, third] if [first, second, third].iter().all(|part| part.len() == 4 && part.is_ascii()) => {
            [first, second, third].into_iter().flat_map(|part| [&part[..2], &part[2..]]).collect()
        }
        _ => text.split([':', '-']).collect(),
    };
    let parts: Vec<u8> = parts.into_iter().map(|part| u8::from_str_radix(part, 16).map_err(|_| wrong())).collect::<Result<_>>()?;
    let mac: [u8; 6] = parts.try_into().map_err(|_| wrong())?;
    if mac[0] & 1 != 0 { Err(bad(format!("invalid mac address: {text:?} is a multicast address"))) } else { Ok(Some(mac)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naru_api::models::EndpointIpamConfig;
    use std::collections::BTreeMap;

    #[test]
    fn settings_of_an_endpoint() {
        let settings = EndpointSettings {
            ipam_config: Some(EndpointIpamConfig {
                ipv4_address: "10.0.0.9".into(),
                ipv6_address: "fd00::9".into(),
                link_local_ips: Some(vec!["169.254.8.8".into()]),
            }),
            aliases: Some(vec!["db".into()]),
            mac_address: "02:42:0a:00:00:09".into(),
            gw_priority: 3,
            ..EndpointSettings::default()
        };
        let attachment = attachment("n", &settings).unwrap();
        assert_eq!((attachment.addresses.len(), attachment.link_local.len(), attachment.gateway_priority), (2, 1, 3));
        assert_eq!(attachment.mac, Some([2, 0x42, 10, 0, 0, 9]));
    }

    #[test]
    fn what_means_nothing_is_told() {
        let host = HostConfig { port_bindings: Some(BTreeMap::from([("80/tcp".to_owned(), None)])), ..HostConfig::default() };
        let config = ContainerConfig { mac_address: "02:42:0a:00:00:09".into(), ..ContainerConfig::default() };
        let told = |mode: NetworkMode| warnings(&mode, &config, &host, &NetworkingConfig::default()).len();
        assert_eq!((told(NetworkMode::Host), told(NetworkMode::None), told(NetworkMode::Bridge)), (2, 1, 0));
    }

    #[test]
    fn what_endpoints_cannot_have() {
        let with = |change: &dyn Fn(&mut EndpointSettings)| {
            let mut settings = EndpointSettings::default();
            change(&mut settings);
            attachment("n", &settings).map(drop).unwrap_err().message
        };
        let ip = |ipv4: &str| Some(EndpointIpamConfig { ipv4_address: ipv4.into(), ..EndpointIpamConfig::default() });
        assert!(with(&|s| s.ipam_config = ip("fd00::1")).contains("invalid IPv4 address: fd00::1"));
        assert!(with(&|s| s.ipam_config = ip("0.0.0.0")).contains("invalid IPv4 address"));
        assert!(with(&|s| s.mac_address = "01:00:5e:00:00:01".into()).contains("multicast"));
        assert!(with(&|s| s.links = Some(vec!["a:b:c".into()])).contains("bad format for links"));
        assert!(with(&|s| s.driver_opts = Some(BTreeMap::from([("colour".into(), "red".into())]))).contains("is not known"));
    }

    #[test]
    fn mac_addresses() {
        assert_eq!(parse_mac("02:42:ac:11:00:02").unwrap(), Some([2, 0x42, 0xac, 0x11, 0, 2]));
        assert_eq!(parse_mac("0242.ac11.0002").unwrap(), Some([2, 0x42, 0xac, 0x11, 0, 2]));
        assert_eq!(parse_mac("").unwrap(), None);
        for bad in ["x", "01:00:00:00:00:00", "02:42:ac:11:00", "02:42:ac:11:00:02:03"] {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
    }
}
