//! Commands about manifests in registries. They ask the registry themselves, as Docker's do: no engine is needed.

pub mod annotate;
pub mod create;
pub mod inspect;
pub mod push;
pub mod remove;
mod store;

use naru_registry::{Client, Credentials, ManifestInfo, Proxies, RegistryConfig};
use naru_types::ImageRef;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::commands::registry_auth;

/// A conversation with the registry of a reference.
struct Registry {
    client: Client,
    credentials: Credentials,
}

impl Registry {
    fn of(cx: Cx, reference: &ImageRef, insecure: bool) -> Result<Registry> {
        let insecure = if insecure { vec![reference.domain.clone()] } else { vec![] };
        let config = RegistryConfig { insecure, proxies: Proxies::from_environment(), ..RegistryConfig::default() };
        Ok(Registry { client: Client::new(config).map_err(failure)?, credentials: registry_auth::credentials_for(cx, &reference.domain) })
    }

    async fn manifest(&self, reference: &ImageRef) -> Result<ManifestInfo> {
        self.client.manifest(reference, &self.credentials).await.map_err(|error| match error.kind() {
            naru_types::ErrorKind::NotFound => Failure::message(format!("no such manifest: {}", reference.familiar())),
            _ => failure(error),
        })
    }
}

/// A name, with the tag that it means without one.
fn reference(text: &str) -> std::result::Result<ImageRef, String> {
    crate::parse::reference(text).map(|reference| if reference.digest.is_some() { reference } else { reference.tagged() })
}

fn failure(error: naru_registry::Error) -> Failure {
    Failure::message(error.to_string())
}
