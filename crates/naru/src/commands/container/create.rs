//! `create`, and the creation that `run` begins with: pull policy, ID file, warnings.

use naru_api::models::*;
use naru_api::{Query, client::PullOptions};

use super::assemble::{Assembled, assemble};
use super::options::ContainerFlags;
use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result, USAGE};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::commands::registry_auth;
use crate::output::progress::{Target, show};

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    flags: ContainerFlags,
    #[arg(trailing_var_arg = true)]
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["container create", "create"],
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Create a new container",
    Arguments::AtLeast(1),
    "{} create --name web -p 8080:80 nginx\n{} start web"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    options.flags.refuse_foreign().map_err(Failure::message)?;
    // What the command line is wrong about has its own status; what the engine refuses is a plain error.
    let help = |failure: Failure| failure.with_help(&cx.program, "create", USAGE);
    check_pull_policy(&options.flags).map_err(help)?;
    let assembled = prepare(cx, &options.flags, &options.args).map_err(help)?;
    let created = create(cx, &options.flags, assembled).await?;
    crate::output::line(&created.id).map(|()| 0)
}

/// Reads the flags, with the proxies of the configuration.
pub fn prepare(cx: Cx, flags: &ContainerFlags, args: &[String]) -> Result<Assembled> {
    let (host, _) = cx.host()?;
    let proxies = cx.config().proxy_environment(&host);
    if flags.kernel_memory.is_some() {
        crate::output::error_line("Flag --kernel-memory has been deprecated, and no longer supported by the kernel");
    }
    flags.refuse_unbuilt().map_err(Failure::message)?;
    assemble(flags, args, &proxies).map_err(Failure::message)
}

fn check_pull_policy(flags: &ContainerFlags) -> Result<()> {
    match flags.pull.as_deref() {
        None | Some("always" | "missing" | "never" | "") => Ok(()),
        Some(other) => {
            let text = format!("invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\"");
            Err(Failure::message(text))
        }
    }
}

/// Creates the container, pulling its image as the policy says.
pub async fn create(cx: Cx, flags: &ContainerFlags, assembled: Assembled) -> Result<ContainerCreateResponse> {
    check_pull_policy(flags)?;
    let policy = flags.pull.as_deref().unwrap_or("missing");
    let id_file = match &flags.cidfile {
        Some(path) if !path.is_empty() => Some(IdFile::new(path)?),
        _ => None,
    };
    let local = |dns: &&String| dns.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if let Some(dns) = assembled.host.dns.iter().flatten().find(local) {
        crate::output::error_line(&format!("WARNING: Localhost DNS ({dns}) may fail in containers."));
    }
    let image = assembled.config.image.clone();
    let hex = image.strip_prefix("sha256:").unwrap_or(&image);
    if !(hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))) {
        crate::parse::reference(&image).map_err(Failure::message)?;
    }
    let platform = flags.platform.clone().or_else(|| std::env::var("DOCKER_DEFAULT_PLATFORM").ok()).unwrap_or_default();
    if !platform.is_empty() {
        crate::commands::image::platform_json(&platform)?;
    }
    if policy == "always" {
        pull(cx, &image, &platform, flags.quiet).await?;
    }
    let client = cx.client()?;
    let mut query = Query::new();
    query.text("name", flags.name.as_deref().unwrap_or_default()).text("platform", &platform);
    let request = ContainerCreateRequest::new(assembled.config, assembled.host, assembled.networking);
    let created = match client.container_create(&query, &request).await {
        Err(error) if matches!(policy, "missing" | "") && is_missing_image(&error) => {
            let reference = crate::parse::reference(&image).map_err(Failure::message)?.tagged();
            if !flags.quiet {
                crate::output::error_line(&format!("Unable to find image '{}' locally", reference.familiar()));
            }
            pull(cx, &image, &platform, flags.quiet).await?;
            client.container_create(&query, &request).await?
        }
        other => other?,
    };
    for warning in &created.warnings {
        crate::output::error_line(&format!("WARNING: {warning}"));
    }
    if let Some(file) = id_file {
        file.write(&created.id)?;
    }
    Ok(created)
}

fn is_missing_image(error: &naru_api::client::ClientError) -> bool {
    // Also an image for another platform.
    matches!(error, naru_api::client::ClientError::Api { status: 404, .. })
}

async fn pull(cx: Cx, image: &str, platform: &str, quiet: bool) -> Result<()> {
    let reference = crate::parse::reference(image).map_err(Failure::message)?.tagged();
    let options = PullOptions {
        name: reference.familiar_name(),
        tag: reference.digest.as_ref().map(ToString::to_string).or(reference.tag.clone()).unwrap_or_default(),
        platform: platform.to_owned(),
        auth: registry_auth::header_for(cx, &reference.domain),
    };
    let stream = cx.client()?.image_pull(&options).await?;
    if quiet {
        let mut lines = stream.json_lines::<ProgressMessage>();
        while let Some(message) = lines.next().await? {
            if let Some(error) = message.error_detail {
                return Err(Failure::message(error.message));
            }
        }
        return Ok(());
    }
    show(stream.json_lines(), Target::Stderr, drop).await
}

/// The file of `--cidfile`: made before the container, removed when nothing was created.
struct IdFile {
    path: String,
    written: bool,
}

impl IdFile {
    fn new(path: &str) -> Result<Self> {
        match std::fs::OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(_) => Ok(Self { path: path.to_owned(), written: false }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Failure::message(format!("container ID file found, make sure the other container isn't running or delete {path}")))
            }
            Err(error) => {
                Err(Failure::message(format!("failed to create the container ID file: {}", crate::parse::open_error(path, &error))))
            }
        }
    }

    fn write(mut self, id: &str) -> Result<()> {
        std::fs::write(&self.path, id)
            .map_err(|error| Failure::message(format!("failed to write the container ID ({id}) to the file: {error}")))?;
        self.written = true;
        Ok(())
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.written {
            drop(std::fs::remove_file(&self.path));
        }
    }
}
