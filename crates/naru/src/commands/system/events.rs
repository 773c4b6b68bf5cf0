//! `events`

use naru_api::Query;
use naru_api::models::EventMessage;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::parse::time::moment;
use crate::template::{Missing, Scope, Template, Value, no_methods};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Filter (container=, event=, image=, label=, type=, ...)
    #[arg(short = 'f', long, value_name = "filter", value_parser = crate::commands::filter)]
    filter: Vec<String>,
    /// 'json', or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show events since a moment
    #[arg(long, value_name = "string")]
    since: Option<String>,
    /// Stop at a moment
    #[arg(long, value_name = "string")]
    until: Option<String>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["system events", "events"],
    "[OPTIONS]",
    "Get real time events from the server",
    Arguments::None,
    "{} events --since 10m --filter event=die"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let template = match options.format.as_deref() {
        None | Some("" | "json") => None,
        Some(text) => Some(Template::parse(text).map_err(|error| Failure::status(64, format!("Error parsing format: {error}")))?),
    };
    let json = options.format.as_deref() == Some("json");
    let filters = crate::commands::filters(&options.filter)?;
    let mut query = Query::new();
    for (name, value) in [("since", &options.since), ("until", &options.until)] {
        if let Some(text) = value.as_deref().filter(|text| !text.is_empty()) {
            query.push(name, moment(text).map_err(Failure::message)?);
        }
    }
    if !filters.is_empty() {
        query.push("filters", filters.to_json());
    }
    let mut events = cx.client()?.events(&query).await?;
    while let Some((event, raw)) = events.next_raw().await? {
        let line = match &template {
            None if json => String::from_utf8_lossy(&raw).into_owned(),
            None => plain(&event),
            Some(template) => {
                let data: Value = serde_json::from_slice(&raw).map_err(|error| Failure::message(error.to_string()))?;
                let run = |data: &Value| template.execute(&Scope { data, methods: &no_methods, missing: Missing::MapError, titles: false });
                // Fields of old are asked for by name; the whole event is printed without them.
                run(&data).or_else(|_| run(&with_old_fields(data))).map_err(|error| Failure::message(error.to_string()))?
            }
        };
        crate::output::line(&line)?;
    }
    Ok(0)
}

/// The fields of old, which only events of containers and images have, are there for every template.
fn with_old_fields(mut data: Value) -> Value {
    if let Value::Map(entries) = &mut data {
        for key in ["status", "id", "from"] {
            if !entries.iter().any(|(known, _)| known == key) {
                entries.push((key.to_owned(), Value::String(String::new())));
            }
        }
    }
    data
}

/// `moment type action id (key=value, …)`
fn plain(event: &EventMessage) -> String {
    let moment = if event.time_nano != 0 {
        jiff::Timestamp::from_nanosecond(i128::from(event.time_nano))
    } else {
        jiff::Timestamp::from_second(event.time)
    };
    let when = moment
        .map(|moment| {
            let zoned = moment.to_zoned(crate::output::units::local_zone());
            zoned.strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string().replace("+00:00", "Z")
        })
        .unwrap_or_default();
    let attributes: Vec<String> = event.actor.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let attributes = if attributes.is_empty() { String::new() } else { format!(" ({})", attributes.join(", ")) };
    format!("{when} {} {} {}{attributes}", event.r#type, event.action, event.actor.id)
}
