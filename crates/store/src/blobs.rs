//! Blobs: files named by the digest of their content. Of a layer that came as a plain tar there is a recipe (see there), or
//! a compressed copy; reading gives the plain bytes again, so that `save` sends exactly what came.

use crate::config::MAX_METADATA;
use crate::error::{At, Error, Result};
use crate::recipe::Playback;
use crate::store::Store;
use naru_types::Digest;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

/// The digest of the blob that a file in `blobs/sha256` belongs to.
pub(crate) fn digest_of_file(name: &str) -> Option<Digest> {
    let hex = [".zst", ".parts", ".aside"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
    format!("sha256:{hex}").parse().ok()
}

impl Store {
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn packed_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(format!("{}.zst", digest.hex()))
    }

    pub(crate) fn recipe_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(format!("{}.parts", digest.hex()))
    }

    /// True when the blob is here.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        [self.blob_path(digest), self.recipe_path(digest), self.packed_path(digest)].iter().any(|path| path.exists())
    }

    /// The content of a blob: a manifest, a config or a layer as it travels.
    pub fn blob(&self, digest: &Digest) -> Result<Box<dyn Read + Send>> {
        match File::open(self.blob_path(digest)) {
            Ok(file) => return Ok(Box::new(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).at("open blob", digest),
        }
        // The digest of a plain blob is its layer's.
        match Playback::open(&self.recipe_path(digest), &self.layer_path(digest)) {
            Ok(blob) => return Ok(Box::new(blob)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).at("open blob", digest),
        }
        let file = File::open(self.packed_path(digest)).at("open blob", digest)?;
        let decoder = zstd::stream::read::Decoder::new(file).at("open blob", digest)?;
        Ok(Box::new(decoder))
    }

    /// The content of a blob from `offset` on: what an upload that goes on needs.
    pub fn blob_at(&self, digest: &Digest, offset: u64) -> Result<Box<dyn Read + Send>> {
        match File::open(self.blob_path(digest)) {
            Ok(mut file) => {
                file.seek(SeekFrom::Start(offset)).at("read blob", digest)?;
                return Ok(Box::new(file));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).at("open blob", digest),
        }
        let mut blob = self.blob(digest)?;
        io::copy(&mut (&mut blob).take(offset), &mut io::sink()).at("read blob", digest)?;
        Ok(blob)
    }

    /// A manifest or config, whole; its digest is checked.
    pub fn read_metadata(&self, digest: &Digest) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.blob(digest)?.take(MAX_METADATA + 1).read_to_end(&mut bytes).at("read blob", digest)?;
        if bytes.len() as u64 > MAX_METADATA {
            return Err(Error::TooLarge { what: format!("blob {digest}"), limit: "4 MiB".into() });
        }
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(Error::DigestMismatch { what: "blob".into(), expected: digest.clone(), found });
        }
        Ok(bytes)
    }
}
