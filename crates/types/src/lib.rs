//! The words every part of Naru shares: identifiers, references, sizes, signals, error kinds.
//!
//! Data only: nothing here performs I/O. Every identifier is a newtype made by parsing, so that a value of the type
//! is valid by construction and is never checked again further down.

#![warn(missing_docs)]

mod digest;
mod id;
mod kind;
pub mod names;
mod platform;
mod reference;
mod signal;
mod size;

pub use digest::Digest;
pub use id::{ContainerId, Name};
pub use kind::{ErrorKind, ParseError};
pub use platform::Platform;
pub use reference::ImageRef;
pub use signal::Signal;
pub use size::ByteSize;

/// Serde as the `Display`/`FromStr` text of a type.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_text;
