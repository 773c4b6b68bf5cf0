//! `network ls`

use naru_api::Query;

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::verb::{Arguments, Verb, verb};
use crate::output::format::{Listing, Row};
use crate::output::units::short_id;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Filter (driver=, name=, label=, type=, ...)
    #[arg(short = 'f', long, value_name = "filter", value_parser = crate::commands::filter)]
    filter: Vec<String>,
    /// 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Do not cut the output
    #[arg(long)]
    no_trunc: bool,
    /// Only show IDs
    #[arg(short = 'q', long)]
    quiet: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["network ls", "network list"],
    "[OPTIONS]",
    "List networks",
    Arguments::None,
    "{} network ls --filter driver=bridge"
);

const HEADERS: &[(&str, &str)] = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let filters = crate::commands::filters(&options.filter)?;
    let mut query = Query::new();
    if !filters.is_empty() {
        query.push("filters", filters.to_json());
    }
    let mut networks = cx.client()?.network_list(&query).await?;
    networks.sort_by(|a, b| crate::commands::natural(&a.name, &b.name));
    let format = match &options.format {
        Some(format) => format.clone(),
        None if options.quiet => String::new(),
        None => cx.config().networks_format.clone(),
    };
    let rows: Vec<Row> = networks
        .iter()
        .map(|network| {
            let labels = network.labels.clone().unwrap_or_default();
            let text: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let created = network.created.parse::<jiff::Timestamp>().map(crate::commands::go_time).unwrap_or_default();
            Row::new([
                ("ID", if options.no_trunc { network.id.as_str().into() } else { short_id(&network.id).into() }),
                ("Name", network.name.as_str().into()),
                ("Driver", network.driver.as_str().into()),
                ("Scope", network.scope.as_str().into()),
                ("IPv4", network.enable_ipv4.to_string().into()),
                ("IPv6", network.enable_ipv6.to_string().into()),
                ("Internal", network.internal.to_string().into()),
                ("Labels", text.join(",").into()),
                ("CreatedAt", created.into()),
            ])
            .with_labels(labels)
        })
        .collect();
    if options.quiet && matches!(format.as_str(), "" | "table") {
        let ids: String = rows.iter().map(|row| format!("{}\n", row.fields.get("ID").map_or("", |id| id.text()))).collect();
        crate::output::write(ids.as_bytes())?;
        return Ok(0);
    }
    let listing = Listing {
        kind: "*network.networkContext",
        headers: HEADERS,
        default: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
        raw: Some("network_id: {{.ID}}\nname: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}\n"),
    };
    crate::output::write(listing.render(&format, &rows)?.as_bytes())?;
    Ok(0)
}
