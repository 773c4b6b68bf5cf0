//! `context`: named engines. Contexts are read and written in Docker's own layout.

mod archive;

pub use archive::{EXPORT, IMPORT};

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Names, Verb, verb};
use crate::commands::inspect::Printer;
use crate::config::{self, ContextEntry};
use crate::output::format::{Listing, Row};
use crate::parse::key_values;
use crate::template::Value;

#[derive(Debug, clap::Args)]
pub struct ListOptions {
    /// 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Only show names
    #[arg(short = 'q', long)]
    quiet: bool,
    args: Vec<String>,
}

pub const LIST: Verb =
    verb!(ListOptions, list, ["context ls", "context list"], "[OPTIONS]", "List contexts", Arguments::None, "{} context ls");

fn default_entry(cx: Cx) -> ContextEntry {
    let host = cx
        .globals
        .host
        .clone()
        .or_else(|| std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()))
        .unwrap_or_else(|| format!("unix://{}", crate::cli::context::DEFAULT_SOCKET));
    let endpoint = Value::Map(vec![("Host".to_owned(), host.as_str().into()), ("SkipTLSVerify".to_owned(), Value::Bool(false))]);
    let meta = Value::Map(vec![
        ("Name".to_owned(), "default".into()),
        ("Metadata".to_owned(), Value::Map(Vec::new())),
        ("Endpoints".to_owned(), Value::Map(vec![("docker".to_owned(), endpoint)])),
    ]);
    ContextEntry { name: "default".to_owned(), description: "Current DOCKER_HOST based configuration".to_owned(), host, meta }
}

async fn list(cx: Cx, options: ListOptions) -> Result<i32> {
    let current = cx.context_name();
    let mut entries = vec![default_entry(cx)];
    entries.extend(config::contexts(cx.config_directory()));
    if options.quiet {
        let names: String = entries.iter().map(|entry| format!("{}\n", entry.name)).collect();
        crate::output::write(names.as_bytes())?;
        return Ok(0);
    }
    warn_of_host();
    let rows: Vec<Row> = entries
        .iter()
        .map(|entry| {
            Row::new([
                ("Name", entry.name.as_str().into()),
                ("Description", entry.description.as_str().into()),
                ("DockerEndpoint", entry.host.as_str().into()),
                ("Current", Value::Bool(entry.name == current)),
                ("Error", "".into()),
            ])
        })
        .collect();
    let listing = Listing {
        kind: "*formatter.clientContextContext",
        headers: &[("Name", "NAME"), ("Description", "DESCRIPTION"), ("DockerEndpoint", "DOCKER ENDPOINT"), ("Error", "ERROR")],
        default: "{{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}",
        raw: None,
    };
    crate::output::write(listing.render(options.format.as_deref().unwrap_or_default(), &rows)?.as_bytes())?;
    Ok(0)
}

fn warn_of_host() {
    if std::env::var("DOCKER_HOST").is_ok_and(|host| !host.is_empty()) {
        crate::output::error_line(
            "Warning: DOCKER_HOST environment variable overrides the active context. To use a context, either set the global --context flag, or unset DOCKER_HOST environment variable.",
        );
    }
}

pub const SHOW: Verb =
    verb!(Names, show, ["context show"], "", "Print the name of the current context", Arguments::None, "{} context show");

async fn show(cx: Cx, _: Names) -> Result<i32> {
    crate::output::line(&cx.context_name())?;
    Ok(0)
}

pub const USE: Verb =
    verb!(Names, use_context, ["context use"], "CONTEXT", "Set the current docker context", Arguments::Exactly(1), "{} context use remote");

async fn use_context(cx: Cx, options: Names) -> Result<i32> {
    let name = &options.args[0];
    if name != "default" {
        config::context(cx.config_directory(), name)?;
    }
    config::edit(cx.config_directory(), |document| {
        if name == "default" {
            document.remove("currentContext");
        } else {
            document.insert("currentContext".to_owned(), name.clone().into());
        }
    })?;
    crate::output::line(name)?;
    crate::output::error_line(&format!("Current context is now {name:?}"));
    if name != "default" {
        warn_of_host();
    }
    Ok(0)
}

#[derive(Debug, clap::Args)]
pub struct InspectOptions {
    /// 'json', or a Go template
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
    args: Vec<String>,
}

pub const INSPECT: Verb = verb!(
    InspectOptions,
    inspect,
    ["context inspect"],
    "[OPTIONS] [CONTEXT] [CONTEXT...]",
    "Display detailed information on one or more contexts",
    Arguments::AtLeast(0),
    "{} context inspect remote"
);

async fn inspect(cx: Cx, options: InspectOptions) -> Result<i32> {
    let names = if options.args.is_empty() { vec![cx.context_name()] } else { options.args.clone() };
    let mut printer = Printer::new(options.format.as_deref())?;
    for name in names {
        let found = if name == "default" { Ok(default_entry(cx)) } else { config::context(cx.config_directory(), &name) };
        let found = found.map_err(|failure| failure.text().to_owned()).map(|entry| {
            let folder = config::context_folder(cx.config_directory(), &name);
            let (meta, tls) = if name == "default" {
                ("<IN MEMORY>".to_owned(), "<IN MEMORY>".to_owned())
            } else {
                (folder.display().to_string(), config::context_tls(cx.config_directory(), &name).display().to_string())
            };
            let mut fields = match entry.meta {
                Value::Map(fields) => fields,
                _ => Vec::new(),
            };
            let storage = Value::Map(vec![("MetadataPath".to_owned(), meta.into()), ("TLSPath".to_owned(), tls.into())]);
            fields.push(("TLSMaterial".to_owned(), Value::Map(Vec::new())));
            fields.push(("Storage".to_owned(), storage));
            Value::Map(fields).to_json(true)
        });
        if !printer.add(found) {
            break;
        }
    }
    printer.finish()
}

#[derive(Debug, clap::Args)]
pub struct CreateOptions {
    /// Description of the context
    #[arg(long, value_name = "string")]
    description: Option<String>,
    /// Endpoint of the engine (host=...)
    #[arg(long, value_name = "stringToString", value_delimiter = ',')]
    docker: Vec<String>,
    /// Take everything from another context
    #[arg(long, value_name = "string")]
    from: Option<String>,
    args: Vec<String>,
}

pub const CREATE: Verb = verb!(
    CreateOptions,
    create,
    ["context create"],
    "[OPTIONS] CONTEXT",
    "Create a context",
    Arguments::Exactly(1),
    "{} context create --docker host=ssh://me@server remote"
);

fn endpoint(cx: Cx, pairs: &[String]) -> Result<String> {
    let options = key_values(pairs);
    if let Some(key) = options.keys().find(|key| !matches!(key.as_str(), "host" | "from")) {
        return Err(Failure::message(format!("docker endpoint option {key:?} is not supported: TLS connections are not supported")));
    }
    if let Some(from) = options.get("from") {
        return Ok(if from == "default" { default_entry(cx).host } else { config::context(cx.config_directory(), from)?.host });
    }
    let host = options.get("host").cloned().unwrap_or_default();
    if !host.is_empty() {
        host.parse::<naru_api::client::Endpoint>().map_err(|error| Failure::message(error.to_string()))?;
    }
    Ok(host)
}

fn write_context(cx: Cx, name: &str, description: &str, host: &str) -> Result<()> {
    let metadata = if description.is_empty() { serde_json::json!({}) } else { serde_json::json!({ "Description": description }) };
    let document =
        serde_json::json!({ "Name": name, "Metadata": metadata, "Endpoints": { "docker": { "Host": host, "SkipTLSVerify": false } } });
    let folder = config::context_folder(cx.config_directory(), name);
    std::fs::create_dir_all(&folder)?;
    config::write_private(&folder.join("meta.json"), document.to_string().as_bytes())?;
    Ok(())
}

/// Whether a context may have the name.
fn check_name(name: &str) -> Result<()> {
    let fine = name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-'));
    if name == "default" {
        return Err(Failure::message("\"default\" is a reserved context name"));
    }
    if fine {
        return Ok(());
    }
    Err(Failure::message(format!("context name {name:?} is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\"")))
}

/// Refuses a name that is taken.
fn free(cx: Cx, name: &str) -> Result<()> {
    match config::context(cx.config_directory(), name) {
        Ok(_) => Err(Failure::message(format!("context {name:?} already exists"))),
        Err(_) => Ok(()),
    }
}

async fn create(cx: Cx, options: CreateOptions) -> Result<i32> {
    let name = &options.args[0];
    check_name(name)?;
    free(cx, name)?;
    let (mut description, mut host) = (String::new(), String::new());
    if let Some(from) = &options.from {
        let source = if from == "default" { default_entry(cx) } else { config::context(cx.config_directory(), from)? };
        (description, host) = (if from == "default" { String::new() } else { source.description }, source.host);
    }
    if !options.docker.is_empty() {
        host = endpoint(cx, &options.docker)?;
    } else if options.from.is_none() {
        return Err(Failure::message("docker endpoint configuration is required"));
    }
    write_context(cx, name, options.description.as_deref().unwrap_or(&description), &host)?;
    crate::output::line(name)?;
    crate::output::error_line(&format!("Successfully created context {name:?}"));
    Ok(0)
}

#[derive(Debug, clap::Args)]
pub struct UpdateOptions {
    /// Description of the context
    #[arg(long, value_name = "string")]
    description: Option<String>,
    /// Endpoint of the engine (host=...)
    #[arg(long, value_name = "stringToString", value_delimiter = ',')]
    docker: Vec<String>,
    args: Vec<String>,
}

pub const UPDATE: Verb = verb!(
    UpdateOptions,
    update,
    ["context update"],
    "[OPTIONS] CONTEXT",
    "Update a context",
    Arguments::Exactly(1),
    "{} context update --description 'the big one' remote"
);

async fn update(cx: Cx, options: UpdateOptions) -> Result<i32> {
    let name = &options.args[0];
    let entry = config::context(cx.config_directory(), name)?;
    let host = if options.docker.is_empty() { entry.host } else { endpoint(cx, &options.docker)? };
    write_context(cx, name, options.description.as_deref().unwrap_or(&entry.description), &host)?;
    crate::output::line(name)?;
    crate::output::error_line(&format!("Successfully updated context {name:?}"));
    Ok(0)
}

#[derive(Debug, clap::Args)]
pub struct RemoveOptions {
    /// Remove a context that is in use too
    #[arg(short = 'f', long)]
    force: bool,
    args: Vec<String>,
}

pub const REMOVE: Verb = verb!(
    RemoveOptions,
    remove,
    ["context rm", "context remove"],
    "CONTEXT [CONTEXT...]",
    "Remove one or more contexts",
    Arguments::AtLeast(1),
    "{} context rm remote"
);

async fn remove(cx: Cx, options: RemoveOptions) -> Result<i32> {
    let mut errors = Vec::new();
    for name in &options.args {
        let outcome = if name == "default" {
            Err(Failure::message("context \"default\" cannot be removed"))
        } else if *name == cx.context_name() && !options.force {
            Err(Failure::message(format!("context {name:?} is in use, set -f flag to force remove")))
        } else {
            config::context(cx.config_directory(), name)
                .and_then(|_| std::fs::remove_dir_all(config::context_folder(cx.config_directory(), name)).map_err(Failure::from))
                .and_then(|()| match std::fs::remove_dir_all(config::context_tls(cx.config_directory(), name)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
                    _ => Ok(()),
                })
        };
        match outcome {
            Ok(()) => {
                if cx.config().current_context == *name {
                    config::edit(cx.config_directory(), |document| drop(document.remove("currentContext")))?;
                }
                crate::output::line(name)?;
            }
            Err(failure) => errors.push(failure.text().to_owned()),
        }
    }
    if errors.is_empty() { Ok(0) } else { Err(Failure::message(errors.join("\n"))) }
}
