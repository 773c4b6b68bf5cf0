//! Bodies of requests, read as Go does.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_api::json;
use naru_api::models::{
    ContainerCreateRequest, ExecCreateRequest, NetworkConnectRequest, NetworkCreateRequest, UpdateRequest, VolumeCreateRequest,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|data: &[u8]| {
    stable::<ContainerCreateRequest>(data);
    stable::<ExecCreateRequest>(data);
    stable::<NetworkConnectRequest>(data);
    stable::<NetworkCreateRequest>(data);
    stable::<UpdateRequest>(data);
    stable::<VolumeCreateRequest>(data);
});

/// What was understood, written out, is understood alike.
fn stable<T: DeserializeOwned + Serialize>(data: &[u8]) {
    if let Ok(request) = json::from_slice::<T>(data) {
        let text = serde_json::to_string(&request).expect("a request is plain data");
        let again: T = json::from_slice(text.as_bytes()).expect("our own JSON can be read");
        assert_eq!(serde_json::to_string(&again).expect("a request is plain data"), text);
    }
}
