//! Tar streams: a reader that gives every archive one meaning (that of Go's archive/tar, which Docker uses), and a
//! deterministic writer.
//!
//! Read: v7, ustar, star, GNU (long names, base-256 numbers, old sparse), PAX (all records, sparse 0.0, 0.1, 1.0, global
//! headers, which are skipped). Names are bytes and come out as they are in the archive: what they may do is decided by
//! whoever applies them. Written: ustar, with a PAX header where ustar cannot hold a value.

mod header;
mod pax;
mod read;
mod write;

pub use read::Reader;
pub use write::Writer;

/// Size of a header and unit of all sizes.
pub(crate) const BLOCK: usize = 512;

/// Largest extended header or long name: as in Go's reader.
pub(crate) const MAX_META: u64 = 1 << 20;

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file with data.
    File,
    /// A hard link to an earlier entry.
    Link,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A directory.
    Dir,
    /// A named pipe.
    Fifo,
}

/// A piece of a sparse file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where in the file.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// An entry's header, with all extensions applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as it is in the archive.
    pub path: Vec<u8>,
    /// What it makes.
    pub kind: Kind,
    /// Permission bits with setuid, setgid, sticky.
    pub mode: u32,
    /// Owner; refused where it does not fit the kernel.
    pub uid: i64,
    /// Group.
    pub gid: i64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds within the second.
    pub mtime_nanos: u32,
    /// Size of the file once written, with holes.
    pub size: u64,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The data's places when the file has holes; ordered, within `size`, not overlapping.
    pub sparse: Option<Vec<Extent>>,
}

impl Entry {
    /// An entry with everything at its default.
    pub fn new(path: impl Into<Vec<u8>>, kind: Kind, mode: u32) -> Self {
        Entry {
            path: path.into(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: 0,
            mtime_nanos: 0,
            size: 0,
            link: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        }
    }
}

/// True when the bytes look like the start of an archive: a header with its checksum, or the end of an empty one.
pub(crate) fn starts_archive(head: &[u8]) -> bool {
    let Some(block) = head.first_chunk::<BLOCK>() else { return false };
    block.iter().all(|b| *b == 0) || header::Header(block).checksum_holds()
}

#[cfg(test)]
mod tests;
