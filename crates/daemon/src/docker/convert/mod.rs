//! Between Docker's wire types and the engine's.

pub mod commit;
pub mod create;
pub mod host;
pub mod image;
pub mod log;
pub mod mounts;
pub mod network;
pub mod resources;
pub mod time;
pub mod update;

use naru_api::filters::Filters;
use std::collections::BTreeMap;

/// `label` and `label!` filters together.
pub fn labels_match(filters: &Filters, labels: &BTreeMap<String, String>) -> bool {
    let unwanted = filters.contains("label!") && filters.matches_labels("label!", labels);
    filters.matches_labels("label", labels) && !unwanted
}
