//! The files of an image archive, in one pass: what looks like a layer is taken in as it streams by, the rest (metadata) is
//! kept in small files. Names in the archive are keys of a map, never paths.
//!
//! The order of an archive's files is arbitrary, and its metadata mostly comes last: so whether an image will want a layer is
//! not known when it passes. One that none wants goes when the ingest does; one that could not be unpacked is an error only
//! for the image that wants it.

use crate::apply::components;
use crate::config::MAX_METADATA;
use crate::error::{At, Error, Result, printable};
use crate::index::LayerBlob;
use crate::ingest::{Expected, Ingest, Report};
use crate::limits::Names;
use crate::partial::keeps;
use crate::stream::{BUFFER, Compression, Hashing, plain};
use crate::tar::{Kind, Reader, starts_archive};
use naru_types::Digest;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::PathBuf;

/// Files in one archive; an image of 500 layers in the oldest format has 1500.
const MAX_FILES: usize = 100_000;

/// Bytes after the end of an archive that are looked at.
const MAX_TRAILER: u64 = 64 << 20;

/// What became of a file.
#[derive(Debug)]
enum Spooled {
    Layer(LayerBlob),
    Metadata {
        path: PathBuf,
        digest: Digest,
        size: u64,
    },
    /// It looked like a layer, but this is wrong with it.
    Refused(String),
}

/// The archive's files by their names.
#[derive(Debug)]
pub(crate) struct Files {
    files: HashMap<Vec<u8>, Spooled>,
    links: HashMap<Vec<u8>, Vec<u8>>,
}

/// The present entry's data as a stream.
struct Data<'a, R>(&'a mut Reader<R>);

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.0.read_data(buffer)?)
    }
}

impl Files {
    /// Reads a whole archive, plain or compressed.
    pub fn read(ingest: &Ingest, source: &mut dyn Read, progress: Report<'_>) -> Result<Files> {
        let (stream, _) = plain(source)?;
        let mut reader = Reader::new(BufReader::with_capacity(BUFFER, stream));
        let mut files = Files { files: HashMap::new(), links: HashMap::new() };
        let mut names = Names::default();
        while let Some(entry) = reader.next_entry()? {
            let name = components(&entry.path)?.join(&b'/');
            names.remember(&name, "files of an image archive")?;
            names.remember(&entry.link, "files of an image archive")?;
            if files.files.len() + files.links.len() >= MAX_FILES {
                return Err(Error::TooLarge { what: "image archive".into(), limit: format!("{MAX_FILES} files") });
            }
            match entry.kind {
                Kind::Dir => {}
                Kind::Symlink => {
                    let above = name.iter().rposition(|b| *b == b'/').map_or(&b""[..], |at| &name[..at]);
                    let target = if entry.link.starts_with(b"/") { entry.link.clone() } else { [above, b"/", &entry.link].concat() };
                    files.links.insert(name, clean(&target));
                }
                Kind::Link => {
                    files.links.insert(name, clean(&entry.link));
                }
                Kind::File if entry.sparse.is_none() => {
                    let spooled = take(ingest, &name, entry.size, &mut Data(&mut reader), progress)?;
                    if let Some(Spooled::Metadata { path, .. }) = files.files.insert(name, spooled)
                        && !path.as_os_str().is_empty()
                    {
                        std::fs::remove_file(&path).at("remove", path.display())?;
                    }
                }
                _ => return Err(Error::entry(&entry.path, "an image archive holds plain files only")),
            }
        }
        // What follows is padding. It is read so that a stream that is cut off or damaged is not taken for a whole one.
        io::copy(&mut reader.into_inner().take(MAX_TRAILER), &mut io::sink()).map_err(Error::from_read)?;
        Ok(files)
    }

    fn file(&self, name: &[u8]) -> Option<&Spooled> {
        let mut name = clean(name);
        // A link may point to a link, not in a circle.
        for _ in 0..8 {
            if let Some(file) = self.files.get(&name) {
                return Some(file);
            }
            name.clone_from(self.links.get(&name)?);
        }
        None
    }

    /// True when the archive has a file of that name.
    pub fn has(&self, name: &[u8]) -> bool {
        self.file(name).is_some()
    }

    /// A manifest, config or index, whole; its digest was taken when it passed.
    pub fn metadata(&self, name: &[u8]) -> Result<Option<(Vec<u8>, Digest)>> {
        match self.file(name) {
            None => Ok(None),
            Some(Spooled::Metadata { size, .. }) if *size > MAX_METADATA => Err(too_large(name)),
            Some(Spooled::Metadata { path, digest, .. }) => Ok(Some((std::fs::read(path).at("read", printable(name))?, digest.clone()))),
            Some(_) => Err(Error::invalid("image archive", format!("{:?} is a layer, not metadata", printable(name)))),
        }
    }

    /// The layer in a file.
    pub fn layer(&self, name: &[u8]) -> Result<LayerBlob> {
        let refuse = |reason: &str| Error::invalid("image archive", format!("layer {:?} {reason}", printable(name)));
        match self.file(name) {
            None => Err(refuse("is missing")),
            Some(Spooled::Layer(layer)) => Ok(layer.clone()),
            Some(Spooled::Metadata { .. }) => Err(refuse("is not a tar archive")),
            Some(Spooled::Refused(reason)) => Err(refuse(&format!("is refused: {reason}"))),
        }
    }
}

fn too_large(name: &[u8]) -> Error {
    Error::TooLarge { what: format!("{} of the image archive", printable(name)), limit: "4 MiB".into() }
}

/// Takes one file in.
fn take(ingest: &Ingest, name: &[u8], size: u64, data: &mut dyn Read, progress: Report<'_>) -> Result<Spooled> {
    // Nothing else can be in these: what is too large for one need not pass.
    if size > MAX_METADATA && matches!(name, b"index.json" | b"manifest.json" | b"oci-layout" | b"repositories") {
        return Err(too_large(name));
    }
    let named = digest_in(name);
    if name.starts_with(b"blobs/")
        && let Some(layer) = named.as_ref().and_then(|digest| ingest.known_blob(digest))
    {
        // The name is a promise of its content: should it lie, the content that has the digest is what counts.
        return Ok(Spooled::Layer(layer));
    }
    let mut head = Vec::new();
    data.take(512).read_to_end(&mut head).map_err(Error::from_read)?;
    let layer = Compression::detect(&head) != Compression::None || starts_archive(&head);
    let mut whole = io::Cursor::new(head).chain(data);
    if !layer {
        return keep(ingest, size, &mut whole);
    }
    // What was promised is checked by the image that wants it: in old archives the name says nothing of the content.
    let expected = Expected { size: Some(size), ..Expected::default() };
    let tell = |mut news: crate::ingest::Progress| {
        news.layer.clone_from(&named);
        progress(news);
    };
    match ingest.layer(&mut whole, &expected, &tell) {
        Ok(layer) => Ok(Spooled::Layer(layer)),
        // The stream itself or the host failed.
        Err(error) if keeps(&error) => Err(error),
        Err(error @ Error::TooLarge { .. }) => Err(error),
        Err(error) => Ok(Spooled::Refused(error.to_string())),
    }
}

/// Keeps a file that is no layer; of one that is too large for metadata only that fact.
fn keep(ingest: &Ingest, size: u64, data: &mut dyn Read) -> Result<Spooled> {
    if size > MAX_METADATA {
        return Ok(Spooled::Metadata { path: PathBuf::new(), digest: Digest::of(b""), size });
    }
    let path = ingest.spool_path();
    let file = File::create_new(&path).at("create", path.display())?;
    let mut sink = Hashing::new(file, MAX_METADATA, "file of an image archive");
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).map_err(Error::from_read)?;
    sink.write_all(&bytes).at("write", path.display())?;
    let (digest, size, _) = sink.finish();
    Ok(Spooled::Metadata { path, digest, size })
}

/// The digest a file is called by: `blobs/sha256/<hex>`, `<hex>/layer.tar`.
fn digest_in(name: &[u8]) -> Option<Digest> {
    let name = std::str::from_utf8(name).ok()?;
    let hex = name.strip_prefix("blobs/sha256/").or_else(|| name.strip_suffix("/layer.tar"))?;
    format!("sha256:{hex}").parse().ok()
}

/// A name in the archive without `.`, `..` and extra slashes.
pub(crate) fn clean(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}
