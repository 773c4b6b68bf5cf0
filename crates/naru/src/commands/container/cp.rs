//! `cp`: the paths as the user writes them, the tar streams between here and the engine.
//!
//! Packing and unpacking is the store's, which resolves every name inside a root: the destination folder is that root
//! here, so that no archive can write outside it. Both block and run on threads; channels bring the bytes across.

use std::io::{Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use naru_api::client::{ArchiveOptions, Body, ByteStream, Client};
use naru_api::models::PathStat;
use naru_store::archive::{UnpackOptions, pack, unpack};
use naru_store::tar::{Entry, Kind, Reader, Writer};
use tokio::sync::mpsc;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::output::units::human_size_precision;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Keep all owners and groups
    #[arg(short = 'a', long)]
    archive: bool,
    /// Follow symbolic links in SRC_PATH
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Do not say what was copied
    #[arg(short = 'q', long)]
    quiet: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["container cp", "cp"],
    "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-
	{} cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    "Copy files/folders between a container and the local filesystem\n\nUse '-' as the source to read a tar archive from stdin\nand extract it to a directory destination in a container.\nUse '-' as the destination to stream a tar archive of a\ncontainer source to stdout.",
    Arguments::Exactly(2),
    "{} cp web:/etc/nginx ./conf\n{} cp site/. web:/usr/share/nginx/html"
);

/// Chunks on their way between a thread and the connection.
const CHUNKS: usize = 8;
const CHUNK: usize = 64 << 10;

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let (source, destination) = (split(&options.args[0]), split(&options.args[1]));
    let client = cx.client()?;
    if [source, destination].iter().any(|(container, path)| container.is_some() && path.is_empty()) {
        return Err(Failure::message("the path in the container is empty; write CONTAINER:/ for its root"));
    }
    match (source, destination) {
        ((Some(_), _), (Some(_), _)) => Err(Failure::message("copying between containers is not supported")),
        ((None, _), (None, _)) => Err(Failure::message("must specify at least one container source")),
        ((Some(container), inside), (None, path)) => download(client, container, inside, path, &options).await,
        ((None, path), (Some(container), inside)) => upload(client, path, container, inside, &options).await,
    }
}

/// `container:path`; what begins with `.` or `/` is always local.
fn split(text: &str) -> (Option<&str>, &str) {
    if text.starts_with('/') || text.starts_with('.') {
        return (None, text);
    }
    match text.split_once(':') {
        Some((container, path)) if !container.is_empty() && !container.starts_with('.') => (Some(container), path),
        _ => (None, text),
    }
}

/// Whether a path names the content of a folder rather than the folder.
fn names_directory(path: &str) -> bool {
    path.ends_with('/') || path.ends_with("/.") || path == "."
}

/// Absolute, with a trailing `/` or `/.` kept.
fn local_path(path: &str) -> String {
    let absolute = crate::parse::mounts::absolute(path);
    let tail = if path.ends_with("/.") || path == "." {
        "/."
    } else if path.ends_with('/') {
        "/"
    } else {
        ""
    };
    if absolute == "/" && tail == "/" { absolute } else { format!("{}{tail}", if absolute == "/" { "" } else { &absolute }) }
}

/// The folder of a path and its last part, as far as names go: `/a/b/` lies in `/a`.
fn parent_and_name(path: &str) -> (String, String) {
    let trimmed = path.strip_suffix("/.").unwrap_or(path).trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        Some((parent, name)) => (if parent.is_empty() { "/".to_owned() } else { parent.to_owned() }, name.to_owned()),
        None => ("/".to_owned(), trimmed.to_owned()),
    }
}

/// What is known of a destination before something is copied there.
struct Destination {
    path: String,
    exists: bool,
    directory: bool,
}

/// Where an archive is unpacked, and under which name its root goes there (`None` keeps it).
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    directory: String,
    name: Option<String>,
}

/// The rules of `cp`: into an existing folder, over an existing file, or to a new name.
fn plan(source_is_directory: bool, destination: &Destination) -> Result<Plan> {
    let as_name = || {
        let (directory, name) = parent_and_name(&destination.path);
        Plan { directory, name: Some(name) }
    };
    match (destination.exists, destination.directory, source_is_directory) {
        (true, true, _) => Ok(Plan { directory: destination.path.clone(), name: None }),
        (true, false, true) => Err(Failure::message("cannot copy directory")),
        (true, false, false) | (false, _, true) => Ok(as_name()),
        (false, _, false) if names_directory(&destination.path) => Err(Failure::message("no such directory")),
        (false, _, false) => Ok(as_name()),
    }
}

async fn download(client: &Client, container: &str, inside: &str, path: &str, options: &Options) -> Result<i32> {
    let mut inside = absolute_inside(inside);
    let mut rebase = None;
    if path != "-" {
        let parent = parent_and_name(&local_path(path)).0;
        if !Path::new(&parent).is_dir() {
            return Err(Failure::message(format!("invalid output path: directory {parent:?} does not exist")));
        }
    }
    if options.follow_link
        && let Ok(stat) = client.container_stat_path(container, &inside).await
        && stat.is_symlink()
    {
        rebase = Some(parent_and_name(&inside).1);
        inside = resolve(&inside, &stat);
    }
    let (stat, mut stream) = client.container_archive(container, &inside).await?;
    if path == "-" {
        if crate::stream::terminal::stdout_is_terminal() {
            return Err(Failure::message("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
        }
        while let Some(chunk) = stream.chunk().await? {
            crate::output::write(&chunk)?;
        }
        return Ok(0);
    }
    let target = local_path(path);
    let meta = std::fs::metadata(&target);
    let destination =
        Destination { path: target.clone(), exists: meta.is_ok(), directory: meta.as_ref().is_ok_and(std::fs::Metadata::is_dir) };
    let mut plan = plan(stat.is_directory(), &destination)?;
    if plan.name.is_none() && !names_directory(&inside) {
        plan.name = rebase;
    }
    let folder = open_folder(&plan.directory)?;
    let keep_owners = options.archive && rustix::process::geteuid().is_root();
    let owner = (!keep_owners).then(|| (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let worker = tokio::task::spawn_blocking(move || {
        let options = UnpackOptions { no_overwrite_dir_non_dir: true, owner };
        let mut source = ChannelReader { receiver, chunk: Bytes::new() };
        let outcome = match plan.name {
            None => unpack(folder.as_fd(), ".", &mut source, options).map_err(|error| error.to_string()),
            Some(name) => renamed(source, name, folder, options),
        };
        outcome.map_err(Failure::message)
    });
    let size = feed(&mut stream, sender).await?;
    worker.await.map_err(|error| Failure::message(error.to_string()))??;
    report(options, size, &target);
    Ok(0)
}

/// Sends a stream to a thread; one that is gone has said why.
async fn feed(stream: &mut ByteStream, sender: mpsc::Sender<Bytes>) -> Result<u64> {
    let mut size = 0;
    while let Some(chunk) = stream.chunk().await? {
        size += chunk.len() as u64;
        if sender.send(chunk).await.is_err() {
            break;
        }
    }
    Ok(size)
}

/// Unpacks with another name for the archive's root: a thread renames, this one unpacks.
fn renamed(source: ChannelReader, name: String, folder: OwnedFd, options: UnpackOptions) -> std::result::Result<(), String> {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let renamer = std::thread::spawn(move || rename(source, &name, ChannelWriter::new(sender)));
    let mut source = ChannelReader { receiver, chunk: Bytes::new() };
    let unpacked = unpack(folder.as_fd(), ".", &mut source, options).map_err(|error| error.to_string());
    drop(source);
    let renamed = renamer.join().map_err(|_| "the renaming of the archive panicked".to_owned())?;
    unpacked.and(renamed.map_err(|error| error.to_string()))
}

async fn upload(client: &Client, path: &str, container: &str, inside: &str, options: &Options) -> Result<i32> {
    let mut target = absolute_inside(inside);
    let mut found = client.container_stat_path(container, &target).await;
    if let Ok(stat) = &found
        && stat.is_symlink()
    {
        target = resolve(&target, stat);
        found = client.container_stat_path(container, &target).await;
    }
    let archive_options = ArchiveOptions { no_overwrite_dir_non_dir: true, copy_uid_gid: options.archive };
    let directory = found.as_ref().is_ok_and(PathStat::is_directory);
    if path == "-" {
        if !directory {
            return Err(Failure::message(format!("destination \"{container}:{target}\" must be a directory")));
        }
        let (sender, body) = Body::stream("application/x-tar");
        let mut input = crate::stream::pump::read_stdin();
        tokio::task::spawn_local(async move {
            while let Some(chunk) = input.recv().await {
                if sender.send(Ok(chunk)).await.is_err() {
                    return;
                }
            }
        });
        client.container_put_archive(container, &target, archive_options, body).await?;
        return Ok(0);
    }
    let mut source = local_path(path);
    let name = parent_and_name(&source).1;
    if options.follow_link {
        let real = std::fs::canonicalize(&source).map_err(|error| Failure::message(stat_error(&source, &error)))?;
        let tail = if names_directory(&source) { "/." } else { "" };
        source = format!("{}{tail}", real.display());
    }
    let meta = if names_directory(&source) { std::fs::metadata(&source) } else { std::fs::symlink_metadata(&source) };
    let meta = meta.map_err(|error| Failure::message(stat_error(&source, &error)))?;
    let plan = plan(meta.is_dir(), &Destination { path: target.clone(), exists: found.is_ok(), directory })?;
    let new_name = plan.name.or_else(|| (options.follow_link && !names_directory(&source)).then_some(name));
    let (sender, body) = Body::stream("application/x-tar");
    let counter = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = counter.clone();
    let packer = tokio::task::spawn_blocking(move || send_packed(&source, new_name, sender, &counted));
    let outcome = client.container_put_archive(container, &plan.directory, archive_options, body).await;
    let packed = packer.await.map_err(|error| Failure::message(error.to_string()))?;
    // What the engine says explains a packer that was broken off.
    outcome?;
    packed.map_err(Failure::message)?;
    report(options, counter.load(std::sync::atomic::Ordering::Relaxed), &format!("{container}:{target}"));
    Ok(0)
}

fn stat_error(path: &str, error: &std::io::Error) -> String {
    crate::parse::open_error(path, error).replacen("open ", "lstat ", 1)
}

/// Packs a local path into a request's body; an error breaks the request off.
fn send_packed(
    source: &str,
    new_name: Option<String>,
    sender: mpsc::Sender<std::io::Result<Bytes>>,
    counter: &std::sync::atomic::AtomicU64,
) -> std::result::Result<(), String> {
    let root = open_folder("/").map_err(|failure| failure.text().to_owned())?;
    let errors = sender.clone();
    let mut body = BodyWriter { sender, counter };
    let outcome = match new_name {
        None => pack(root.as_fd(), source, &mut std::io::BufWriter::with_capacity(CHUNK, &mut body))
            .map(drop)
            .map_err(|error| error.to_string()),
        Some(name) => {
            let (sender, receiver) = mpsc::channel(CHUNKS);
            let source = source.to_owned();
            let packer = std::thread::spawn(move || pack(root.as_fd(), &source, &mut ChannelWriter::new(sender)).map(drop));
            let renamed =
                rename(ChannelReader { receiver, chunk: Bytes::new() }, &name, std::io::BufWriter::with_capacity(CHUNK, &mut body));
            let packed = packer.join().map_err(|_| "the packing panicked".to_owned())?;
            renamed.map_err(|error| error.to_string()).and(packed.map_err(|error| error.to_string()))
        }
    };
    if let Err(error) = &outcome {
        drop(errors.blocking_send(Err(std::io::Error::other(error.clone()))));
    }
    outcome
}

/// A container path from its root.
fn absolute_inside(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Where a link in the container leads.
fn resolve(path: &str, stat: &PathStat) -> String {
    if stat.link_target.starts_with('/') {
        return stat.link_target.clone();
    }
    let parent = parent_and_name(path).0;
    crate::parse::mounts::absolute(&format!("{parent}/{}", stat.link_target))
}

fn open_folder(path: &str) -> Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags, open};
    open(PathBuf::from(path), OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())
        .map_err(|error| Failure::message(format!("open {path}: {}", std::io::Error::from(error))))
}

fn report(options: &Options, size: u64, target: &str) {
    use std::io::IsTerminal as _;
    if !options.quiet && std::io::stderr().is_terminal() {
        #[expect(clippy::cast_precision_loss, reason = "sizes are shown with three digits")]
        let size = human_size_precision(size as f64, 3);
        crate::output::error_line(&format!("Successfully copied {size} to {target}"));
    }
}

/// Copies an archive with another name for its root, the first part of every path.
fn rename(source: impl Read, name: &str, sink: impl Write) -> naru_store::Result<()> {
    let mut reader = Reader::new(std::io::BufReader::with_capacity(CHUNK, source));
    let mut writer = Writer::new(sink);
    while let Some(mut entry) = reader.next_entry()? {
        entry.path = with_root(&entry.path, name);
        if entry.kind == Kind::Link {
            entry.link = with_root(&entry.link, name);
        }
        if entry.kind == Kind::File {
            let extents = entry.sparse.take();
            let mut data = Expanded::new(&mut reader, &entry, extents);
            writer.file(&entry, &mut data)?;
        } else {
            writer.entry(&entry)?;
        }
    }
    writer.finish()?;
    // The engine's answer may go on after the archive's end; a reader that stops early would break it off.
    drop(std::io::copy(&mut reader.into_inner(), &mut std::io::sink()));
    Ok(())
}

fn with_root(path: &[u8], name: &str) -> Vec<u8> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let rest = path.iter().position(|&byte| byte == b'/').map_or(&b""[..], |at| &path[at..]);
    [name.as_bytes(), rest].concat()
}

/// The data of an entry, holes filled with zeroes.
struct Expanded<'a, R> {
    reader: &'a mut Reader<R>,
    extents: std::vec::IntoIter<naru_store::tar::Extent>,
    /// Zeroes before the next data.
    zeroes: u64,
    data: u64,
    position: u64,
    size: u64,
}

impl<'a, R: Read> Expanded<'a, R> {
    fn new(reader: &'a mut Reader<R>, entry: &Entry, extents: Option<Vec<naru_store::tar::Extent>>) -> Self {
        let whole = vec![naru_store::tar::Extent { offset: 0, length: entry.size }];
        Self { reader, extents: extents.unwrap_or(whole).into_iter(), zeroes: 0, data: 0, position: 0, size: entry.size }
    }
}

impl<R: Read> Read for Expanded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.zeroes == 0 && self.data == 0 {
            match self.extents.next() {
                Some(extent) => {
                    self.zeroes = extent.offset.saturating_sub(self.position);
                    self.data = extent.length;
                }
                None if self.position < self.size => self.zeroes = self.size - self.position,
                None => return Ok(0),
            }
        }
        let limit = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if self.zeroes > 0 {
            let count = limit(self.zeroes);
            buffer[..count].fill(0);
            self.zeroes -= count as u64;
            self.position += count as u64;
            return Ok(count);
        }
        let count = limit(self.data);
        let got = self.reader.read_data(&mut buffer[..count]).map_err(|error| std::io::Error::other(error.to_string()))?;
        if got == 0 {
            return Ok(0);
        }
        self.data -= got as u64;
        self.position += got as u64;
        Ok(got)
    }
}

/// Reads chunks that come through a channel.
struct ChannelReader {
    receiver: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.chunk.len());
        buffer[..count].copy_from_slice(&self.chunk.split_to(count));
        Ok(count)
    }
}

/// Writes chunks into a channel.
struct ChannelWriter {
    sender: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

impl ChannelWriter {
    fn new(sender: mpsc::Sender<Bytes>) -> Self {
        Self { sender, buffer: Vec::with_capacity(CHUNK) }
    }
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.buffer));
        self.sender.blocking_send(chunk).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}

/// Writes into a request's body and counts.
struct BodyWriter<'a> {
    sender: mpsc::Sender<std::io::Result<Bytes>>,
    counter: &'a std::sync::atomic::AtomicU64,
}

impl Write for &mut BodyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.sender.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        self.counter.fetch_add(bytes.len() as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_split() {
        assert_eq!(split("web:/a"), (Some("web"), "/a"));
        assert_eq!(split("./web:/a"), (None, "./web:/a"));
        assert_eq!(split("/x:y"), (None, "/x:y"));
        assert_eq!(split("plain"), (None, "plain"));
        assert_eq!(split("-"), (None, "-"));
        assert_eq!(parent_and_name("/a/b/"), ("/a".to_owned(), "b".to_owned()));
        assert_eq!(parent_and_name("/a/b/."), ("/a".to_owned(), "b".to_owned()));
        assert_eq!(local_path("/a//b/."), "/a/b/.");
        assert_eq!(local_path("/"), "/");
    }

    #[test]
    fn destinations_follow_the_rules_of_cp() {
        let to = |path: &str, exists, directory| Destination { path: path.to_owned(), exists, directory };
        let made = |directory: &str, name: Option<&str>| Plan { directory: directory.to_owned(), name: name.map(str::to_owned) };
        assert_eq!(plan(true, &to("/d", true, true)).expect("into"), made("/d", None));
        assert_eq!(plan(false, &to("/d/f", true, false)).expect("over"), made("/d", Some("f")));
        assert_eq!(plan(true, &to("/d/new", false, false)).expect("new"), made("/d", Some("new")));
        assert_eq!(plan(true, &to("/f", true, false)).expect_err("file").text(), "cannot copy directory");
        assert_eq!(plan(false, &to("/new/", false, false)).expect_err("folder").text(), "no such directory");
    }

    #[test]
    fn roots_are_renamed() {
        let mut archive = Writer::new(Vec::new());
        archive.entry(&Entry::new("etc/", Kind::Dir, 0o755)).expect("entry");
        archive.bytes("etc/etc", 0o644, b"data").expect("file");
        let mut link = Entry::new("etc/link", Kind::Link, 0o644);
        link.link = b"etc/etc".to_vec();
        archive.entry(&link).expect("link");
        let archive = archive.finish().expect("archive");
        let mut out = Vec::new();
        rename(archive.as_slice(), "new", &mut out).expect("renamed");
        let mut reader = Reader::new(out.as_slice());
        let mut seen = Vec::new();
        while let Some(entry) = reader.next_entry().expect("entry") {
            seen.push((String::from_utf8(entry.path).expect("text"), String::from_utf8(entry.link).expect("text")));
        }
        let expected = [("new/", ""), ("new/etc", ""), ("new/link", "new/etc")];
        assert_eq!(seen, expected.map(|(path, link)| (path.to_owned(), link.to_owned())));
    }
}
