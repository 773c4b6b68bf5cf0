//! `system df`

use naru_api::Query;
use naru_api::models::{BuildCacheRecord, ContainerSummary, DiskUsage};

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::verb::{Arguments, Verb, verb};
use crate::commands::{container, image, volume};
use crate::output::format::{Listing, Row, render_object};
use crate::output::units::{ago, human_size, short_id};
use crate::template::Value;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show each object
    #[arg(short = 'v', long)]
    verbose: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(Options, run, ["system df"], "[OPTIONS]", "Show docker disk usage", Arguments::None, "{} system df -v");

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let usage = cx.client()?.disk_usage(&Query::new()).await?;
    let format = options.format.as_deref().unwrap_or_default();
    let text = if options.verbose { verbose(&usage, format)? } else { summary(&usage, format)? };
    crate::output::write(text.as_bytes())?;
    Ok(0)
}

#[expect(clippy::cast_precision_loss, reason = "sizes are shown with four digits")]
fn share(part: i64, whole: i64) -> String {
    let amount = human_size(part.max(0) as f64);
    if whole > 0 { format!("{amount} ({}%)", part.max(0) * 100 / whole) } else { amount }
}

fn is_active(c: &ContainerSummary) -> bool {
    matches!(c.state.as_str(), "running" | "paused" | "restarting")
}

#[expect(clippy::cast_precision_loss, reason = "sizes are shown with four digits")]
fn summary(usage: &DiskUsage, format: &str) -> Result<String> {
    let row = |kind: &str, total: usize, active: usize, size: i64, reclaimable: String| {
        Row::new([
            ("Type", kind.into()),
            ("TotalCount", total.to_string().into()),
            ("Active", active.to_string().into()),
            ("Size", human_size(size as f64).into()),
            ("Reclaimable", reclaimable.into()),
        ])
    };
    let images = usage.images.as_deref().unwrap_or_default();
    let used: i64 = images
        .iter()
        .filter(|image| image.containers != 0 && image.size != -1 && image.shared_size != -1)
        .map(|image| image.size - image.shared_size)
        .sum();
    let containers = usage.containers.as_deref().unwrap_or_default();
    let container_size: i64 = containers.iter().map(|c| c.size_rw).sum();
    let container_free: i64 = containers.iter().filter(|c| !is_active(c)).map(|c| c.size_rw).sum();
    let volumes = usage.volumes.as_deref().unwrap_or_default();
    let volume_data = || volumes.iter().filter_map(|volume| volume.usage_data.as_ref()).filter(|data| data.size != -1);
    let volume_size: i64 = volume_data().map(|data| data.size).sum();
    let volume_free: i64 = volume_data().filter(|data| data.ref_count == 0).map(|data| data.size).sum();
    let linked = volumes.iter().filter(|volume| volume.usage_data.as_ref().is_some_and(|data| data.ref_count > 0)).count();
    let caches = usage.build_cache.as_deref().unwrap_or_default();
    let cache_size: i64 = caches.iter().filter(|cache| !cache.shared).map(|cache| cache.size).sum();
    let cache_used: i64 = caches.iter().filter(|cache| cache.in_use && !cache.shared).map(|cache| cache.size).sum();
    let rows = [
        row(
            "Images",
            images.len(),
            images.iter().filter(|image| image.containers > 0).count(),
            usage.layers_size,
            share(usage.layers_size - used, usage.layers_size),
        ),
        row(
            "Containers",
            containers.len(),
            containers.iter().filter(|c| is_active(c)).count(),
            container_size,
            share(container_free, container_size),
        ),
        row("Local Volumes", volumes.len(), linked, volume_size, share(volume_free, volume_size)),
        row(
            "Build Cache",
            caches.len(),
            caches.iter().filter(|cache| cache.in_use).count(),
            cache_size,
            human_size((cache_size - cache_used).max(0) as f64),
        ),
    ];
    Listing {
        kind: "*formatter.diskUsageContext",
        headers: &[("Type", "TYPE"), ("TotalCount", "TOTAL"), ("Active", "ACTIVE"), ("Size", "SIZE"), ("Reclaimable", "RECLAIMABLE")],
        default: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
        raw: None,
    }
    .render(format, &rows)
}

#[expect(clippy::cast_precision_loss, reason = "sizes are shown with four digits")]
fn verbose(usage: &DiskUsage, format: &str) -> Result<String> {
    let images = usage.images.as_deref().unwrap_or_default();
    let image_rows: Vec<Row> =
        image::list::entries(images, false).into_iter().map(|(entry, name)| image::list::row(entry, &name, true)).collect();
    let containers = usage.containers.as_deref().unwrap_or_default();
    let container_rows: Vec<Row> = containers
        .iter()
        .map(|c| {
            let mut row = container::list::row(c, true);
            if let Value::Map(fields) = &mut row.fields {
                for (name, value) in fields.iter_mut() {
                    if name == "Size" {
                        *value = container::list::own_size(c).into();
                    }
                }
            }
            row
        })
        .collect();
    let volumes = usage.volumes.as_deref().unwrap_or_default();
    let volume_rows: Vec<Row> = volumes.iter().map(volume::list::row).collect();
    let caches = usage.build_cache.as_deref().unwrap_or_default();
    let cache_rows: Vec<Row> = caches.iter().map(cache_row).collect();
    if !matches!(format, "" | "table") {
        let list = |rows: &[Row]| Value::List(rows.iter().map(|row| row.fields.clone()).collect());
        let all = Value::Map(vec![
            ("Images".to_owned(), list(&image_rows)),
            ("Containers".to_owned(), list(&container_rows)),
            ("Volumes".to_owned(), list(&volume_rows)),
            ("BuildCache".to_owned(), list(&cache_rows)),
        ]);
        return render_object(format, &all);
    }
    let table = |kind, headers, default: &str, rows: &[Row]| Listing { kind, headers, default, raw: None }.render("", rows);
    let cache_size: i64 = caches.iter().filter(|cache| !cache.shared).map(|cache| cache.size).sum();
    Ok(format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}\nBuild cache usage: {}\n\n{}\n",
        table(
            "*formatter.imageContext",
            image::list::HEADERS,
            "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
            &image_rows
        )?,
        table(
            "*formatter.ContainerContext",
            container::list::HEADERS,
            "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}",
            &container_rows
        )?
        .replacen("CREATED AT", "CREATED", 1),
        table("*formatter.volumeContext", volume::list::HEADERS, "{{.Name}}\t{{.Links}}\t{{.Size}}", &volume_rows)?,
        human_size(cache_size as f64),
        table(
            "*formatter.buildCacheContext",
            &[
                ("ID", "CACHE ID"),
                ("CacheType", "CACHE TYPE"),
                ("Size", "SIZE"),
                ("CreatedSince", "CREATED"),
                ("LastUsedSince", "LAST USED"),
                ("UsageCount", "USAGE"),
                ("Shared", "SHARED"),
            ],
            "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}",
            &cache_rows
        )?,
    ))
}

#[expect(clippy::cast_precision_loss, reason = "sizes are shown with four digits")]
fn cache_row(cache: &BuildCacheRecord) -> Row {
    let since = |text: Option<&str>| match text.and_then(|text| text.parse::<jiff::Timestamp>().ok()) {
        Some(moment) => ago(moment.as_second()),
        None => String::new(),
    };
    let id = format!("{}{}", short_id(&cache.id), if cache.in_use { "*" } else { "" });
    Row::new([
        ("ID", id.into()),
        ("CacheType", cache.r#type.as_str().into()),
        ("Size", human_size(cache.size as f64).into()),
        ("CreatedSince", since(Some(&cache.created_at)).into()),
        ("LastUsedSince", since(cache.last_used_at.as_deref()).into()),
        ("UsageCount", cache.usage_count.to_string().into()),
        ("InUse", cache.in_use.to_string().into()),
        ("Shared", cache.shared.to_string().into()),
        ("Description", cache.description.as_str().into()),
        ("Parent", cache.parents.iter().flatten().map(|id| short_id(id)).collect::<Vec<_>>().join(", ").into()),
    ])
}
