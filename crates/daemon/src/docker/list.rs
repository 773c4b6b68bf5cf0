//! `GET /containers/json`: filters, sizes, and the status text that clients print as it is.

use super::body::{self, Response};
use super::error::{ApiError, Result};
use super::{Call, convert, inspect, networks};
use crate::App;
use jiff::Timestamp;
use naru_api::filters::Filters;
use naru_api::models;
use naru_engine::container::View;
use naru_engine::health::HealthStatus;
use naru_engine::phase::Phase;
use naru_engine::spec::{MountSource, NetworkMode};
use naru_types::ContainerId;
use std::collections::BTreeMap;
use std::sync::Arc;

const FILTERS: [&str; 15] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// `GET /containers/json`.
pub async fn containers(call: &Call) -> Result<Response> {
    let filters = Filters::parse(call.query.get("filters").unwrap_or_default())?;
    filters.validate(&FILTERS)?;
    let limit: i64 = call.number("limit")?.unwrap_or(0);
    let selection = Selection::new(&call.app, filters).await?;
    let all = call.query.boolean("all") || limit > 0 || selection.wants_stopped();
    let linked = call.app.engine.linked_names();
    let mut rows = Vec::new();
    for view in call.app.engine.containers() {
        if limit > 0 && rows.len() as i64 >= limit {
            break;
        }
        let shown = all || view.state.is_running() || matches!(view.state.phase, Phase::Restarting(_));
        if shown && !view.removed && selection.takes(&view)? {
            rows.push(summary(&call.app, &view, &linked));
        }
    }
    if call.query.boolean("size") {
        for row in &mut rows {
            let id: naru_types::ContainerId = row.id.parse()?;
            if let Ok(sizes) = call.app.engine.with_store(move |store| store.sizes(&id)).await {
                row.size_rw = i64::try_from(sizes.rw).unwrap_or(i64::MAX);
                row.size_root_fs = i64::try_from(sizes.root_fs).unwrap_or(i64::MAX);
            }
        }
    }
    Ok(body::ok(&rows))
}

/// The filters with what they refer to looked up once.
struct Selection {
    filters: Filters,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    ancestors: Vec<naru_types::Digest>,
    exited: Vec<i32>,
    /// What the filter says, and the network's name.
    networks: Vec<(String, String)>,
    published: Vec<PortRange>,
    exposed: Vec<PortRange>,
}

impl Selection {
    async fn new(app: &App, filters: Filters) -> Result<Selection> {
        let created = |key: &str| -> Result<Option<Timestamp>> {
            filters.values(key).map(|reference| Ok(app.engine.find(reference)?.view().created)).next().transpose()
        };
        let (before, since) = (created("before")?, created("since")?);
        let mut ancestors = Vec::new();
        for name in filters.values("ancestor") {
            if let Ok(image) = app.engine.image(name) {
                ancestors.push(image.id);
            }
        }
        let exited = filters
            .values("exited")
            .map(|code| code.parse().map_err(|_| ApiError::invalid(format!("invalid filter 'exited={code}'"))))
            .collect::<Result<_>>()?;
        for status in filters.values("status") {
            if !matches!(status, "created" | "running" | "paused" | "restarting" | "removing" | "exited" | "dead") {
                return Err(ApiError::invalid(format!(
                    "invalid filter 'status={status}': invalid value for state ({status}): must be one of created, running, paused, restarting, removing, exited, dead"
                )));
            }
        }
        for health in filters.values("health") {
            if !matches!(health, "starting" | "healthy" | "unhealthy" | "none") {
                return Err(ApiError::invalid(format!("invalid filter 'health={health}'")));
            }
        }
        let known = app.engine.networks();
        let networks = filters
            .values("network")
            .map(|wanted| (wanted.to_owned(), known.find(wanted).map_or_else(|_| wanted.to_owned(), |entry| entry.record.name.clone())))
            .collect();
        let ports = |key: &str| filters.values(key).map(|wanted| port_range(key, wanted)).collect::<Result<Vec<_>>>();
        let (published, exposed) = (ports("publish")?, ports("expose")?);
        Ok(Selection { filters, before, since, ancestors, exited, networks, published, exposed })
    }

    fn wants_stopped(&self) -> bool {
        self.filters.contains("status") || self.filters.contains("exited")
    }

    /// `publish` is about ports of the host, `expose` about those of the container; one that fits is enough.
    fn takes_ports(&self, view: &View) -> bool {
        if self.published.is_empty() && self.exposed.is_empty() {
            return true;
        }
        let within = |ranges: &[PortRange], port: u16, protocol: &str| {
            port > 0 && ranges.iter().any(|range| (range.first..=range.last).contains(&port) && range.protocol == protocol)
        };
        networks::ports(view)
            .iter()
            .any(|port| within(&self.published, port.public_port, &port.r#type) || within(&self.exposed, port.private_port, &port.r#type))
    }

    fn takes(&self, view: &View) -> Result<bool> {
        let filters = &self.filters;
        let any = |key: &str, holds: &dyn Fn(&str) -> bool| !filters.contains(key) || filters.values(key).any(holds);
        let health = view.health.as_ref().map_or("none", |health| health.status.as_str());
        let code = match &view.state.phase {
            Phase::Exited(exit) => Some(exit.code),
            _ => None,
        };
        Ok(any("id", &|id| view.id.as_str().starts_with(id))
            && any("name", &|pattern| name_matches(&view.name, pattern))
            && any("status", &|status| status == view.state.status())
            && any("health", &|wanted| wanted == health)
            && (!filters.contains("exited") || code.is_some_and(|code| self.exited.contains(&code)))
            && (!filters.contains("ancestor") || view.spec.image.as_ref().is_some_and(|id| self.ancestors.contains(id)))
            && self.before.is_none_or(|before| view.created < before)
            && self.since.is_none_or(|since| view.created > since)
            && (!filters.contains("before") || self.before.is_some())
            && convert::labels_match(filters, &view.spec.labels)
            && any("volume", &|wanted| volume_matches(view, wanted))
            && any("network", &|wanted| {
                self.networks.iter().any(|(key, name)| key == wanted && networks::names(view).contains(&name.as_str()))
            })
            && self.takes_ports(view)
            && any("is-task", &|wanted| !naru_api::query::boolean(wanted)))
    }
}

/// A regular expression on the name, with or without its slash; what is none is compared as text.
fn name_matches(name: &str, pattern: &str) -> bool {
    let slashed = format!("/{name}");
    match regex_lite::Regex::new(pattern) {
        Ok(regex) => regex.is_match(name) || regex.is_match(&slashed),
        Err(_) => name.contains(pattern),
    }
}

fn volume_matches(view: &View, wanted: &str) -> bool {
    view.spec.mounts.iter().any(|mount| {
        mount.target == wanted
            || match &mount.source {
                MountSource::Volume { name, .. } => name == wanted,
                MountSource::Bind { path, .. } => path.as_os_str() == wanted,
                MountSource::Tmpfs { .. } => false,
            }
    })
}

/// A value of the filters `publish` and `expose`.
struct PortRange {
    first: u16,
    last: u16,
    protocol: String,
}

/// `80`, `80/tcp`, `8000-8080/udp`.
fn port_range(key: &str, wanted: &str) -> Result<PortRange> {
    let (range, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| {
        text.parse::<u16>().map_err(|_| ApiError::invalid(format!("error while looking up for {key} {wanted}: {text:?} is no port number")))
    };
    Ok(PortRange { first: number(first)?, last: number(last)?, protocol: protocol.to_owned() })
}

/// Program and arguments as Docker joins them.
fn command(view: &View) -> String {
    let quote = |arg: &String| if arg.contains(' ') || arg.is_empty() { format!("'{arg}'") } else { arg.clone() };
    view.spec.process.args.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// The image as it was named, while that name means it; then its id.
fn image_name(app: &App, view: &View) -> String {
    let spec = &view.spec;
    match &spec.image {
        Some(id) if app.engine.image(&spec.image_name).map_or(true, |image| image.id != *id) => id.to_string(),
        _ => spec.image_name.clone(),
    }
}

/// A row of the list; `linked` are the names that containers have by the links of others.
pub fn summary(app: &App, view: &Arc<View>, linked: &BTreeMap<ContainerId, Vec<String>>) -> models::ContainerSummary {
    let spec = &view.spec;
    let settings = networks::settings(app, view);
    models::ContainerSummary {
        id: view.id.to_string(),
        names: [&view.name].into_iter().chain(linked.get(&view.id).into_iter().flatten()).map(|name| format!("/{name}")).collect(),
        image: image_name(app, view),
        image_id: spec.image.as_ref().map(ToString::to_string).unwrap_or_default(),
        command: command(view),
        created: view.created.as_second(),
        ports: networks::ports(view),
        labels: spec.labels.clone(),
        state: view.state.status().to_owned(),
        status: status(view, Timestamp::now()),
        host_config: models::SummaryHostConfig { network_mode: mode(&spec.network.mode), annotations: Some(spec.annotations.clone()) },
        network_settings: Some(models::SummaryNetworkSettings { networks: settings.networks }),
        mounts: inspect::mounts(app, view),
        ..models::ContainerSummary::default()
    }
}

fn mode(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::Bridge => "bridge".into(),
        NetworkMode::Host => "host".into(),
        NetworkMode::None => "none".into(),
        NetworkMode::Network(name) => name.clone(),
        NetworkMode::Container(reference) => format!("container:{reference}"),
    }
}

/// `Up 3 minutes (healthy)`, `Exited (0) 2 hours ago`, … (moby `daemon/container/state.go`).
pub fn status(view: &View, now: Timestamp) -> String {
    let since = |at: Timestamp| human(now.duration_since(at).as_secs());
    match &view.state.phase {
        Phase::Created => "Created".into(),
        Phase::Removing => "Removal In Progress".into(),
        Phase::Exited(exit) => format!("Exited ({}) {} ago", exit.code, since(exit.finished_at)),
        Phase::Restarting(exit) => format!("Restarting ({}) {} ago", exit.code, since(exit.finished_at)),
        Phase::Running { started_at, paused: true, .. } => format!("Up {} (Paused)", since(*started_at)),
        Phase::Running { started_at, .. } => match view.health.as_ref().map(|health| health.status) {
            None => format!("Up {}", since(*started_at)),
            Some(HealthStatus::Starting) => format!("Up {} (health: starting)", since(*started_at)),
            Some(status) => format!("Up {} ({})", since(*started_at), status.as_str()),
        },
    }
}

/// Durations as docker/go-units prints them.
fn human(seconds: i64) -> String {
    match seconds {
        ..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        120..3600 => format!("{} minutes", seconds / 60),
        3600..5400 => "About an hour".into(),
        5400..172_800 => format!("{} hours", (seconds + 1800) / 3600),
        172_800..1_209_600 => format!("{} days", seconds / 86_400),
        1_209_600..5_184_000 => format!("{} weeks", seconds / 604_800),
        5_184_000..63_072_000 => format!("{} months", seconds / 2_592_000),
        _ => format!("{} years", seconds / 31_536_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_units() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (172_799, "48 hours"),
            (172_800, "2 days"),
            (1_209_600, "2 weeks"),
        ] {
            assert_eq!(human(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn ports_of_filters() {
        let read = |text: &str| port_range("publish", text).map(|range| (range.first, range.last, range.protocol));
        assert_eq!(read("80").ok(), Some((80, 80, "tcp".to_owned())));
        assert_eq!(read("8000-8010/udp").ok(), Some((8000, 8010, "udp".to_owned())));
        for bad in ["", "x", "80-", "70000"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_match_with_and_without_slash() {
        assert!(name_matches("web1", "^/web") && name_matches("web1", "eb") && name_matches("web1", "^web1$"));
        assert!(!name_matches("web1", "^eb"));
    }
}
