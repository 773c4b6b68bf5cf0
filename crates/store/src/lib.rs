//! Images, layers and containers' file systems, content-addressed, under one directory:
//!
//! ```text
//! store.db                     images, layers, references (SQLite)
//! lock                         held while a store is open
//! blobs/sha256/<hex>           manifests, configs, layers as they travel
//! blobs/sha256/<hex>.parts     the recipe to make a plain layer's blob of its unpacked files; `.aside`: what of its data is
//!                              in no file any more; `.zst`: a compressed copy instead
//! layers/<diff id>/            layers unpacked once, shared by all images, never written again
//! init/<image id>/             mount points that the image lacks
//! containers/<id>/image        a symbolic link whose text is the image's id
//! containers/<id>/upper, work  overlay: what the container wrote
//! init/<image id>.tree         btrfs: the image's layers merged, in a subvolume
//! containers/<id>/root         vfs: a full copy; btrfs: a snapshot of the tree
//! ahead/<random>/              the next container's files, made before anyone asks
//! partial/<hex>                blobs that arrived in part, or whole for an image that is not recorded yet
//! staging/<random>/            what an ingest has not finished
//! trash/<random>/              what is being deleted
//! ```
//!
//! Everything arrives in `staging`, is checked and renamed into place, synced and only then recorded; what is deleted is
//! first renamed into `trash`. So a crash at any point leaves files without a record at most, and [`Store::open`] removes
//! them (but for `partial`, which the next attempt goes on with).
//! The image's id is the digest of its config. A container pins its image: one that is removed by force stays, hidden,
//! until its last container goes. Making a container's file system costs no sync and no database write.
//!
//! [`Store::check`] tells whether all that is recorded is there and unharmed, [`Store::repair`] puts it right.
//!
//! Deliberately absent: the network (a registry client feeds [`Ingest`]), and any knowledge of containers beyond their
//! id and image.

#![warn(missing_docs)]

mod ahead;
mod apply;
pub mod archive;
mod blobs;
mod btrfs;
mod check;
mod commit;
mod compare;
mod config;
mod copy;
mod deflate;
mod diff;
mod error;
mod held;
mod images;
mod index;
mod ingest;
mod layered;
mod limits;
mod load;
mod manifest;
mod outgoing;
mod overlay;
mod pack;
mod partial;
mod patch;
mod pipeline;
mod recipe;
mod repair;
mod root;
mod save;
mod snapshot;
mod spool;
mod store;
mod stream;
pub mod tar;
mod usage;
mod variants;

pub use check::Damage;
pub use commit::{CommitOptions, ImportOptions};
pub use compare::{Difference, Wrong};
pub use config::{Healthcheck, HistoryEntry, ImageConfig, MAX_LAYERS, RootFs, RunConfig};
pub use diff::{Change, ChangeKind};
pub use error::{Error, Result};
pub use held::Held;
pub use images::{History, Image, ImageUser, PruneOptions, RemoveOptions, Removed};
pub use index::{IndexBlob, LayerBlob};
pub use ingest::{Expected, Ingest, NewImage, Phase, Progress, Report};
pub use limits::Limits;
pub use load::{LoadOptions, Loaded};
pub use manifest::is_layer_type;
pub use outgoing::Outgoing;
pub use overlay::MountOptions;
pub use patch::ConfigPatch;
pub use repair::{Refetch, Repaired};
pub use save::SaveOptions;
pub use snapshot::{Directories, SnapshotSize};
pub use store::{Driver, Store, StoreConfig};
pub use usage::{DiskUsage, OnDisk, blocks_below};
pub use variants::{Target, Variant, VariantKind};
