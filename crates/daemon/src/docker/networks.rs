//! Networks as objects, and a container's place on them.

use super::Call;
use super::body::{self, Response};
use super::convert::time;
use super::error::{ApiError, Result};
use crate::App;
use naru_api::filters::Filters;
use naru_api::models;
use naru_engine::EngineError;
use naru_engine::container::View;
use naru_engine::network::Endpoint;
use naru_engine::spec::NetworkMode;
use naru_types::Digest;
use std::collections::BTreeMap;

/// The predefined networks: name and driver.
const PREDEFINED: [(&str, &str); 3] = [("bridge", "bridge"), ("host", "host"), ("none", "null")];

/// A predefined network's id: the same on every host and start.
pub fn id_of(name: &str) -> String {
    if name.len() == 64 { name.to_owned() } else { Digest::of(format!("naru network {name}").as_bytes()).hex() }
}

fn endpoint_of(view: &View) -> Option<&Endpoint> {
    view.run.as_ref().and_then(|run| run.endpoint.as_ref())
}

fn settings_of(network: &str, endpoint: Option<&Endpoint>) -> models::EndpointSettings {
    let mut settings = models::EndpointSettings { network_id: id_of(network), ..models::EndpointSettings::default() };
    if let Some(endpoint) = endpoint {
        settings.endpoint_id.clone_from(&endpoint.id);
        settings.gateway = endpoint.gateway.to_string();
        settings.ip_address = endpoint.address.to_string();
        settings.ip_prefix_len = i64::from(endpoint.prefix);
        settings.mac_address = endpoint.mac_text();
    }
    settings
}

/// The network part of `inspect`.
pub fn settings(view: &View) -> models::NetworkSettings {
    let name = match view.spec.network.mode {
        NetworkMode::Bridge => "bridge",
        NetworkMode::Host => "host",
        NetworkMode::None => "none",
        NetworkMode::Container(_) => return models::NetworkSettings::default(),
    };
    let endpoint = endpoint_of(view);
    let mut ports: models::PortMap = BTreeMap::new();
    if view.state.is_running() {
        for (port, protocol) in &view.spec.network.exposed {
            ports.insert(format!("{port}/{}", protocol.as_str()), None);
        }
        for port in endpoint.iter().flat_map(|endpoint| &endpoint.ports) {
            let binding = models::PortBinding { host_ip: port.host_ip.to_string(), host_port: port.host_port.to_string() };
            ports.entry(format!("{}/{}", port.container_port, port.protocol.as_str())).or_default().get_or_insert_default().push(binding);
        }
    }
    let sandbox = Digest::of(view.id.as_str().as_bytes()).hex();
    let mut settings = models::NetworkSettings {
        sandbox_key: view.state.pid().map_or_else(String::new, |pid| format!("/proc/{pid}/ns/net")),
        sandbox_id: if view.state.is_running() { sandbox } else { String::new() },
        ports,
        networks: BTreeMap::from([(name.to_owned(), settings_of(name, endpoint))]),
        ..models::NetworkSettings::default()
    };
    if let Some(endpoint) = endpoint {
        settings.endpoint_id.clone_from(&endpoint.id);
        settings.gateway = endpoint.gateway.to_string();
        settings.ip_address = endpoint.address.to_string();
        settings.ip_prefix_len = i64::from(endpoint.prefix);
        settings.mac_address = endpoint.mac_text();
        settings.bridge = String::new();
    }
    settings
}

/// The ports column of `ps`.
pub fn ports(view: &View) -> Vec<models::Port> {
    if !view.state.is_running() {
        return vec![];
    }
    let published: Vec<_> = endpoint_of(view).into_iter().flat_map(|endpoint| &endpoint.ports).collect();
    let mut list: Vec<models::Port> = published
        .iter()
        .map(|port| models::Port {
            ip: port.host_ip.to_string(),
            private_port: port.container_port,
            public_port: port.host_port,
            r#type: port.protocol.as_str().into(),
        })
        .collect();
    let unpublished = view
        .spec
        .network
        .exposed
        .iter()
        .filter(|(port, protocol)| !published.iter().any(|known| known.container_port == *port && known.protocol == *protocol));
    list.extend(unpublished.map(|(port, protocol)| models::Port {
        private_port: *port,
        r#type: protocol.as_str().into(),
        ..models::Port::default()
    }));
    list
}

fn wire(app: &App, name: &str, driver: &str, detail: bool) -> models::Network {
    let mut network = models::Network {
        name: name.into(),
        id: id_of(name),
        created: time::rfc3339(app.started),
        scope: "local".into(),
        driver: driver.into(),
        enable_ipv4: true,
        ipam: models::Ipam { driver: "default".into(), options: None, config: Some(vec![]) },
        options: Some(BTreeMap::new()),
        labels: Some(BTreeMap::new()),
        ..models::Network::default()
    };
    let config = &app.engine.config().network;
    if name == "bridge" {
        network.ipam.config = Some(vec![models::IpamConfig {
            subnet: config.subnet(),
            gateway: config.gateway.to_string(),
            ..models::IpamConfig::default()
        }]);
        network.options = Some(BTreeMap::from([
            ("com.docker.network.bridge.default_bridge".to_owned(), "true".to_owned()),
            ("com.docker.network.bridge.enable_icc".to_owned(), config.icc.to_string()),
            ("com.docker.network.bridge.enable_ip_masquerade".to_owned(), config.masquerade.to_string()),
            ("com.docker.network.bridge.host_binding_ipv4".to_owned(), config.default_host_ip.to_string()),
            ("com.docker.network.bridge.name".to_owned(), config.bridge.clone()),
            ("com.docker.network.driver.mtu".to_owned(), config.mtu.to_string()),
        ]));
    }
    if detail {
        for view in app.engine.containers() {
            let on = match view.spec.network.mode {
                NetworkMode::Bridge => "bridge",
                NetworkMode::Host => "host",
                NetworkMode::None => "none",
                NetworkMode::Container(_) => continue,
            };
            if on != name || !view.state.is_running() {
                continue;
            }
            let endpoint = endpoint_of(&view);
            network.containers.insert(
                view.id.to_string(),
                models::NetworkContainer {
                    name: view.name.clone(),
                    endpoint_id: endpoint.map(|endpoint| endpoint.id.clone()).unwrap_or_default(),
                    mac_address: endpoint.map(Endpoint::mac_text).unwrap_or_default(),
                    ipv4_address: endpoint.map(|endpoint| format!("{}/{}", endpoint.address, endpoint.prefix)).unwrap_or_default(),
                    ipv6_address: String::new(),
                },
            );
        }
    }
    network
}

/// `GET /networks`.
pub fn list(call: &Call) -> Result<Response> {
    let filters = Filters::parse(call.query.get("filters").unwrap_or_default())?;
    filters.validate(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    let any = |key: &str, holds: &dyn Fn(&str) -> bool| !filters.contains(key) || filters.values(key).any(holds);
    let networks: Vec<models::Network> = PREDEFINED
        .iter()
        .filter(|(name, driver)| {
            any("name", &|wanted| name.contains(wanted))
                && any("driver", &|wanted| wanted == *driver)
                && any("id", &|wanted| id_of(name).starts_with(wanted))
                && any("scope", &|wanted| wanted == "local")
                && any("type", &|wanted| wanted == "builtin")
                && any("dangling", &|wanted| !naru_api::query::boolean(wanted))
                && !filters.contains("label")
        })
        .map(|(name, driver)| wire(&call.app, name, driver, false))
        .collect();
    Ok(body::ok(&networks))
}

fn find(id: &str) -> Result<(&'static str, &'static str)> {
    let found = PREDEFINED.iter().find(|(name, _)| *name == id || (!id.is_empty() && id_of(name).starts_with(id)));
    found.copied().ok_or_else(|| ApiError::from(EngineError::NoSuchNetwork(id.to_owned())))
}

/// `GET /networks/{id}`.
pub fn inspect(call: &Call, id: &str) -> Result<Response> {
    let (name, driver) = find(id)?;
    Ok(body::ok(&wire(&call.app, name, driver, true)))
}

/// `DELETE /networks/{id}`: the predefined ones stay.
pub fn remove(_call: &Call, id: &str) -> Result<Response> {
    let (name, _) = find(id)?;
    Err(ApiError::new(naru_types::ErrorKind::Forbidden, format!("{name} is a pre-defined network and cannot be removed")))
}
