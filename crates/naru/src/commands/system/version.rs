//! `version`

use naru_api::models::SystemVersion;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::output::format::render_object;
use crate::template::Value;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// 'json', or a Go template
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["version"],
    "[OPTIONS]",
    "Show the Docker version information",
    Arguments::None,
    "{} version --format '{{.Server.Version}}'"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let client = cx.client();
    let mut server = match &client {
        Ok(client) => client.server_version().await.map_err(Failure::from),
        Err(failure) => Err(Failure::message(failure.text())),
    };
    let api = match (&client, &server) {
        (Ok(client), Ok(_)) => client.version().await.map_or(naru_api::ApiVersion::MAX, |version| version),
        _ => naru_api::ApiVersion::MAX,
    };
    let api_text =
        if api == naru_api::ApiVersion::MAX { api.to_string() } else { format!("{api} (downgraded from {})", naru_api::ApiVersion::MAX) };
    let context = cx.context_name();
    if let Ok(server) = &mut server {
        for component in &mut server.components {
            if let Some(built) = component.details.as_mut().and_then(|details| details.get_mut("BuildTime")) {
                *built = readable(built);
            }
        }
    }
    let text = match options.format.as_deref().filter(|format| !format.is_empty()) {
        Some(format) => {
            let map = |entries: Vec<(&str, Value)>| Value::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect());
            let own = map(vec![
                ("Version", env!("CARGO_PKG_VERSION").into()),
                ("ApiVersion", api.to_string().into()),
                ("DefaultAPIVersion", naru_api::ApiVersion::MAX.to_string().into()),
                ("GitCommit", "".into()),
                ("GoVersion", "".into()),
                ("Os", std::env::consts::OS.into()),
                ("Arch", arch().into()),
                ("BuildTime", "".into()),
                ("Context", context.as_str().into()),
            ]);
            render_object(format, &map(vec![("Client", own), ("Server", server.as_ref().map_or(Value::Null, Value::of))]))? + "\n"
        }
        None => {
            let mut text = format!(
                "Client:\n Version:           {}\n API version:       {api_text}\n OS/Arch:           {}/{}\n Context:           {context}\n",
                env!("CARGO_PKG_VERSION"),
                std::env::consts::OS,
                arch(),
            );
            if let Ok(server) = &server {
                text.push_str(&server_text(server));
            }
            text
        }
    };
    crate::output::write(text.as_bytes())?;
    server.map(|_| 0)
}

/// The architecture in Go's words.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn server_text(server: &SystemVersion) -> String {
    let title = if server.platform.name.is_empty() { String::new() } else { format!(" {}", server.platform.name) };
    let mut out = format!("\nServer:{title}\n");
    for component in &server.components {
        out.push_str(&format!(" {}:\n  {:<17}{}\n", component.name, "Version:", component.version));
        let details = component.details.clone().unwrap_or_default();
        let detail = |key: &str| details.get(key).cloned().unwrap_or_default();
        if component.name == "Engine" {
            let rows = [
                ("API version:", format!("{} (minimum version {})", detail("ApiVersion"), detail("MinAPIVersion"))),
                ("Go version:", detail("GoVersion")),
                ("Git commit:", detail("GitCommit")),
                ("Built:", detail("BuildTime")),
                ("OS/Arch:", format!("{}/{}", detail("Os"), detail("Arch"))),
                ("Experimental:", detail("Experimental")),
            ];
            for (name, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
                out.push_str(&format!("  {name:<17}{value}\n"));
            }
        } else {
            for (key, value) in &details {
                out.push_str(&format!("  {:<17}{value}\n", format!("{key}:")));
            }
        }
    }
    out
}

/// A build's moment for people; what is no moment stays.
fn readable(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(moment) => moment.to_zoned(jiff::tz::TimeZone::UTC).strftime("%a %b %e %H:%M:%S %Y").to_string(),
        Err(_) => text.to_owned(),
    }
}
