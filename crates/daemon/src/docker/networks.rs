//! Networks as objects, and a container's place on them.

use super::Call;
use super::body::{self, Response};
use super::convert::{self, time};
use super::error::{ApiError, Result};
use crate::App;
use http::StatusCode;
use naru_api::filters::Filters;
use naru_api::models;
use naru_engine::container::View;
use naru_engine::events::ObjectKind;
use naru_engine::network::endpoint::Address;
use naru_engine::network::{Endpoint, Entry, Network, NetworkRequest, Place, SubnetRequest, predefined_id};
use naru_engine::phase::Phase;
use naru_engine::spec::{Attachment, NetworkMode};
use naru_net::IpNet;
use naru_types::{Digest, ErrorKind};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

fn place(view: &View) -> Option<&Place> {
    view.run.as_ref().map(|run| &run.place)
}

/// Names of the networks a container is on.
pub fn names(view: &View) -> Vec<&str> {
    let network = &view.spec.network;
    let attachments = network.attachments.iter().map(|attachment| attachment.network.as_str());
    network.predefined().into_iter().chain(attachments).collect()
}

/// A hardware address as text.
pub fn mac_text(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The wishes of an attachment, and what came of them while the container runs.
fn endpoint_settings(view: &View, attachment: &Attachment, id: String, endpoint: Option<&Endpoint>) -> models::EndpointSettings {
    let given = attachment.given;
    let list = |items: &[String], given: bool| (given || !items.is_empty()).then(|| items.to_vec());
    let wished =
        |ipv4: bool| attachment.addresses.iter().find(|address| address.is_ipv4() == ipv4).map(ToString::to_string).unwrap_or_default();
    let mut settings = models::EndpointSettings {
        ipam_config: (given.addresses || !attachment.addresses.is_empty()).then(|| models::EndpointIpamConfig {
            ipv4_address: wished(true),
            ipv6_address: wished(false),
            link_local_ips: Some(attachment.link_local.iter().map(ToString::to_string).collect::<Vec<_>>()).filter(|list| !list.is_empty()),
        }),
        links: list(&attachment.links, given.links),
        aliases: list(&attachment.aliases, given.aliases),
        mac_address: attachment.mac.as_ref().map(mac_text).unwrap_or_default(),
        driver_opts: (given.options || !attachment.options.is_empty()).then(|| attachment.options.clone()),
        gw_priority: attachment.gateway_priority,
        network_id: id,
        ..models::EndpointSettings::default()
    };
    let Some(endpoint) = endpoint else {
        // A container that has not run on its network knows it by name only; one that has stopped keeps its names there, and
        // one that was connected has them at once.
        let is_named = settings.network_id != predefined_id("bridge") && view.spec.network.predefined().is_none();
        let has_run = has_run_on(view, attachment);
        if has_run {
            settings.mac_address.clear();
        } else {
            settings.network_id.clear();
        }
        if is_named && (has_run || attachment.connected.is_some()) {
            let names = std::iter::once(&view.name).chain(&attachment.aliases).cloned();
            settings.dns_names = Some(names.chain([view.id.short().to_owned()]).collect());
        }
        return settings;
    };
    // Where the interface alone leads out there is no gateway.
    let text = |address: Option<IpAddr>| {
        address.filter(|address| !address.is_unspecified()).map(|address| address.to_string()).unwrap_or_default()
    };
    settings.endpoint_id.clone_from(&endpoint.id);
    settings.mac_address = endpoint.mac_text();
    if let Some(Address { address, prefix, gateway }) = endpoint.address(true) {
        settings.ip_address = address.to_string();
        settings.ip_prefix_len = i64::from(*prefix);
        settings.gateway = text(*gateway);
    }
    if let Some(Address { address, prefix, gateway }) = endpoint.address(false) {
        settings.global_ipv6_address = address.to_string();
        settings.global_ipv6_prefix_len = i64::from(*prefix);
        settings.ipv6_gateway = text(*gateway);
    }
    if endpoint.network != predefined_id("bridge") {
        settings.dns_names = list(&endpoint.names, false);
    }
    settings
}

/// Whether a container that does not run has done so since it was connected.
fn has_run_on(view: &View, attachment: &Attachment) -> bool {
    let exit = match &view.state.phase {
        Phase::Created => None,
        Phase::Exited(exit) | Phase::Restarting(exit) => Some(exit),
        Phase::Running { .. } | Phase::Removing => view.state.last_exit.as_ref(),
    };
    match (attachment.connected, exit) {
        (Some(at), Some(exit)) => exit.started_at.is_some_and(|started| started > at),
        (Some(_), None) => false,
        (None, _) => view.state.phase != Phase::Created,
    }
}

/// The network part of `inspect`.
pub fn settings(app: &App, view: &View) -> models::NetworkSettings {
    let networks = app.engine.networks();
    let place = place(view);
    let mut list = BTreeMap::new();
    if let NetworkMode::Container(_) = view.spec.network.mode {
        return models::NetworkSettings::default();
    }
    if let Some(name) = view.spec.network.predefined() {
        let mut settings = endpoint_settings(view, &Attachment::default(), predefined_id(name), None);
        if view.state.is_running() {
            settings.endpoint_id = predefined_endpoint(view, name);
        }
        list.insert(name.to_owned(), settings);
    }
    for attachment in &view.spec.network.attachments {
        let entry = networks.find(&attachment.network).ok();
        let id = entry.as_ref().map(|entry| entry.record.id.clone()).unwrap_or_default();
        let endpoint = place.and_then(|place| place.endpoints.iter().find(|endpoint| endpoint.network == id));
        let name = entry.map_or_else(|| attachment.network.clone(), |entry| entry.record.name.clone());
        list.insert(name, endpoint_settings(view, attachment, id, endpoint));
    }
    let sandbox = Digest::of(view.id.as_str().as_bytes()).hex();
    let mut settings = models::NetworkSettings {
        sandbox_key: view.state.pid().map_or_else(String::new, |pid| format!("/proc/{pid}/ns/net")),
        sandbox_id: if view.state.is_running() { sandbox } else { String::new() },
        ports: port_map(view, place),
        ..models::NetworkSettings::default()
    };
    // The fields of old repeat the default bridge's.
    if let Some(bridge) = list.get("bridge").filter(|bridge| !bridge.endpoint_id.is_empty()) {
        settings.endpoint_id.clone_from(&bridge.endpoint_id);
        settings.gateway.clone_from(&bridge.gateway);
        settings.ip_address.clone_from(&bridge.ip_address);
        settings.ip_prefix_len = bridge.ip_prefix_len;
        settings.ipv6_gateway.clone_from(&bridge.ipv6_gateway);
        settings.global_ipv6_address.clone_from(&bridge.global_ipv6_address);
        settings.global_ipv6_prefix_len = bridge.global_ipv6_prefix_len;
        settings.mac_address.clone_from(&bridge.mac_address);
    }
    settings.networks = list;
    settings
}

/// Whether a container has ports to tell of: it runs, on a network through which the host would lead to them.
fn has_ports(view: &View) -> bool {
    view.state.is_running() && place(view).is_some_and(|place| place.endpoints.iter().any(|endpoint| endpoint.publishes))
}

fn port_map(view: &View, place: Option<&Place>) -> models::PortMap {
    let mut ports = BTreeMap::new();
    if !has_ports(view) {
        return ports;
    }
    for (port, protocol) in &view.spec.network.exposed {
        ports.insert(format!("{port}/{}", protocol.as_str()), None);
    }
    for port in place.iter().flat_map(|place| &place.ports) {
        let host_port = if port.is_routed() { String::new() } else { port.host_port.to_string() };
        let binding = models::PortBinding { host_ip: port.host_ip.to_string(), host_port };
        let bindings: &mut Option<Vec<_>> = ports.entry(format!("{}/{}", port.container_port, port.protocol.as_str())).or_default();
        bindings.get_or_insert_default().push(binding);
    }
    ports
}

/// The ports column of `ps`.
pub fn ports(view: &View) -> Vec<models::Port> {
    if !has_ports(view) {
        return vec![];
    }
    let published: Vec<_> = place(view).into_iter().flat_map(|place| &place.ports).collect();
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

fn wire(call: &Call, entry: &Entry, detail: bool) -> models::Network {
    let Network { id, name, driver, .. } = &entry.record;
    let record = &entry.record;
    // Those that were asked for come first, as in Docker.
    let mut subnets: Vec<_> = record.subnets.iter().collect();
    subnets.sort_by_key(|subnet| !subnet.chosen);
    let mut network = models::Network {
        name: name.clone(),
        id: id.clone(),
        created: time::rfc3339(record.created),
        scope: record.scope.clone(),
        // A configuration is no network of its own, whatever it is for.
        driver: if record.config_only { "null".into() } else { driver.as_str().into() },
        enable_ipv4: record.ipv4,
        enable_ipv6: record.ipv6,
        ipam: models::Ipam {
            driver: "default".into(),
            options: record.ipam_options.clone(),
            config: Some(subnets.into_iter().map(ipam_config).collect::<Vec<_>>())
                .filter(|list| !list.is_empty() || !record.is_predefined()),
        },
        internal: record.internal,
        attachable: record.attachable,
        config_only: record.config_only,
        config_from: models::ConfigReference { network: record.config_from.clone() },
        options: Some(record.options.clone()),
        labels: Some(record.labels.clone()),
        ..models::Network::default()
    };
    if detail {
        network.containers = containers(call, entry);
    }
    network
}

fn ipam_config(subnet: &naru_engine::network::record::Subnet) -> models::IpamConfig {
    models::IpamConfig {
        subnet: subnet.subnet.to_string(),
        ip_range: subnet.range.map(|range| range.to_string()).unwrap_or_default(),
        gateway: subnet.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
        auxiliary_addresses: Some(subnet.reserved.iter().map(|(name, address)| (name.clone(), address.to_string())).collect())
            .filter(|map: &BTreeMap<_, _>| !map.is_empty()),
    }
}

/// Who is on a network; on `host` and `none` those that run with that mode.
fn containers(call: &Call, entry: &Entry) -> BTreeMap<String, models::NetworkContainer> {
    let predefined = match entry.record.driver {
        naru_engine::network::Driver::Host => "host",
        naru_engine::network::Driver::Null => "none",
        _ => {
            let text = |address: Option<&Address>| address.map(|own| format!("{}/{}", own.address, own.prefix)).unwrap_or_default();
            let one = |member: naru_engine::network::Member| {
                let container = models::NetworkContainer {
                    name: member.container_name,
                    endpoint_id: member.endpoint.id.clone(),
                    mac_address: member.endpoint.mac_text(),
                    ipv4_address: text(member.endpoint.address(true)),
                    ipv6_address: text(member.endpoint.address(false)),
                };
                (member.container.to_string(), container)
            };
            return entry.members().into_iter().map(one).collect();
        }
    };
    let views = call.app.engine.containers();
    let on = views.iter().filter(|view| view.spec.network.predefined() == Some(predefined) && view.state.is_running());
    let one = |view: &Arc<View>| models::NetworkContainer {
        name: view.name.clone(),
        endpoint_id: predefined_endpoint(view, predefined),
        ..models::NetworkContainer::default()
    };
    on.map(|view| (view.id.to_string(), one(view))).collect()
}

/// On `host` and `none` there is nothing but a name for being there.
fn predefined_endpoint(view: &View, network: &str) -> String {
    Digest::of(format!("{} {network}", view.id).as_bytes()).hex()
}

/// `GET /networks`.
pub fn list(call: &Call) -> Result<Response> {
    let filters = Filters::parse(call.query.get("filters").unwrap_or_default())?;
    filters.validate(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    let dangling = if filters.contains("dangling") { Some(filters.boolean("dangling", false)?) } else { None };
    for kind in filters.values("type") {
        if !matches!(kind, "custom" | "builtin") {
            return Err(ApiError::invalid(format!("invalid filter: 'type'='{kind}'")));
        }
    }
    let takes = |entry: &Entry| {
        let record = &entry.record;
        let any = |key: &str, holds: &dyn Fn(&str) -> bool| !filters.contains(key) || filters.values(key).any(holds);
        any("name", &|wanted| name_matches(&record.name, wanted))
            && any("driver", &|wanted| wanted == record.driver.as_str())
            && any("id", &|wanted| record.id.starts_with(wanted))
            && any("scope", &|wanted| wanted == record.scope)
            && any("type", &|wanted| (wanted == "builtin") == record.is_predefined())
            && filters.matches_labels("label", &record.labels)
            && dangling.is_none_or(|dangling| dangling == is_dangling(entry))
    };
    let networks: Vec<models::Network> =
        call.app.engine.networks().list().iter().filter(|entry| takes(entry)).map(|entry| wire(call, entry, false)).collect();
    Ok(body::ok(&networks))
}

/// A regular expression on the name; what is none is compared as text.
pub fn name_matches(name: &str, pattern: &str) -> bool {
    regex_lite::Regex::new(pattern).map_or_else(|_| name.contains(pattern), |regex| regex.is_match(name))
}

/// A network of the user's that no container is on.
fn is_dangling(entry: &Entry) -> bool {
    !entry.record.is_predefined() && entry.is_unused()
}

/// `GET /networks/{id}`.
pub fn inspect(call: &Call, id: &str) -> Result<Response> {
    if let Some(text) = call.query.get("verbose").filter(|text| !is_go_boolean(text)) {
        return Err(ApiError::invalid(format!("invalid value for verbose: {text}: strconv.ParseBool: parsing {text:?}: invalid syntax")));
    }
    let entry = call.app.engine.networks().find(id)?;
    if call.query.get("scope").is_some_and(|scope| !scope.is_empty() && scope != entry.record.scope) {
        return Err(naru_engine::EngineError::NoSuchNetwork(id.to_owned()).into());
    }
    Ok(body::ok(&wire(call, &entry, true)))
}

fn is_go_boolean(text: &str) -> bool {
    matches!(text, "" | "1" | "t" | "T" | "true" | "TRUE" | "True" | "0" | "f" | "F" | "false" | "FALSE" | "False")
}

/// `POST /networks/create`.
pub async fn create(call: Call) -> Result<Response> {
    let app = Arc::clone(&call.app);
    let (headers, body) = call.into_body();
    let request: models::NetworkCreateRequest = body::read_json(&headers, body).await?;
    if request.ingress {
        return Err(ApiError::new(
            ErrorKind::Forbidden,
            "Ingress network can only be global scope network: it belongs to a swarm, and this node is in none",
        ));
    }
    check_configuration(&request)?;
    let ipam = request.ipam.unwrap_or_default();
    let driver_options = app.engine.networks().config().default_options.clone();
    let config_from = request.config_from.unwrap_or_default().network;
    let driver = if request.driver.is_empty() { "bridge" } else { &request.driver };
    // The options of a network that takes its configuration from another are that one's.
    let mut options = driver_options.get(driver).filter(|_| config_from.is_empty()).cloned().unwrap_or_default();
    options.extend(request.options.unwrap_or_default());
    let entry = app
        .engine
        .create_network(NetworkRequest {
            name: request.name,
            driver: request.driver,
            ipv4: request.enable_ipv4,
            ipv6: request.enable_ipv6,
            scope: request.scope,
            subnets: ipam.config.unwrap_or_default().iter().map(subnet_request).collect::<Result<_>>()?,
            ipam_driver: ipam.driver,
            ipam_options: ipam.options,
            internal: request.internal,
            attachable: request.attachable,
            config_only: request.config_only,
            config_from,
            options,
            labels: request.labels.unwrap_or_default(),
        })
        .await?;
    Ok(body::json(StatusCode::CREATED, &models::NetworkCreateResponse { id: entry.record.id.clone(), warning: String::new() }))
}

/// A configuration for others says nothing of what a network is to its host.
fn check_configuration(request: &models::NetworkCreateRequest) -> Result<()> {
    if request.config_only && (request.internal || request.attachable || !request.scope.is_empty()) {
        return Err(ApiError::new(
            ErrorKind::Forbidden,
            "configuration network can only contain network specific fields. Network operator fields like \
             [ ingress | internal | attachable | scope ] are not supported.",
        ));
    }
    Ok(())
}

fn subnet_request(config: &models::IpamConfig) -> Result<SubnetRequest> {
    let net = |what: &str, text: &str| -> Result<Option<IpNet>> {
        let wrong = |_| ApiError::invalid(format!("invalid network config:\ninvalid {what} {text}: invalid CIDR block notation"));
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(wrong) }
    };
    if config.subnet.is_empty() {
        return Err(ApiError::invalid("invalid network config:\ninvalid subnet : invalid CIDR block notation"));
    }
    let address = |what: &str, text: &str| -> Result<IpAddr> {
        text.parse().map_err(|_| ApiError::invalid(format!("invalid network config:\ninvalid {what} {text}: invalid address")))
    };
    Ok(SubnetRequest {
        subnet: net("subnet", &config.subnet)?,
        range: net("ip-range", &config.ip_range)?,
        gateway: if config.gateway.is_empty() {
            None
        } else {
            Some(address("gateway", config.gateway.split('/').next().unwrap_or_default())?)
        },
        reserved: config
            .auxiliary_addresses
            .iter()
            .flatten()
            .map(|(name, text)| Ok((name.clone(), address("auxiliary address", text)?)))
            .collect::<Result<_>>()?,
    })
}

/// `DELETE /networks/{id}`.
pub async fn remove(call: &Call, id: &str) -> Result<Response> {
    call.app.engine.remove_network(id).await?;
    Ok(body::empty(StatusCode::NO_CONTENT))
}

/// `POST /networks/{id}/connect`.
pub async fn connect(call: Call, id: &str) -> Result<Response> {
    let app = Arc::clone(&call.app);
    let (headers, body) = call.into_body();
    let request: models::NetworkConnectRequest = body::read_json(&headers, body).await?;
    check_named(&request.container)?;
    app.engine.find(&request.container)?;
    let entry = app.engine.networks().find(id)?;
    let settings = request.endpoint_config.unwrap_or_default();
    if entry.record.is_predefined() && settings.aliases.as_ref().is_some_and(|aliases| !aliases.is_empty()) {
        return Err(ApiError::invalid(
            "invalid endpoint settings:\nnetwork-scoped alias is supported only for containers in user defined networks",
        ));
    }
    let attachment = convert::network::attachment(&entry.record.name, &settings)?;
    app.engine.connect(&entry.record.id, &request.container, attachment).await?;
    Ok(body::empty(StatusCode::OK))
}

fn check_named(container: &str) -> Result<()> {
    if container.is_empty() { Err(ApiError::invalid("invalid name or ID supplied: \"\"")) } else { Ok(()) }
}

/// `POST /networks/{id}/disconnect`.
pub async fn disconnect(call: Call, id: &str) -> Result<Response> {
    let app = Arc::clone(&call.app);
    let (headers, body) = call.into_body();
    let request: models::NetworkDisconnectRequest = body::read_json(&headers, body).await?;
    check_named(&request.container)?;
    // Force is for a place whose container has gone; where there is none, there is nothing to end.
    if request.force {
        check_connected(&app, id, &request.container)?;
    }
    app.engine.disconnect(id, &request.container, request.force).await?;
    Ok(body::empty(StatusCode::OK))
}

fn check_connected(app: &Arc<App>, id: &str, container: &str) -> Result<()> {
    let entry = app.engine.networks().find(id)?;
    let member =
        |member: &naru_engine::network::Member| member.container_name == container || member.container.as_str().starts_with(container);
    if entry.members().iter().any(member) {
        return Ok(());
    }
    let Ok(found) = app.engine.find(container) else {
        return Err(ApiError::new(ErrorKind::NotFound, format!("endpoint {container} not found")));
    };
    let view = found.view();
    if view.spec.network.attachments.iter().any(|attachment| attachment.network == entry.record.name) || entry.record.is_predefined() {
        return Ok(());
    }
    let text = format!("container {} is not connected to network {}", view.id, entry.record.name);
    Err(ApiError::new(ErrorKind::Forbidden, text))
}

/// `POST /networks/prune`: those of the user's that no running container is on.
pub async fn prune(call: &Call) -> Result<Response> {
    let filters = Filters::parse(call.query.get("filters").unwrap_or_default())?;
    filters.validate(&["label", "label!", "until"])?;
    let until = time::until_filter(&filters)?;
    let Ok(_guard) = call.app.pruning.others.try_lock() else {
        return Err(ApiError::new(ErrorKind::Conflict, "a prune operation is already running"));
    };
    let mut deleted = Vec::new();
    for entry in call.app.engine.networks().list() {
        let record = &entry.record;
        // One for others to be made from is there to be used later.
        let takes = is_dangling(&entry)
            && !record.config_only
            && convert::labels_match(&filters, &record.labels)
            && until.is_none_or(|until| record.created < until);
        // Somebody may have come to it meanwhile: then it stays.
        if takes && call.app.engine.remove_network(&record.id).await.is_ok() {
            deleted.push(record.name.clone());
        }
    }
    call.app.engine.emit_prune(ObjectKind::Network, 0);
    Ok(body::ok(&models::NetworksPruneReport { networks_deleted: Some(deleted).filter(|list| !list.is_empty()) }))
}
