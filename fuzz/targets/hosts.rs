//! `/etc/hosts`: names, parted by zero bytes, must not become further entries.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_fuzz::parts;
use naru_net::hosts::{HostEntry, render};
use std::net::IpAddr;

fuzz_target!(|data: &[u8]| {
    let entries: Vec<HostEntry> =
        parts(data).chunks(2).map(|names| HostEntry { address: IpAddr::from([192, 0, 2, 1]), names: names.to_vec() }).collect();
    let (fixed, text) = (render(&[], &[]), render(&entries, &entries));
    let added = text.strip_prefix(&fixed).expect("the fixed part comes first");
    assert!(added.lines().count() <= 2 * entries.len(), "{added:?}");
    assert!(added.lines().all(|line| line.starts_with("192.0.2.1\t")), "{added:?}");
});
