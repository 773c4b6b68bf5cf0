//! `ps`

use naru_api::Query;
use naru_api::models::{ContainerSummary, Port};

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::flags::parse_int;
use crate::cli::verb::{Arguments, Verb, verb};
use crate::output::format::{Listing, Row, quoted};
use crate::output::units::{ago, ellipsis, human_size, human_size_precision, local_time, short_id};
use crate::template::Value;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Show all containers (default shows just running)
    #[arg(short = 'a', long)]
    all: bool,
    /// Filter (name=, status=, label=, ancestor=, ...)
    #[arg(short = 'f', long, value_name = "filter", value_parser = crate::commands::filter)]
    filter: Vec<String>,
    /// 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show the n last created containers, in all states (default -1)
    #[arg(short = 'n', long, value_name = "int", value_parser = parse_int)]
    last: Option<i64>,
    /// Show the latest created container, in all states
    #[arg(short = 'l', long)]
    latest: bool,
    /// Do not cut the output
    #[arg(long)]
    no_trunc: bool,
    /// Only show IDs
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Show sizes
    #[arg(short = 's', long)]
    size: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["container ls", "container list", "container ps", "ps"],
    "[OPTIONS]",
    "List containers",
    Arguments::None,
    "{} ps -a\n{} ps --filter status=exited --format '{{.Names}}: {{.Status}}'"
);

/// Titles of the fields.
pub const HEADERS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
];

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let format = match &options.format {
        Some(format) => format.clone(),
        None if options.quiet => String::new(),
        None => cx.config().ps_format.clone(),
    };
    let wants_size = options.size || (!options.quiet && mentions(&format, "Size"));
    let mut query = Query::new();
    let limit = if options.latest { Some(1) } else { options.last };
    query.flag("all", options.all).flag("size", wants_size);
    if let Some(limit) = limit.filter(|&limit| limit > 0) {
        query.push("limit", limit.to_string());
    }
    let filters = crate::commands::filters(&options.filter)?;
    if !filters.is_empty() {
        query.push("filters", filters.to_json());
    }
    let containers = cx.client()?.container_list(&query).await?;
    if options.quiet && options.format.is_none() {
        let ids: String = containers.iter().map(|c| format!("{}\n", if options.no_trunc { &c.id } else { short_id(&c.id) })).collect();
        crate::output::write(ids.as_bytes())?;
        return Ok(0);
    }
    let size = if options.size { "\t{{.Size}}" } else { "" };
    let default = if options.quiet {
        "{{.ID}}".to_owned()
    } else {
        format!("{{{{.ID}}}}\t{{{{.Image}}}}\t{{{{.Command}}}}\t{{{{.RunningFor}}}}\t{{{{.Status}}}}\t{{{{.Ports}}}}\t{{{{.Names}}}}{size}")
    };
    let raw = "container_id: {{.ID}}\nimage: {{.Image}}\ncommand: {{.Command}}\ncreated_at: {{.CreatedAt}}\nstate: {{.State}}\nstatus: {{.Status}}\nnames: {{.Names}}\nlabels: {{.Labels}}\nports: {{.Ports}}\n";
    let listing = Listing { kind: "*formatter.ContainerContext", headers: HEADERS, default: &default, raw: Some(raw) };
    let rows: Vec<Row> = containers.iter().map(|container| row(container, !options.no_trunc)).collect();
    crate::output::write(listing.render(&format, &rows)?.as_bytes())?;
    Ok(0)
}

/// Whether a template names a field, or shows all of them (`json` alone does not, as with docker).
fn mentions(format: &str, field: &str) -> bool {
    format.contains(&format!(".{field}")) || format.contains("json .")
}

/// The fields of a container in lists.
pub fn row(c: &ContainerSummary, cut: bool) -> Row {
    let id = if cut { short_id(&c.id).to_owned() } else { c.id.clone() };
    let command = if cut { ellipsis(&c.command, 20) } else { c.command.clone() };
    let mut networks: Vec<&str> = c.network_settings.iter().flat_map(|settings| settings.networks.keys()).map(String::as_str).collect();
    networks.sort_unstable();
    let mounts: Vec<String> = c
        .mounts
        .iter()
        .map(|mount| {
            let name = if mount.name.is_empty() { &mount.source } else { &mount.name };
            if cut { ellipsis(name, 15) } else { name.clone() }
        })
        .collect();
    let volumes = c.mounts.iter().filter(|mount| mount.driver == "local").count();
    let labels: Vec<String> = c.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let platform = match &c.image_manifest_descriptor {
        Some(descriptor) => descriptor.platform.as_ref().map_or(Value::Null, Value::of),
        None => Value::Null,
    };
    Row::new([
        ("ID", id.into()),
        ("Names", names(&c.names, cut).into()),
        ("Image", image(c, cut).into()),
        ("Command", quoted(&command)),
        ("CreatedAt", local_time(c.created).into()),
        ("RunningFor", ago(c.created).into()),
        ("Ports", ports(&c.ports).into()),
        ("State", c.state.as_str().into()),
        ("Status", c.status.as_str().into()),
        ("Size", size(c).into()),
        ("Labels", labels.join(",").into()),
        ("Mounts", mounts.join(",").into()),
        ("LocalVolumes", volumes.to_string().into()),
        ("Networks", networks.join(",").into()),
        ("Platform", platform),
    ])
    .with_labels(c.labels.clone())
}

/// Names without their slash; links of other containers only when nothing is cut.
fn names(all: &[String], cut: bool) -> String {
    let bare: Vec<&str> = all.iter().map(|name| name.strip_prefix('/').unwrap_or(name)).collect();
    if cut && let Some(own) = bare.iter().find(|name| !name.contains('/')) {
        return (*own).to_owned();
    }
    bare.join(",")
}

fn image(c: &ContainerSummary, cut: bool) -> String {
    if c.image.is_empty() {
        return "<no image>".to_owned();
    }
    if cut {
        let short = short_id(&c.image_id);
        if c.image == c.image_id || c.image == short {
            return short.to_owned();
        }
        // A digest says nothing to the reader that the name does not.
        if let Ok(reference) = naru_types::ImageRef::parse(&c.image)
            && reference.digest.is_some()
        {
            let name = reference.familiar_name();
            return reference.tag.map_or(name.clone(), |tag| format!("{name}:{tag}"));
        }
    }
    c.image.clone()
}

fn size(c: &ContainerSummary) -> String {
    #[expect(clippy::cast_precision_loss, reason = "sizes are shown with three digits")]
    let (own, whole) = (c.size_rw as f64, c.size_root_fs as f64);
    let own = human_size_precision(own, 3);
    if c.size_root_fs > 0 { format!("{own} (virtual {})", human_size_precision(whole, 3)) } else { own }
}

/// Ports as `ps` shows them: neighbouring numbers are joined to ranges.
pub fn ports(ports: &[Port]) -> String {
    let mut sorted: Vec<&Port> = ports.iter().collect();
    sorted.sort_by(|a, b| (a.private_port, &a.ip, a.public_port, &a.r#type).cmp(&(b.private_port, &b.ip, b.public_port, &b.r#type)));
    let mut out: Vec<String> = Vec::new();
    let mut hosts: Vec<String> = Vec::new();
    // Ranges by (address, protocol): first and last private port; public ones run along.
    let mut groups: Vec<(String, u16, u16)> = Vec::new();
    for port in sorted {
        let mut key = port.r#type.clone();
        if !port.ip.is_empty() {
            if port.public_port != port.private_port {
                let host = if port.ip.contains(':') { format!("[{}]", port.ip) } else { port.ip.clone() };
                hosts.push(format!("{host}:{}->{}/{}", port.public_port, port.private_port, port.r#type));
                continue;
            }
            key = format!("{}/{}", port.ip, port.r#type);
        }
        match groups.iter_mut().find(|group| group.0 == key) {
            None => groups.push((key, port.private_port, port.private_port)),
            Some(group) if port.private_port == group.2 || port.private_port == group.2.saturating_add(1) => group.2 = port.private_port,
            Some(group) => {
                out.push(port_group(&group.0, group.1, group.2));
                (group.1, group.2) = (port.private_port, port.private_port);
            }
        }
    }
    groups.sort_by(|a, b| a.0.cmp(&b.0));
    out.extend(groups.iter().map(|(key, first, last)| port_group(key, *first, *last)));
    out.extend(hosts);
    out.join(", ")
}

fn port_group(key: &str, first: u16, last: u16) -> String {
    let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
    match key.rsplit_once('/') {
        Some((ip, protocol)) if ip.contains(':') => format!("[{ip}]:{range}->{range}/{protocol}"),
        Some((ip, protocol)) => format!("{ip}:{range}->{range}/{protocol}"),
        None => format!("{range}/{key}"),
    }
}

/// Bytes that a container occupies, for `system df`.
#[expect(clippy::cast_precision_loss, reason = "sizes are shown with four digits")]
pub fn own_size(c: &ContainerSummary) -> String {
    human_size(c.size_rw as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(ip: &str, private: u16, public: u16, kind: &str) -> Port {
        Port { ip: ip.to_owned(), private_port: private, public_port: public, r#type: kind.to_owned() }
    }

    /// As printed by `docker ps`.
    #[test]
    fn ports_are_joined() {
        for (list, expected) in [
            (vec![], ""),
            (vec![port("", 80, 0, "tcp")], "80/tcp"),
            (vec![port("0.0.0.0", 80, 8099, "tcp"), port("::", 80, 8099, "tcp")], "0.0.0.0:8099->80/tcp, [::]:8099->80/tcp"),
            (vec![port("", 81, 0, "tcp"), port("", 80, 0, "tcp"), port("", 90, 0, "tcp")], "80-81/tcp, 90/tcp"),
            (vec![port("0.0.0.0", 80, 80, "tcp"), port("0.0.0.0", 81, 81, "tcp")], "0.0.0.0:80-81->80-81/tcp"),
            (vec![port("", 53, 0, "udp"), port("", 53, 0, "tcp")], "53/tcp, 53/udp"),
        ] {
            assert_eq!(ports(&list), expected);
        }
    }

    #[test]
    fn names_of_links_are_hidden() {
        let all = ["/web".to_owned(), "/other/db".to_owned()];
        assert_eq!(names(&all, true), "web");
        assert_eq!(names(&all, false), "web,other/db");
    }
}
