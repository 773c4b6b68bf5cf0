//! `volume ls`

use naru_api::Query;
use naru_api::models::Volume;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::output::format::{Listing, Row};
use crate::output::units::human_size;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Show cluster volumes (swarm)
    #[arg(long, hide = true)]
    cluster: bool,
    /// Filter (dangling=true, name=, driver=, label=)
    #[arg(short = 'f', long, value_name = "filter", value_parser = crate::commands::filter)]
    filter: Vec<String>,
    /// 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Only show names
    #[arg(short = 'q', long)]
    quiet: bool,
    args: Vec<String>,
}

pub const VERB: Verb =
    verb!(Options, run, ["volume ls", "volume list"], "[OPTIONS]", "List volumes", Arguments::None, "{} volume ls -qf dangling=true");

/// Titles of the fields.
pub const HEADERS: &[(&str, &str)] = &[
    ("Name", "VOLUME NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
    ("Status", "STATUS"),
    ("Availability", "AVAILABILITY"),
    ("Group", "GROUP"),
];

async fn run(cx: Cx, options: Options) -> Result<i32> {
    if options.cluster {
        return Err(Failure::message("\"--cluster\" is only supported on a Docker daemon with swarm mode enabled"));
    }
    let filters = crate::commands::filters(&options.filter)?;
    let mut query = Query::new();
    if !filters.is_empty() {
        query.push("filters", filters.to_json());
    }
    let answer = cx.client()?.volume_list(&query).await?;
    for warning in answer.warnings.iter().flatten() {
        crate::output::error_line(&format!("WARNING: {warning}"));
    }
    let mut volumes = answer.volumes;
    volumes.sort_by(|a, b| crate::commands::natural(&a.name, &b.name));
    let format = match &options.format {
        Some(format) => format.clone(),
        None if options.quiet => String::new(),
        None => cx.config().volumes_format.clone(),
    };
    if options.quiet && matches!(format.as_str(), "" | "table") {
        let names: String = volumes.iter().map(|volume| format!("{}\n", volume.name)).collect();
        crate::output::write(names.as_bytes())?;
        return Ok(0);
    }
    let rows: Vec<Row> = volumes.iter().map(row).collect();
    let listing = Listing {
        kind: "*formatter.volumeContext",
        headers: HEADERS,
        default: "{{.Driver}}\t{{.Name}}",
        raw: Some("name: {{.Name}}\ndriver: {{.Driver}}\n"),
    };
    crate::output::write(listing.render(&format, &rows)?.as_bytes())?;
    Ok(0)
}

/// The fields of a volume in lists.
pub fn row(volume: &Volume) -> Row {
    let labels = volume.labels.clone().unwrap_or_default();
    let text: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let usage = volume.usage_data.as_ref();
    #[expect(clippy::cast_precision_loss, reason = "sizes are shown with four digits")]
    let size = usage.map_or_else(|| "N/A".to_owned(), |usage| human_size(usage.size as f64));
    Row::new([
        ("Name", volume.name.as_str().into()),
        ("Driver", volume.driver.as_str().into()),
        ("Scope", volume.scope.as_str().into()),
        ("Mountpoint", volume.mountpoint.as_str().into()),
        ("Labels", text.join(",").into()),
        ("Links", usage.map_or_else(|| "N/A".to_owned(), |usage| usage.ref_count.to_string()).into()),
        ("Size", size.into()),
        ("Status", "N/A".into()),
        ("Availability", "N/A".into()),
        ("Group", "N/A".into()),
    ])
    .with_labels(labels)
}
