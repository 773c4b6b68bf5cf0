//! The store on the real kernel: images from tar streams, mounts, diffs, commits, archives. Needs root.

mod archive;
mod hostile;
mod images;
mod snapshots;
mod support;
