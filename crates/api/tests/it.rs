//! Answers of a real engine (28.5, API 1.51) pass through the models unchanged: no key lost, added or misspelt.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use naru_api::models::*;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

fn round_trip<T: DeserializeOwned + Serialize>(name: &str, text: &str) {
    let expected: Value = serde_json::from_str(text).unwrap();
    let strict: T = serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(serde_json::to_value(&strict).unwrap(), expected, "{name}, read by serde_json");
    let lenient: T = naru_api::json::from_slice(text.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(serde_json::to_value(&lenient).unwrap(), expected, "{name}, read as Go does");
}

#[test]
fn answers_of_a_real_engine_round_trip() {
    round_trip::<ContainerInspect>("container-inspect", include_str!("fixtures/container-inspect.json"));
    round_trip::<Vec<ContainerSummary>>("container-list", include_str!("fixtures/container-list.json"));
    round_trip::<ContainerStats>("stats", include_str!("fixtures/stats.json"));
    round_trip::<ContainerTop>("top", include_str!("fixtures/top.json"));
    round_trip::<Vec<FilesystemChange>>("changes", include_str!("fixtures/changes.json"));
    round_trip::<Vec<ImageSummary>>("image-list", include_str!("fixtures/image-list.json"));
    round_trip::<Vec<HistoryItem>>("image-history", include_str!("fixtures/image-history.json"));
    round_trip::<Vec<Network>>("networks", include_str!("fixtures/networks.json"));
    round_trip::<Network>("network", include_str!("fixtures/network.json"));
    round_trip::<VolumeListResponse>("volumes", include_str!("fixtures/volumes.json"));
    round_trip::<SystemVersion>("version", include_str!("fixtures/version.json"));
    round_trip::<SystemInfo>("info", include_str!("fixtures/info.json"));
    round_trip::<DiskUsage>("disk-usage", include_str!("fixtures/disk-usage.json"));
    round_trip::<EventMessage>("event", include_str!("fixtures/event.json"));
    round_trip::<ImageInspect>("image-inspect", include_str!("fixtures/image-inspect.json"));
}
