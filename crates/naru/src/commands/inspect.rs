//! `inspect`, for objects of any kind, and the printing that all inspects share.

use bytes::Bytes;
use naru_api::Query;
use naru_api::client::{Client, ClientError};

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::template::value::indent_json;
use crate::template::{Missing, Scope, Template, Value, no_methods};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// 'json', or a Go template
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
    /// Show sizes of containers
    #[arg(short = 's', long)]
    size: bool,
    /// Only look for objects of this type
    #[arg(long, value_name = "string")]
    r#type: Option<String>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["inspect"],
    "[OPTIONS] NAME|ID [NAME|ID...]",
    "Return low-level information on Docker objects",
    Arguments::AtLeast(1),
    "{} inspect web\n{} inspect --type=volume data"
);

/// Kinds that may be asked for, in the order in which they are tried.
const KINDS: &[&str] = &["container", "image", "network", "volume", "service", "task", "node", "plugin", "secret", "config"];

async fn run(cx: Cx, options: Options) -> Result<i32> {
    if let Some(kind) = options.r#type.as_deref()
        && !KINDS.contains(&kind)
    {
        let mut quoted: Vec<String> = KINDS.iter().map(|kind| format!("{kind:?}")).collect();
        quoted.sort();
        return Err(Failure::message(format!("unknown type: {kind:?}: must be one of {}", quoted.join(", "))));
    }
    let client = cx.client()?;
    let mut printer = Printer::new(options.format.as_deref())?;
    for name in &options.args {
        let found = find(client, name, options.r#type.as_deref(), options.size).await;
        if !printer.add(found) {
            break;
        }
    }
    printer.finish()
}

async fn find(client: &Client, name: &str, wanted: Option<&str>, size: bool) -> std::result::Result<String, String> {
    for kind in KINDS.iter().filter(|kind| wanted.is_none_or(|wanted| wanted == **kind)) {
        let answer = match *kind {
            "container" => client.container_inspect_raw(name, size).await,
            "image" => client.image_inspect_raw(name, &Query::new()).await,
            "network" => client.network_inspect_raw(name, &Query::new()).await,
            "volume" => client.volume_inspect_raw(name).await,
            other => {
                let path = match other {
                    "plugin" => format!("/plugins/{}/json", naru_api::query::encode(name)),
                    other => format!("/{other}s/{}", naru_api::query::encode(name)),
                };
                client.bytes("inspect", http::Method::GET, &path, &Query::new(), naru_api::client::Body::empty()).await
            }
        };
        match answer {
            Ok(bytes) => return raw(Ok(bytes)),
            Err(ClientError::Api { status: 404, .. }) if wanted.is_none() => {}
            // What cannot be the name of an image may be that of something else.
            Err(ClientError::Api { status: 400, .. }) if wanted.is_none() && *kind == "image" => {}
            // Swarm objects of an engine without swarm, or of one that does not know them.
            Err(ClientError::Api { status: 503 | 501 | 400 | 500, .. }) if wanted.is_none() && !matches!(*kind, "container" | "image") => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(format!("Error: No such object: {name}"))
}

/// The text of an answer, or the text of its error.
pub fn raw(answer: std::result::Result<Bytes, ClientError>) -> std::result::Result<String, String> {
    answer.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).map_err(|error| error.to_string())
}

/// Collects inspected objects and prints them: all of them as one JSON list, or each through a template.
pub struct Printer {
    template: Option<Template>,
    json: bool,
    objects: Vec<String>,
    out: String,
    errors: Vec<String>,
    status: i32,
}

impl Printer {
    /// Reads the format.
    pub fn new(format: Option<&str>) -> Result<Self> {
        let format = format.unwrap_or_default();
        let template = match format {
            "" | "json" => None,
            text => Some(Template::parse(text).map_err(|error| Failure::status(64, format!("template parsing error: {error}")))?),
        };
        Ok(Self { template, json: format == "json", objects: Vec::new(), out: String::new(), errors: Vec::new(), status: 1 })
    }

    /// Adds an object, or why it was not found. The answer is whether to go on: not after an error of a template.
    pub fn add(&mut self, found: std::result::Result<String, String>) -> bool {
        match found {
            Err(text) => self.errors.push(text),
            Ok(text) => match &self.template {
                None => self.objects.push(text),
                Some(template) => {
                    let outcome = serde_json::from_str::<Value>(&text).map_err(|error| error.to_string()).and_then(|data| {
                        let scope = Scope { data: &data, methods: &no_methods, missing: Missing::MapError, titles: false };
                        template.execute(&scope).map_err(|error| error.to_string())
                    });
                    match outcome {
                        Ok(text) => {
                            self.out.push_str(&text);
                            self.out.push('\n');
                        }
                        Err(error) => {
                            self.out.push('\n');
                            self.errors.push(format!("template parsing error: {error}"));
                            return false;
                        }
                    }
                }
            },
        }
        true
    }

    /// Prints everything; errors go to stderr after what was found.
    pub fn finish(mut self) -> Result<i32> {
        if self.template.is_none() {
            let all = format!("[{}]", self.objects.iter().map(|text| text.trim()).collect::<Vec<_>>().join(","));
            self.out = if self.json { format!("{all}\n") } else { format!("{}\n", indent_json(&all, "", "    ")) };
        } else if self.out.is_empty() {
            self.out.push('\n');
        }
        crate::output::write(self.out.as_bytes())?;
        if self.errors.is_empty() {
            return Ok(0);
        }
        Err(Failure::status(self.status, self.errors.join("\n")))
    }
}
