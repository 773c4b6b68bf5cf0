//! `export`, and how streams are saved to files.

use std::io::Write as _;

use naru_api::client::ByteStream;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::stream::terminal;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Write to a file, instead of STDOUT
    #[arg(short = 'o', long, value_name = "string")]
    output: Option<String>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["container export", "export"],
    "[OPTIONS] CONTAINER",
    "Export a container's filesystem as a tar archive",
    Arguments::Exactly(1),
    "{} export -o web.tar web"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    check_output(options.output.as_deref()).map_err(|failure| prefixed("failed to export container", failure))?;
    let stream = cx.client()?.container_export(&options.args[0]).await?;
    save(stream, options.output.as_deref()).await?;
    Ok(0)
}

/// Says of a failure what it was that failed.
pub fn prefixed(what: &str, failure: Failure) -> Failure {
    match failure {
        Failure::Message { code, text } if !text.starts_with("cowardly") => Failure::status(code, format!("{what}: {text}")),
        other => other,
    }
}

/// Refuses a terminal, and outputs that are no plain files.
pub fn check_output(path: Option<&str>) -> Result<()> {
    match path {
        None | Some("") if terminal::stdout_is_terminal() => {
            Err(Failure::message("cowardly refusing to save to a terminal. Use the -o flag or redirect"))
        }
        None | Some("") => Ok(()),
        Some(path) => {
            use std::os::unix::fs::FileTypeExt as _;
            let folder = std::path::Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty());
            if let Some(folder) = folder
                && !folder.is_dir()
            {
                return Err(Failure::message(format!("invalid output path: stat {}: no such file or directory", folder.display())));
            }
            match std::fs::metadata(path) {
                Ok(meta) if meta.is_dir() => Err(Failure::message(format!("invalid output path: {path:?} must be a regular file"))),
                Ok(meta) if meta.file_type().is_block_device() || meta.file_type().is_char_device() && path != "/dev/null" => {
                    Err(Failure::message("got a device"))
                }
                _ => Ok(()),
            }
        }
    }
}

/// Saves a stream to stdout, or to a file that appears when it is whole.
pub async fn save(mut stream: ByteStream, path: Option<&str>) -> Result<()> {
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        while let Some(chunk) = stream.chunk().await? {
            crate::output::write(&chunk)?;
        }
        return Ok(());
    };
    let target = std::path::Path::new(path);
    if target.exists() && !target.is_file() {
        let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
        while let Some(chunk) = stream.chunk().await? {
            file.write_all(&chunk)?;
        }
        return Ok(());
    }
    let (temporary, mut file) = Temporary::create(target).map_err(|error| Failure::message(crate::parse::open_error(path, &error)))?;
    while let Some(chunk) = stream.chunk().await? {
        file.write_all(&chunk)?;
    }
    std::fs::rename(&temporary.0, target)?;
    Ok(())
}

/// A half-written file that vanishes unless it was renamed.
struct Temporary(std::path::PathBuf);

impl Temporary {
    /// A new file beside the target, for its owner alone as Docker's is: an image may hold what is nobody else's business.
    /// In a directory of others something may have the name; it is neither followed nor written to.
    fn create(target: &std::path::Path) -> std::io::Result<(Self, std::fs::File)> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let mut number = 0;
        loop {
            let path = target.with_file_name(format!(".tmp-{name}{}-{number}", std::process::id()));
            match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok((Self(path), file)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && number < 1000 => number += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}
