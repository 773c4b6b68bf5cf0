//! Plugins: programs called `docker-NAME` in the plugin folders, such as compose and buildx. They are given our words and
//! find the engine themselves, so the engine's address travels in their environment.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};

/// Folders that distributions install plugins to.
const FOLDERS: &[&str] = &[
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// Words that another plugin answers.
const ALIASES: &[(&str, &[&str])] =
    &[("build", &["buildx", "build"]), ("bake", &["buildx", "bake"]), ("builder", &["buildx"]), ("image build", &["buildx", "build"])];

/// A plugin that introduced itself.
#[derive(Debug, Clone)]
pub struct Plugin {
    pub name: String,
    pub path: PathBuf,
    pub vendor: String,
    pub version: String,
    pub about: String,
}

fn folders(cx: Cx) -> Vec<PathBuf> {
    let mut out = vec![cx.config_directory().join("cli-plugins")];
    out.extend(cx.config().cli_plugins_extra_dirs.iter().cloned());
    out.extend(FOLDERS.iter().map(PathBuf::from));
    out
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
}

fn find(cx: Cx, name: &str) -> Option<PathBuf> {
    if !is_name(name) {
        return None;
    }
    folders(cx).into_iter().map(|folder| folder.join(format!("docker-{name}"))).find(|path| path.is_file())
}

/// All plugins, by name; those that do not answer are left out.
pub fn list(cx: Cx) -> Vec<Plugin> {
    let mut out: Vec<Plugin> = Vec::new();
    for folder in folders(cx) {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            let Some(name) = file.strip_prefix("docker-").filter(|name| is_name(name)) else { continue };
            if out.iter().all(|plugin| plugin.name != name)
                && let Some(plugin) = introduce(name, &entry.path())
            {
                out.push(plugin);
            }
        }
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

fn introduce(name: &str, path: &Path) -> Option<Plugin> {
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "PascalCase")]
    struct Metadata {
        vendor: String,
        version: String,
        short_description: String,
        hidden: bool,
    }
    let output = Command::new(path).arg("docker-cli-plugin-metadata").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let metadata: Metadata = serde_json::from_slice(&output.stdout).ok()?;
    (!metadata.hidden).then(|| Plugin {
        name: name.to_owned(),
        path: path.to_owned(),
        vendor: metadata.vendor,
        version: metadata.version.trim_start_matches('v').to_owned(),
        about: metadata.short_description,
    })
}

/// Runs the plugin that the words name; `None` when there is none.
pub fn run(cx: Cx, words: &[String]) -> Result<Option<i32>> {
    let (given, mut rest) = (words[0].as_str(), words[1..].to_vec());
    let two = words.get(1).map(|second| format!("{given} {second}"));
    let alias = ALIASES.iter().find(|(word, _)| *word == given || Some(*word) == two.as_deref());
    let (name, path) = match find(cx, given) {
        Some(path) => (given.to_owned(), path),
        None => {
            let Some((word, target)) = alias else { return Ok(None) };
            let Some(path) = find(cx, target[0]) else {
                return Err(Failure::message(format!("{} {word} needs the {} plugin, which is not installed", cx.program, target[0])));
            };
            if word.contains(' ') {
                rest.remove(0);
            }
            rest.splice(0..0, target[1..].iter().map(|word| (*word).to_owned()));
            (target[0].to_owned(), path)
        }
    };
    let mut command = Command::new(&path);
    if let Some(config) = &cx.globals.config {
        command.env("DOCKER_CONFIG", config);
    }
    // A plugin does not know our default socket, and does not start our daemon.
    let (host, own) = cx.host()?;
    if own {
        crate::cli::autostart::ensure(Path::new(crate::cli::context::DEFAULT_SOCKET));
    }
    command.env("DOCKER_HOST", &host).env_remove("DOCKER_CONTEXT");
    let own_path = std::env::current_exe().unwrap_or_default();
    command.env("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND", own_path).arg(&name).args(&rest);
    // Signals of the terminal reach the plugin by itself; we only wait and tell how it ended.
    let mut child = command.spawn().map_err(|error| Failure::message(format!("failed to run {}: {error}", path.display())))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(async {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                for number in [1, 2, 3, 15] {
                    if let Ok(mut stream) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::from_raw(number)) {
                        tokio::task::spawn_local(async move { while stream.recv().await.is_some() {} });
                    }
                }
                tokio::task::spawn_blocking(move || child.wait()).await
            })
            .await
    });
    let status = status.map_err(|error| Failure::message(error.to_string()))??;
    Ok(Some(status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1)))
}
