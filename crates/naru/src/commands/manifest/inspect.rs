//! `manifest inspect`

use base64::Engine as _;
use naru_registry::manifest::Document;
use naru_registry::{Client, Credentials, ManifestInfo, Proxies, RegistryConfig};
use naru_types::{ImageRef, Platform};
use serde_json::{Value, json};

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::commands::registry_auth;
use crate::template::value::indent_json;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The registry may have no TLS or an unknown certificate
    #[arg(long)]
    insecure: bool,
    /// Tell descriptors and platforms, also of the manifests of an index
    #[arg(short = 'v', long)]
    verbose: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["manifest inspect"],
    "[OPTIONS] MANIFEST",
    "Show a manifest or index of a registry",
    Arguments::Exactly(1),
    "{} manifest inspect debian:12\n{} manifest inspect -v registry.example/web:2"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let reference = crate::parse::reference(&options.args[0]).map_err(Failure::message)?;
    let insecure = if options.insecure { vec![reference.domain.clone()] } else { vec![] };
    let config = RegistryConfig { insecure, proxies: Proxies::from_environment(), ..RegistryConfig::default() };
    let credentials = registry_auth::credentials_for(cx, &reference.domain);
    let client = Client::new(config).map_err(failure)?;
    let found = client.manifest(&reference, &credentials).await.map_err(|error| match error.kind() {
        naru_types::ErrorKind::NotFound => Failure::message(format!("no such manifest: {}", reference.familiar())),
        _ => failure(error),
    })?;
    let text = if options.verbose {
        verbose(&client, &reference, &credentials, &found).await?
    } else {
        String::from_utf8_lossy(&found.raw).into_owned()
    };
    crate::output::line(&indent_json(&text, "", "\t"))?;
    Ok(0)
}

/// One object for a manifest, a list of them for an index.
async fn verbose(client: &Client, reference: &ImageRef, credentials: &Credentials, found: &ManifestInfo) -> Result<String> {
    let Document::Index(entries) = &found.document else {
        return Ok(describe(reference, found, found.platforms.first()).to_string());
    };
    let mut list = Vec::new();
    for entry in entries {
        let exact = ImageRef { tag: None, digest: Some(entry.digest.clone()), ..reference.clone() };
        let info = client.manifest(&exact, credentials).await.map_err(failure)?;
        list.push(describe(&exact, &info, info.platforms.first()));
    }
    Ok(Value::Array(list).to_string())
}

fn describe(reference: &ImageRef, info: &ManifestInfo, platform: Option<&Platform>) -> Value {
    let mut descriptor = json!({ "mediaType": info.media_type, "digest": info.digest.to_string(), "size": info.size });
    if let Some(platform) = platform {
        descriptor["platform"] = json!({ "architecture": platform.architecture, "os": platform.os });
        if let Some(variant) = &platform.variant {
            descriptor["platform"]["variant"] = variant.as_str().into();
        }
    }
    let kind = if info.media_type.contains("docker") { "SchemaV2Manifest" } else { "OCIManifest" };
    json!({
        "Ref": reference.canonical(),
        "Descriptor": descriptor,
        "Raw": base64::engine::general_purpose::STANDARD.encode(&info.raw),
        kind: serde_json::from_slice::<Value>(&info.raw).unwrap_or_default(),
    })
}

fn failure(error: naru_registry::Error) -> Failure {
    Failure::message(error.to_string())
}
