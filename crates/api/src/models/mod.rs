//! Wire structs of the Docker Engine API (1.51), one file per resource, named as in its swagger.
//!
//! Every struct has a default for every field and keys in Docker's spelling. `Option` stands where Docker tells
//! `null` from empty; a field is left out of the output only where Docker leaves it out. Read requests with
//! [`crate::json::from_slice`], which matches keys as Go does; `serde_json` alone would be stricter than clients expect.

pub mod auth;
pub mod container;
pub mod error;
pub mod events;
pub mod exec;
pub mod host_config;
pub mod image;
pub mod network;
pub mod progress;
pub mod stats;
pub mod system;
pub mod volume;

pub use auth::*;
pub use container::*;
pub use error::*;
pub use events::*;
pub use exec::*;
pub use host_config::*;
pub use image::*;
pub use network::*;
pub use progress::*;
pub use stats::*;
pub use system::*;
pub use volume::*;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// Gives wire structs their common derives: `PascalCase` keys, defaults for absent fields.
macro_rules! wire {
    ($($(#[$meta:meta])* pub struct $name:ident { $($body:tt)* })+) => {
        $(
            #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
            #[serde(default, rename_all = "PascalCase")]
            $(#[$meta])*
            pub struct $name { $($body)* }
        )+
    };
}
pub(crate) use wire;

/// A string to string map as Docker writes it: sorted, possibly `null`.
pub type StringMap = BTreeMap<String, String>;

/// The `{}` that Go's `struct{}` becomes: the value side of a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Empty {}

/// A set on the wire: `{"80/tcp": {}}`.
pub type Set = BTreeMap<String, Empty>;

pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

pub(crate) fn is_none_or_empty<T: IsEmpty>(value: &Option<T>) -> bool {
    value.as_ref().is_none_or(IsEmpty::is_empty)
}

/// What Go's `omitempty` asks of slices and maps.
pub(crate) trait IsEmpty {
    fn is_empty(&self) -> bool;
}

impl<T> IsEmpty for Vec<T> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl<K, V> IsEmpty for BTreeMap<K, V> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl IsEmpty for String {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

/// Docker's `StrSlice`: a command given as one string or as a list.
pub(crate) fn string_or_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    struct Visitor;
    impl<'de> serde::de::Visitor<'de> for Visitor {
        type Value = Option<Vec<String>>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a string or a list of strings")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
            Ok(Some(vec![value.to_owned()]))
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = seq.next_element::<String>()? {
                list.push(item);
            }
            Ok(Some(list))
        }
    }
    deserializer.deserialize_any(Visitor)
}
