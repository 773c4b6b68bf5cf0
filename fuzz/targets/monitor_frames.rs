//! The protocol between daemon and monitor.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_runtime::monitor::{Event, ExitRecord, Request, Response, decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

fuzz_target!(|data: &[u8]| {
    same::<Request>(data);
    same::<Response>(data);
    same::<Event>(data);
    same::<ExitRecord>(data);
});

fn same<T: DeserializeOwned + Serialize + PartialEq + Debug>(data: &[u8]) {
    if let Ok(value) = decode::<T>(data) {
        let frame = encode(&value);
        assert_eq!(frame[..4], u32::try_from(frame.len() - 4).expect("inputs are small").to_le_bytes());
        assert_eq!(decode::<T>(&frame[4..]).expect("our own frame can be read"), value);
    }
}
