//! `resolv.conf`: the host's file, then search domains and options, parted by zero bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_fuzz::parts;
use naru_net::resolv::{ResolvConf, is_stub, render, render_for_resolver};
use std::net::IpAddr;

fuzz_target!(|data: &[u8]| {
    let parts = parts(data);
    let (host, given) = parts.split_first().expect("a split has one part at least");
    is_stub(host);
    let (search, options) = given.split_at(given.len() / 2);
    let dns: Vec<IpAddr> = given.iter().filter_map(|word| word.parse().ok()).collect();
    let text = render(host, &dns, search, options);
    for line in text.lines() {
        let known = ["nameserver ", "search ", "options "].iter().any(|keyword| line.starts_with(keyword));
        assert!(known, "{line:?}");
    }
    let read = ResolvConf::parse(&text);
    assert!((1..=3).contains(&read.servers.len()), "{text}");
    assert!(!dns.is_empty() || read.servers.iter().all(|server| !server.is_loopback()), "{text}");
    let made = render_for_resolver(host, &dns, search, options);
    assert_eq!(ResolvConf::parse(&made.text).servers.len(), 1, "{}", made.text);
    assert!(made.upstream.len() <= 3);
});
