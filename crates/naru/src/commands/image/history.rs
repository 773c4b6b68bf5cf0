//! `history`

use naru_api::Query;

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::verb::{Arguments, Verb, verb};
use crate::output::format::{Listing, Row};
use crate::output::units::{ago, ellipsis, human_size_precision, short_id};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Print sizes and dates for people (default true)
    #[arg(short = 'H', long, value_name = "bool")]
    human: Option<bool>,
    /// Do not cut the output
    #[arg(long)]
    no_trunc: bool,
    /// Show the history of this platform (os[/arch[/variant]])
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// Only show IDs
    #[arg(short = 'q', long)]
    quiet: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["image history", "history"],
    "[OPTIONS] IMAGE",
    "Show the history of an image",
    Arguments::Exactly(1),
    "{} history --no-trunc debian"
);

const HEADERS: &[(&str, &str)] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let mut query = Query::new();
    if let Some(platform) = &options.platform {
        query.push("platform", super::platform_json(platform)?);
    }
    let items = cx.client()?.image_history(&options.args[0], &query).await?;
    let human = options.human.unwrap_or(true);
    let cut = !options.no_trunc;
    let default = if options.quiet {
        "{{.ID}}"
    } else if human {
        "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
    } else {
        "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
    };
    let rows: Vec<Row> = items
        .iter()
        .map(|item| {
            let by = item.created_by.replace('\t', " ");
            // The zero time of a step without one.
            let unset = item.created <= -62_135_596_800;
            let at = jiff::Timestamp::from_second(item.created)
                .map(|moment| {
                    moment.to_zoned(crate::output::units::local_zone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string().replace("+00:00", "Z")
                })
                .unwrap_or_default();
            #[expect(clippy::cast_precision_loss, reason = "sizes are shown with three digits")]
            let size = if human { human_size_precision(item.size as f64, 3) } else { item.size.to_string() };
            Row::new([
                ("ID", if cut { short_id(&item.id).into() } else { item.id.as_str().into() }),
                ("CreatedSince", if unset { "N/A".into() } else { ago(item.created).into() }),
                ("CreatedAt", if unset { "N/A".into() } else { at.into() }),
                ("CreatedBy", if cut { ellipsis(&by, 45).into() } else { by.into() }),
                ("Size", size.into()),
                ("Comment", item.comment.as_str().into()),
            ])
        })
        .collect();
    if options.quiet && options.format.is_none() {
        let ids: String = rows.iter().map(|row| format!("{}\n", row.fields.get("ID").map_or("", |id| id.text()))).collect();
        crate::output::write(ids.as_bytes())?;
        return Ok(0);
    }
    let listing = Listing { kind: "*formatter.historyContext", headers: HEADERS, default, raw: None };
    crate::output::write(listing.render(options.format.as_deref().unwrap_or_default(), &rows)?.as_bytes())?;
    Ok(0)
}
