//! The config of an image committed from a container: the container's own settings, then the overrides.

use super::super::error::{ApiError, Result};
use super::create::Front;
use naru_api::models::ContainerConfig;
use naru_engine::container::View;
use naru_store::ImageConfig;

/// What the committed image's containers run with.
pub fn config(view: &View, overrides: &ContainerConfig) -> Result<ImageConfig> {
    let Front { config, .. } = serde_json::from_value(view.spec.front.clone()).unwrap_or_default();
    let merged = merge(config, overrides);
    // Both speak Docker's keys, so that the wire form is the translation.
    let run = serde_json::to_value(&merged)
        .and_then(serde_json::from_value)
        .map_err(|error| ApiError::invalid(format!("cannot commit the container's config: {error}")))?;
    let mut config = ImageConfig::default();
    config.config = run;
    config.container = view.id.to_string();
    Ok(config)
}

/// `commit` may carry a partial config: what it names wins.
fn merge(mut config: ContainerConfig, overrides: &ContainerConfig) -> ContainerConfig {
    macro_rules! take {
        ($($field:ident),*) => {$(
            if overrides.$field != ContainerConfig::default().$field {
                config.$field = overrides.$field.clone();
            }
        )*};
    }
    take!(user, exposed_ports, cmd, entrypoint, healthcheck, volumes, working_dir, on_build, stop_signal, stop_timeout, shell);
    for entry in overrides.env.iter().flatten() {
        let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
        let env = config.env.get_or_insert_default();
        env.retain(|old| key(old) != key(entry));
        env.push(entry.clone());
    }
    config.labels.get_or_insert_default().extend(overrides.labels.clone().unwrap_or_default());
    // Of this container alone, not of those made from its image.
    config.hostname.clear();
    config.image.clear();
    config.mac_address.clear();
    (config.attach_stdin, config.attach_stdout, config.attach_stderr) = (false, false, false);
    (config.tty, config.open_stdin, config.stdin_once) = (false, false, false);
    config
}
