//! `volume create`

use naru_api::models::VolumeCreateRequest;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::parse::key_values;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Availability of a cluster volume (swarm)
    #[arg(long, value_name = "string", hide = true)]
    availability: Option<String>,
    /// Driver of the volume (default "local")
    #[arg(short = 'd', long, value_name = "string")]
    driver: Option<String>,
    /// Group of a cluster volume (swarm)
    #[arg(long, value_name = "string", hide = true)]
    group: Option<String>,
    /// Set labels
    #[arg(long, value_name = "list", value_parser = crate::parse::label)]
    label: Vec<String>,
    /// Largest size of a cluster volume (swarm)
    #[arg(long, value_name = "bytes", hide = true)]
    limit_bytes: Option<String>,
    /// Name of the volume
    #[arg(long, value_name = "string", hide = true)]
    name: Option<String>,
    /// Options of the driver
    #[arg(short = 'o', long, value_name = "map")]
    opt: Vec<String>,
    /// Least size of a cluster volume (swarm)
    #[arg(long, value_name = "bytes", hide = true)]
    required_bytes: Option<String>,
    /// Scope of a cluster volume (swarm)
    #[arg(long, value_name = "string", hide = true)]
    scope: Option<String>,
    /// Secrets of a cluster volume (swarm)
    #[arg(long, value_name = "map", hide = true)]
    secret: Vec<String>,
    /// Sharing of a cluster volume (swarm)
    #[arg(long, value_name = "string", hide = true)]
    sharing: Option<String>,
    /// Preferred topology of a cluster volume (swarm)
    #[arg(long, value_name = "list", hide = true)]
    topology_preferred: Vec<String>,
    /// Required topology of a cluster volume (swarm)
    #[arg(long, value_name = "list", hide = true)]
    topology_required: Vec<String>,
    /// Access of a cluster volume (swarm)
    #[arg(long, value_name = "string", hide = true)]
    r#type: Option<String>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["volume create"],
    "[OPTIONS] [VOLUME]",
    "Create a volume",
    Arguments::AtMost(1),
    "{} volume create data\n{} volume create -o type=nfs -o o=addr=10.0.0.1,rw -o device=:/export shared"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let cluster = [
        ("--availability", options.availability.is_some()),
        ("--group", options.group.is_some()),
        ("--limit-bytes", options.limit_bytes.is_some()),
        ("--required-bytes", options.required_bytes.is_some()),
        ("--scope", options.scope.is_some()),
        ("--secret", !options.secret.is_empty()),
        ("--sharing", options.sharing.is_some()),
        ("--topology-preferred", !options.topology_preferred.is_empty()),
        ("--topology-required", !options.topology_required.is_empty()),
        ("--type", options.r#type.is_some()),
    ];
    if let Some((flag, _)) = cluster.iter().find(|(_, given)| *given) {
        return Err(Failure::message(format!("{flag:?} is only supported on a Docker daemon with swarm mode enabled")));
    }
    let name = match (options.args.first(), &options.name) {
        (Some(_), Some(_)) => {
            return Err(Failure::message("conflicting options: cannot specify a volume-name through both --name and as a positional arg"));
        }
        (Some(name), None) | (None, Some(name)) => name.clone(),
        (None, None) => String::new(),
    };
    let request = VolumeCreateRequest {
        cluster_volume_spec: None,
        driver: options.driver.unwrap_or_default(),
        driver_opts: Some(key_values(&options.opt)),
        labels: Some(key_values(&options.label)),
        name,
    };
    let volume = cx.client()?.volume_create(&request).await?;
    crate::output::line(&volume.name)?;
    Ok(0)
}
