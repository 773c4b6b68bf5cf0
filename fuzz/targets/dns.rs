//! A container's query by either transport, and what a server makes of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_net::dns::message::{Reply, Transport, is_answer, respond};
use naru_net::dns::{Answer, Zone};
use std::net::{IpAddr, SocketAddr};

/// Every name is ours: those of one letter have many addresses.
struct All;

impl Zone for All {
    fn lookup(&self, name: &str) -> Answer {
        assert!(!name.ends_with('.') && name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()), "{name:?}");
        let many = if name.len() == 1 { 250 } else { 2 };
        Answer::Addresses((0..many).flat_map(|n| [IpAddr::from([10, 0, 0, n]), IpAddr::from([n; 16])]).collect())
    }

    fn reverse(&self, address: IpAddr) -> Option<String> {
        Some(format!("x{}.y", address.is_ipv4()))
    }

    fn upstream(&self) -> Vec<SocketAddr> {
        vec![]
    }
}

fuzz_target!(|data: &[u8]| {
    for transport in [Transport::Udp, Transport::Tcp] {
        if let Reply::Answer(answer) = respond(data, transport, &All) {
            assert!(answer.len() >= 12 && answer[..2] == data[..2] && answer[2] & 0x80 != 0);
            assert!(answer.len() <= 65535);
            // Whoever asked takes it for the answer, unless the question could not be read.
            let identifier = u16::from_be_bytes([data[0], data[1]]);
            assert!(answer.len() == 12 || is_answer(data, identifier, &answer));
            assert_eq!(respond(&answer, transport, &All), Reply::Nothing);
        }
    }
    let (query, answer) = data.split_at(data.len() / 2);
    is_answer(query, 0, answer);
});
