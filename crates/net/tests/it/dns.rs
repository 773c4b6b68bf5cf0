//! The resolver with real sockets in a container's namespace, and servers it forwards to.

use crate::support::*;
use naru_net::dns::{Answer, Serving, Zone, redirect, serve};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const A: u16 = 1;
const AAAA: u16 = 28;

struct Names {
    upstream: Mutex<Vec<SocketAddr>>,
}

impl Zone for Names {
    fn lookup(&self, name: &str) -> Answer {
        match name {
            "web" => Answer::Addresses(vec![address("172.30.0.2")]),
            "many" => Answer::Addresses((0..200).map(|n| IpAddr::from([172, 30, 1, n])).collect()),
            _ => Answer::NotOurs,
        }
    }

    fn reverse(&self, of: IpAddr) -> Option<String> {
        (of == address("172.30.0.2")).then(|| "web.net".to_owned())
    }

    fn upstream(&self) -> Vec<SocketAddr> {
        self.upstream.lock().unwrap().clone()
    }
}

/// A container with a resolver of its own.
struct Resolved {
    container: Namespace,
    zone: Arc<Names>,
    runtime: tokio::runtime::Runtime,
    _serving: Serving,
}

impl Resolved {
    fn new(upstream: Vec<SocketAddr>) -> Self {
        let container = Namespace::new();
        let zone = Arc::new(Names { upstream: Mutex::new(upstream) });
        let (udp, tcp, nft) = container.run(|| {
            let any = SocketAddr::from(([127, 0, 0, 11], 0));
            let nft = rustix::net::socket_with(
                AddressFamily::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                Some(rustix::net::netlink::NETFILTER),
            );
            (UdpSocket::bind(any).unwrap(), TcpListener::bind(any).unwrap(), nft.unwrap() as OwnedFd)
        });
        // What an earlier engine made is replaced.
        redirect(nft.try_clone().unwrap(), 1, 1).unwrap();
        redirect(nft, udp.local_addr().unwrap().port(), tcp.local_addr().unwrap().port()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _serving = runtime.block_on(async { serve(OwnedFd::from(udp), OwnedFd::from(tcp), zone.clone()).unwrap() });
        Resolved { container, zone, runtime, _serving }
    }

    fn socket(&self) -> UdpSocket {
        let socket = self.container.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        self.container.run(|| socket.connect("127.0.0.11:53").unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
        socket
    }

    fn ask(&self, name: &str, kind: u16) -> Vec<u8> {
        exchange(&self.socket(), &query(name, kind, None))
    }

    fn ask_tcp(&self, queries: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut stream = self.container.run(|| TcpStream::connect("127.0.0.11:53").unwrap());
        stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
        let mut answers = Vec::new();
        for query in queries {
            stream.write_all(&u16::try_from(query.len()).unwrap().to_be_bytes()).unwrap();
            stream.write_all(query).unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer).unwrap();
            answers.push(answer);
        }
        answers
    }
}

fn exchange(socket: &UdpSocket, query: &[u8]) -> Vec<u8> {
    socket.send(query).unwrap();
    let mut buffer = vec![0; 65535];
    let length = socket.recv(&mut buffer).unwrap();
    buffer.truncate(length);
    assert_eq!(buffer[..2], query[..2], "the identifier");
    buffer
}

fn query(name: &str, kind: u16, size: Option<u16>) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(size.is_some())];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend([kind.to_be_bytes(), 1u16.to_be_bytes()].concat());
    if let Some(size) = size {
        bytes.extend([&[0, 0, 41][..], &size.to_be_bytes(), &[0; 6]].concat());
    }
    bytes
}

/// Code and number of answers.
fn said(answer: &[u8]) -> (u8, u16) {
    (answer[3] & 0xf, u16::from_be_bytes([answer[6], answer[7]]))
}

/// A server that answers with an address of 9.9.9.9, or as `change` makes of it; counts what it was asked.
fn server(change: impl Fn(&mut Vec<u8>) -> bool + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicUsize>) {
    let (udp, count) = (UdpSocket::bind("127.0.0.1:0").unwrap(), Arc::new(AtomicUsize::new(0)));
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(address).unwrap();
    let answer = Arc::new(move |query: &[u8]| {
        let mut answer = query.to_vec();
        answer[2..4].copy_from_slice(&[0x81, 0x80]);
        // After the question, in the place of the client's own OPT record.
        let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        answer.truncate(end);
        (answer[7], answer[11]) = (1, 0);
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 9, 9, 9, 9]);
        change(&mut answer).then_some(answer)
    });
    let (counted, answered) = (count.clone(), answer.clone());
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            counted.fetch_add(1, Ordering::SeqCst);
            if let Some(answer) = answered(&buffer[..length]) {
                udp.send_to(&answer, from).unwrap();
            }
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut query).unwrap();
            let answer = answer(&query).unwrap();
            stream.write_all(&[&u16::try_from(answer.len()).unwrap().to_be_bytes(), &answer[..]].concat()).unwrap();
        }
    });
    (address, count)
}

#[test]
fn names_of_ours_by_either_transport() {
    let resolved = Resolved::new(vec![]);
    assert_eq!(said(&resolved.ask("WEB", A)), (0, 1));
    assert_eq!(said(&resolved.ask("web", AAAA)), (0, 0));
    assert!(resolved.ask("2.0.30.172.in-addr.arpa", 12).ends_with(b"\x03web\x03net\0"));
    let cut = resolved.ask("many", A);
    assert!(cut[2] & 2 != 0 && cut.len() <= 512);
    let whole = resolved.ask_tcp(&[query("many", A, None), query("web", A, None)]);
    assert_eq!((said(&whole[0]), said(&whole[1])), ((0, 200), (0, 1)));
    assert_eq!(said(&exchange(&resolved.socket(), &query("many", A, Some(4096)))), (0, 200));
    // Without servers what is not ours fails at once.
    assert_eq!(said(&resolved.ask("example.org", A)), (2, 0));
    assert_eq!(said(&resolved.ask_tcp(&[query("example.org", A, None)])[0]), (2, 0));
    // A container may have a server of its own on all its addresses.
    let own = resolved.container.run(|| UdpSocket::bind("0.0.0.0:53").unwrap());
    assert_eq!(said(&resolved.ask("web", A)), (0, 1));
    drop(own);
    // Garbage is not answered and harms nobody.
    let socket = resolved.socket();
    for garbage in [&b""[..], b"GET / HTTP/1.0", &[0xff; 4000], &[0; 11]] {
        socket.send(garbage).unwrap();
    }
    assert_eq!(said(&resolved.ask("web", A)), (0, 1));
}

/// A container without rules of its own does not pay for the tracking of its connections; one that has some sees a
/// connection of two directions.
#[test]
fn connections_are_tracked_only_where_the_container_does() {
    let resolved = Resolved::new(vec![]);
    let tracked = || {
        let count = || std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap_or_default();
        resolved.container.run(count).trim().parse().unwrap_or(0)
    };
    let ask_both = || {
        assert_eq!(said(&resolved.ask("web", A)), (0, 1));
        assert_eq!(said(&resolved.ask_tcp(&[query("web", A, None)])[0]), (0, 1));
    };
    ask_both();
    assert_eq!(tracked(), 0);
    resolved.container.nft("add table inet own").unwrap();
    for (chain, hook) in [("out", "output"), ("in", "input")] {
        resolved.container.nft(&format!("add chain inet own {chain} {{ type filter hook {hook} priority 0; policy drop; }}")).unwrap();
        resolved.container.nft(&format!("add rule inet own {chain} ct state established accept")).unwrap();
        resolved.container.nft(&format!("add rule inet own {chain} ip daddr 127.0.0.11 ct state new accept")).unwrap();
    }
    ask_both();
    assert_eq!(tracked(), 2);
}

#[test]
fn the_rest_is_forwarded_to_who_answers() {
    let (good, asked) = server(|_| true);
    let (refusing, refused) = server(|answer| {
        answer[3] |= 5;
        true
    });
    let resolved = Resolved::new(vec![refusing, good]);
    let answer = resolved.ask("example.org", A);
    assert!(said(&answer) == (0, 1) && answer.ends_with(&[9, 9, 9, 9]));
    assert_eq!((asked.load(Ordering::SeqCst), refused.load(Ordering::SeqCst)), (1, 1));
    assert_eq!(said(&resolved.ask_tcp(&[query("example.org", A, None)])[0]), (0, 1));
    // Nobody there, and one that says nothing: the next is asked.
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (silent, _) = server(|_| false);
    for (first, patience) in [(gone, 1), (silent, 4)] {
        *resolved.zone.upstream.lock().unwrap() = vec![first, good];
        // Once of a few times: the machine may have other work in one of them.
        let soon = (0..5).any(|_| {
            let start = Instant::now();
            assert_eq!(said(&resolved.ask("example.org", A)), (0, 1));
            start.elapsed() < Duration::from_secs(patience)
        });
        assert!(soon, "{first} holds every question up for {patience} s");
    }
    // Nobody else: the failure is said, the server's own word when there is one.
    for (servers, code) in [(vec![silent, gone], 2), (vec![refusing, gone], 5)] {
        *resolved.zone.upstream.lock().unwrap() = servers;
        assert_eq!(said(&resolved.ask("example.org", A)), (code, u16::from(code == 5)));
    }
}

#[test]
fn forgeries_and_long_answers() {
    // First an answer under another identifier, then one to another question, then what is right.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let forger = socket.local_addr().unwrap();
    let identifiers = Arc::new(Mutex::new(Vec::new()));
    let seen = identifiers.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            seen.lock().unwrap().push(([answer[0], answer[1]], from.port()));
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            for (at, bits) in [(1, 1), (13, 1), (2, 0)] {
                let mut forged = answer.clone();
                forged[at] ^= bits;
                forged[3] = if bits == 0 { 0x80 } else { 0x83 };
                socket.send_to(&forged, from).unwrap();
            }
        }
    });
    let resolved = Resolved::new(vec![forger]);
    for _ in 0..20 {
        assert_eq!(said(&resolved.ask("example.org", A)).0, 0);
    }
    let seen = identifiers.lock().unwrap();
    let distinct: std::collections::HashSet<_> = seen.iter().collect();
    assert!(distinct.len() >= 19, "identifiers and ports are random: {seen:?}");
    // An answer longer than the client takes is cut, and whole by TCP.
    let (long, _) = server(|answer| {
        answer.resize(2000, 0);
        true
    });
    *resolved.zone.upstream.lock().unwrap() = vec![long];
    let cut = resolved.ask("example.org", A);
    assert!(cut[2] & 2 != 0 && cut.len() < 100, "{}", cut.len());
    assert_eq!(exchange(&resolved.socket(), &query("example.org", A, Some(4096))).len(), 2000);
    assert_eq!(resolved.ask_tcp(&[query("example.org", A, None)])[0].len(), 2000);
}

#[test]
fn floods_and_loops_end() {
    let (silent, asked) = server(|_| false);
    let resolved = Resolved::new(vec![silent]);
    // The same question again and again, as from a server that asks us what we ask it.
    let socket = resolved.socket();
    let mut refused = 0;
    for _ in 0..60 {
        socket.send(&query("loop.example", A, None)).unwrap();
    }
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    while let Ok(length) = socket.recv(&mut [0; 512]) {
        assert!(length > 0);
        refused += 1;
    }
    assert_eq!((refused, asked.load(Ordering::SeqCst)), (28, 32));
    // Different ones: so many and no more, and names of ours are answered all the while.
    let socket = resolved.socket();
    for n in 0..2000 {
        socket.send(&query(&format!("n{n}.example"), A, None)).unwrap();
        if n % 100 == 0 {
            assert_eq!(said(&resolved.ask("web", A)), (0, 1));
        }
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(asked.load(Ordering::SeqCst) <= 512, "{asked:?}");
    // What was in flight goes with the resolver.
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = fds();
    let Resolved { runtime, _serving, .. } = resolved;
    drop(_serving);
    let patience = Instant::now();
    while fds() + 300 >= before {
        assert!(patience.elapsed() < Duration::from_secs(10), "{} {before}", fds());
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(20)).await });
    }
}

#[test]
#[ignore = "measures; run it alone, with --release"]
fn answers_per_second() {
    let resolved = Resolved::new(vec![]);
    let question = query("web", A, None);
    let (window, rounds) = (64, 2000);
    let socket = resolved.socket();
    let start = Instant::now();
    let mut got = 0;
    for _ in 0..rounds {
        for _ in 0..window {
            socket.send(&question).unwrap();
        }
        for _ in 0..window {
            got += usize::from(socket.recv(&mut [0; 512]).is_ok());
        }
    }
    let elapsed = start.elapsed();
    eprintln!("{got} answers, {:.0} per second", f64::from(u32::try_from(got).unwrap()) / elapsed.as_secs_f64());
    let mut times: Vec<Duration> = (0..2000)
        .map(|_| {
            let start = Instant::now();
            exchange(&socket, &question);
            start.elapsed()
        })
        .collect();
    times.sort();
    eprintln!("one answer: median {:?}", times[1000]);
    assert_eq!(got, window * rounds);
}

#[test]
#[ignore = "measures; run it alone, with --release"]
fn a_thousand_resolvers() {
    let container = Namespace::new();
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let zone = Arc::new(Names { upstream: Mutex::new(vec![]) });
    let before = resident();
    let serving: Vec<Serving> = (0..1000)
        .map(|_| {
            let any = SocketAddr::from(([127, 0, 0, 11], 0));
            let (udp, tcp) = container.run(|| (UdpSocket::bind(any).unwrap(), TcpListener::bind(any).unwrap()));
            runtime.block_on(async { serve(udp.into(), tcp.into(), zone.clone()).unwrap() })
        })
        .collect();
    eprintln!("1000 resolvers: {} KiB", resident() - before);
    drop(serving);
}
