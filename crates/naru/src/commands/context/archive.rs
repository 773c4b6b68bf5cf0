//! `context export` and `context import`: a context as a tar archive, as Docker's.
//!
//! ```text
//! meta.json                   the context's document
//! tls/<endpoint>/<file>       its certificates
//! ```

use std::io::{Read, Write};
use std::path::Path;

use naru_store::tar::{Kind, Reader, Writer};

use super::{check_name, free};
use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Names, Verb, verb};
use crate::config;

/// An archive of a context is never larger, nor is a file in it (as Docker's own limit).
const LIMIT: u64 = 10 << 20;

pub const EXPORT: Verb = verb!(
    Names,
    export,
    ["context export"],
    "CONTEXT [FILE|-]",
    "Export a context to a tar archive FILE or a tar stream on STDOUT.",
    Arguments::Between(1, 2),
    "{} context export remote\n{} context export remote - | ssh other {} context import remote -"
);

async fn export(cx: Cx, options: Names) -> Result<i32> {
    let name = &options.args[0];
    // Refuses what does not exist; the default one is no document.
    config::context(cx.config_directory(), name)?;
    let bytes = pack(cx.config_directory(), name)?;
    let default = format!("{name}.dockercontext");
    let target = options.args.get(1).map_or(default.as_str(), String::as_str);
    if target == "-" {
        if crate::stream::terminal::stdout_is_terminal() {
            return Err(Failure::message("cowardly refusing to export to a terminal, specify a file path"));
        }
        crate::output::write(&bytes)?;
        return Ok(0);
    }
    let failed = |error: std::io::Error| Failure::message(format!("cannot write {target}: {error}"));
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).open(target);
    opened.and_then(|mut file| file.write_all(&bytes)).map_err(failed)?;
    crate::output::error_line(&format!("Written file {target:?}"));
    Ok(0)
}

pub const IMPORT: Verb = verb!(
    Names,
    import,
    ["context import"],
    "CONTEXT FILE|-",
    "Import a context from a tar file",
    Arguments::Exactly(2),
    "{} context import remote remote.dockercontext"
);

async fn import(cx: Cx, options: Names) -> Result<i32> {
    let (name, source) = (&options.args[0], &options.args[1]);
    check_name(name)?;
    free(cx, name)?;
    let failed = |error: std::io::Error| Failure::message(format!("cannot read {source}: {error}"));
    let input: Box<dyn Read> =
        if source == "-" { Box::new(std::io::stdin()) } else { Box::new(std::fs::File::open(source).map_err(failed)?) };
    let mut bytes = Vec::new();
    input.take(LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LIMIT {
        return Err(Failure::message(format!("cannot import {source}: it is larger than {LIMIT} bytes")));
    }
    unpack(cx.config_directory(), name, &bytes)?;
    crate::output::line(name)?;
    crate::output::error_line(&format!("Successfully imported context {name:?}"));
    Ok(0)
}

fn pack(config: &Path, name: &str) -> Result<Vec<u8>> {
    let broken = |error: naru_store::Error| Failure::message(format!("cannot pack context {name:?}: {error}"));
    let mut archive = Writer::new(Vec::new());
    let meta = std::fs::read(config::context_folder(config, name).join("meta.json"))?;
    archive.bytes("meta.json", 0o644, &meta).map_err(broken)?;
    for (path, file) in certificates(&config::context_tls(config, name))? {
        archive.bytes(&format!("tls/{path}"), 0o600, &file).map_err(broken)?;
    }
    archive.finish().map_err(broken)
}

/// `<endpoint>/<file>` and content of each.
fn certificates(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let Ok(endpoints) = std::fs::read_dir(folder) else { return Ok(found) };
    for endpoint in endpoints.flatten() {
        for file in std::fs::read_dir(endpoint.path())?.flatten() {
            let path = format!("{}/{}", endpoint.file_name().to_string_lossy(), file.file_name().to_string_lossy());
            found.push((path, std::fs::read(file.path())?));
        }
    }
    Ok(found)
}

/// Writes a context only when all of its archive is understood.
fn unpack(config: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let refused = |why: &str| Failure::message(format!("cannot import context {name:?}: {why}"));
    let mut reader = Reader::new(bytes);
    let (mut meta, mut tls) = (None, Vec::new());
    while let Some(entry) = reader.next_entry().map_err(|error| refused(&error.to_string()))? {
        let path = String::from_utf8_lossy(&entry.path).trim_start_matches("./").to_owned();
        if entry.kind == Kind::Dir {
            continue;
        }
        // A claim of more than the whole archive may hold (a sparse file) would only cost memory.
        if entry.kind != Kind::File || entry.size > LIMIT || entry.sparse.is_some() {
            return Err(refused(&format!("its entry {path:?} is not a plain file of at most {LIMIT} bytes")));
        }
        let mut data = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            match reader.read_data(&mut chunk).map_err(|error| refused(&error.to_string()))? {
                0 => break,
                count => data.extend_from_slice(&chunk[..count]),
            }
        }
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            ["meta.json"] => meta = Some(data),
            ["tls", endpoint, file] if [endpoint, file].iter().all(|part| !matches!(*part, "" | "." | "..")) => {
                tls.push((format!("{endpoint}/{file}"), data));
            }
            _ => return Err(refused(&format!("its entry {path:?} has no place in a context"))),
        }
    }
    let meta = meta.ok_or_else(|| refused("it has no meta.json"))?;
    let mut document: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&meta).map_err(|error| refused(&format!("its meta.json is no context: {error}")))?;
    if !document.get("Endpoints").is_some_and(serde_json::Value::is_object) {
        return Err(refused("its meta.json names no endpoints"));
    }
    document.insert("Name".to_owned(), name.into());
    let folder = config::context_tls(config, name);
    for (path, data) in tls {
        let target = folder.join(path);
        std::fs::create_dir_all(target.parent().expect("it lies below the folder"))?;
        config::write_private(&target, &data)?;
    }
    let folder = config::context_folder(config, name);
    std::fs::create_dir_all(&folder)?;
    config::write_private(&folder.join("meta.json"), serde_json::Value::from(document).to_string().as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: &[u8] = br#"{"Name":"old","Metadata":{"Description":"d"},"Endpoints":{"docker":{"Host":"tcp://x:1"}}}"#;

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (path, data) in entries {
            writer.bytes(path, 0o644, data).expect("memory takes it");
        }
        writer.finish().expect("memory takes it")
    }

    #[test]
    fn a_context_goes_and_comes_back_under_another_name() {
        let dir = tempfile::tempdir().expect("a folder");
        unpack(dir.path(), "one", &archive(&[("meta.json", META), ("tls/docker/ca.pem", b"cert")])).expect("it is a context");
        unpack(dir.path(), "two", &pack(dir.path(), "one").expect("it exists")).expect("it is a context");
        let two = config::context(dir.path(), "two").expect("it exists");
        assert_eq!((two.name.as_str(), two.description.as_str(), two.host.as_str()), ("two", "d", "tcp://x:1"));
        assert_eq!(std::fs::read(config::context_tls(dir.path(), "two").join("docker/ca.pem")).expect("it was copied"), b"cert");
    }

    #[test]
    fn what_is_no_context_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        for (entries, why) in [
            (vec![], "no meta.json"),
            (vec![("meta.json", b"[]".as_slice())], "no context"),
            (vec![("meta.json", b"{}".as_slice())], "no endpoints"),
            (vec![("meta.json", META), ("tls/../x", b"".as_slice())], "no place"),
            (vec![("meta.json", META), ("../../x", b"".as_slice())], "no place"),
            (vec![("meta.json", META), ("tls/docker/../../x", b"".as_slice())], "no place"),
        ] {
            let failure = unpack(dir.path(), "bad", &archive(&entries)).expect_err(why);
            assert!(failure.text().contains(why), "{}", failure.text());
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("it exists").count(), 0);
    }
}
