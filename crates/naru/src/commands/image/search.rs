//! `search`

use naru_api::Query;

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::flags::parse_int;
use crate::cli::verb::{Arguments, Verb, verb};
use crate::commands::registry_auth;
use crate::output::format::{Listing, Row};
use crate::output::units::ellipsis;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Filter (is-official=, stars=)
    #[arg(short = 'f', long, value_name = "filter", value_parser = crate::commands::filter)]
    filter: Vec<String>,
    /// A Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Most results to show
    #[arg(long, value_name = "int", value_parser = parse_int)]
    limit: Option<i64>,
    /// Do not cut the output
    #[arg(long)]
    no_trunc: bool,
    args: Vec<String>,
}

pub const VERB: Verb =
    verb!(Options, run, ["search"], "[OPTIONS] TERM", "Search Docker Hub for images", Arguments::Exactly(1), "{} search --limit 5 debian");

const HEADERS: &[(&str, &str)] = &[("Name", "NAME"), ("Description", "DESCRIPTION"), ("StarCount", "STARS"), ("IsOfficial", "OFFICIAL")];

/// The registry that is searched: credentials are for it, and for nobody else.
fn asked(term: &str) -> &str {
    match term.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "docker.io",
    }
}

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let mut query = Query::new();
    query.push("term", options.args[0].clone());
    if let Some(limit) = options.limit.filter(|&limit| limit > 0) {
        query.push("limit", limit.to_string());
    }
    let filters = crate::commands::filters(&options.filter)?;
    if !filters.is_empty() {
        query.push("filters", filters.to_json());
    }
    let auth = registry_auth::header_for(cx, asked(&options.args[0]));
    let items = cx.client()?.image_search(&query, &auth).await?;
    let rows: Vec<Row> = items
        .iter()
        .map(|item| {
            let description = item.description.replace(['\n', '\r'], " ");
            Row::new([
                ("Name", item.name.as_str().into()),
                ("Description", if options.no_trunc { description.into() } else { ellipsis(&description, 45).into() }),
                ("StarCount", item.star_count.to_string().into()),
                ("IsOfficial", if item.is_official { "[OK]".into() } else { "".into() }),
            ])
            .with_json("IsOfficial", item.is_official.to_string())
        })
        .collect();
    let listing = Listing {
        kind: "*registry.searchContext",
        headers: HEADERS,
        default: "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}",
        raw: None,
    };
    crate::output::write(listing.render(options.format.as_deref().unwrap_or_default(), &rows)?.as_bytes())?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::asked;

    #[test]
    fn credentials_go_to_who_is_asked() {
        for (term, registry) in [
            ("debian", "docker.io"),
            ("library/debian", "docker.io"),
            ("localhost/x", "localhost"),
            ("reg.example/team", "reg.example"),
            ("10.0.0.1:5000/x", "10.0.0.1:5000"),
        ] {
            assert_eq!(asked(term), registry);
        }
    }
}
