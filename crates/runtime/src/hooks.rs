//! OCI hooks: programs of the host run at stages of a container's life, with its state on standard input.

use crate::error::{Error, Result};
use crate::spec::{Hook, Spec};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The state as hooks get it.
pub(crate) fn state(id: &str, status: &str, pid: i32, bundle: &str, spec: &Spec) -> String {
    let version = if spec.oci_version.is_empty() { "1.2.0" } else { &spec.oci_version };
    serde_json::json!({
        "ociVersion": version, "id": id, "status": status, "pid": pid, "bundle": bundle, "annotations": spec.annotations,
    })
    .to_string()
}

/// Runs hooks in order until one fails.
pub(crate) fn run(stage: &str, hooks: &[Hook], state: &str) -> Result<()> {
    hooks
        .iter()
        .enumerate()
        .try_for_each(|(at, hook)| run_one(hook, state).map_err(|why| Error::Invalid(format!("{stage} hook #{at} ({}): {why}", hook.path))))
}

fn run_one(hook: &Hook, state: &str) -> std::result::Result<(), String> {
    let mut command = Command::new(&hook.path);
    if let Some((name, arguments)) = hook.args.split_first() {
        command.arg0(name).args(arguments);
    }
    command.env_clear();
    for (name, value) in hook.env.iter().filter_map(|entry| entry.split_once('=')) {
        command.env(name, value);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook that does not read its state closes the pipe; that is its right.
        drop(stdin.write_all(state.as_bytes()));
    }
    let deadline = hook.timeout.filter(|seconds| *seconds > 0).map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let status = loop {
        let Some(deadline) = deadline else { break child.wait().map_err(|error| error.to_string())? };
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                drop(child.kill());
                drop(child.wait());
                return Err("timed out".into());
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}
