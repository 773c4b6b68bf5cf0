//! What the firewall cannot rewrite, carried by the engine: connections to a published port from 127.0.0.1 or ::1, from
//! IPv6 to a container with IPv4 only, and everything while the table is gone.
//!
//! Runs on the engine's tokio runtime. Dropping the handle ends the listener and all it carries.

mod carry;

use crate::address::Protocol;
use crate::error::{Error, Result};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

/// Connections of one port at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;

/// UDP peers of one port; the one silent for longest makes room.
const MAX_PEERS: usize = 1024;

/// A UDP peer that is silent for so long is forgotten, as Docker's proxy does.
const UDP_IDLE: Duration = Duration::from_secs(90);

/// How long the container may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Datagrams carried before others have their turn.
const TURN: usize = 64;

thread_local! {
    /// Datagrams are received here, sent from here, and never wait here: idle ports and peers hold no buffer.
    static DATAGRAM: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 << 10]);
}

/// A running proxy of one port.
#[derive(Debug)]
pub struct Proxy(JoinHandle<()>);

impl Drop for Proxy {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Carries what arrives at a bound socket (see [`crate::ports::Reservation::take_socket`]) to a container. Must be called
/// within a tokio runtime.
pub fn start(protocol: Protocol, socket: OwnedFd, target: SocketAddr) -> Result<Proxy> {
    let fail = |source| Error::Bind { address: target, protocol, source };
    Ok(match protocol {
        // The calls are the same for both.
        Protocol::Tcp | Protocol::Sctp => {
            let listener = TcpListener::from_std(std::net::TcpListener::from(socket)).map_err(fail)?;
            Proxy(tokio::spawn(streams(listener, protocol, target)))
        }
        Protocol::Udp => {
            let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket)).map_err(fail)?;
            Proxy(tokio::spawn(udp(Arc::new(socket), target)))
        }
    })
}

async fn streams(listener: TcpListener, protocol: Protocol, target: SocketAddr) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut carried = JoinSet::new();
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    carried.spawn(async move {
                        carry(client, protocol, target).await;
                        drop(place);
                    });
                }
                // Out of descriptors: waiting is all that helps.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = carried.join_next() => {}
        }
    }
}

/// Connects to the container and carries the connection.
async fn carry(client: TcpStream, protocol: Protocol, target: SocketAddr) {
    // A container that does not answer: the client sees its connection closed.
    let Ok(Ok(server)) = tokio::time::timeout(CONNECT_TIMEOUT, connect(protocol, target)).await else { return };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    // A broken connection is the ends' business, there is nobody else to tell.
    carry::both_ways(&client, &server).await.ok();
}

async fn connect(protocol: Protocol, target: SocketAddr) -> io::Result<TcpStream> {
    if protocol == Protocol::Tcp {
        return TcpStream::connect(target).await;
    }
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(rustix::net::ipproto::SCTP))?;
    TcpSocket::from_std_stream(socket.into()).connect(target).await
}

/// A peer's own socket towards the container, and when it last sent.
struct Peer {
    socket: Arc<UdpSocket>,
    last: tokio::time::Instant,
    answers: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

/// Who sent, and to which address of this host, from which the answers come.
type Ends = (SocketAddr, Option<IpAddr>);

type Peers = HashMap<Ends, Peer>;

async fn udp(socket: Arc<UdpSocket>, target: SocketAddr) {
    // Without it answers of a host with several addresses may come from another than the one asked.
    if let Err(error) = naru_sys::net::tell_destinations(socket.as_fd(), socket.local_addr().is_ok_and(|own| own.is_ipv4())) {
        tracing::debug!(%target, %error, "datagrams do not tell where they were sent to");
    }
    let mut peers = Peers::new();
    loop {
        tokio::select! {
            ready = socket.readable() => if ready.is_err() {
                return;
            },
            () = tokio::time::sleep(UDP_IDLE / 3), if !peers.is_empty() => {
                let now = tokio::time::Instant::now();
                peers.retain(|_, peer| now - peer.last < UDP_IDLE);
                continue;
            }
        }
        DATAGRAM.with_borrow_mut(|buffer| receive(&socket, target, &mut peers, buffer));
        tokio::task::yield_now().await;
    }
}

/// Carries what has arrived from clients.
fn receive(socket: &Arc<UdpSocket>, target: SocketAddr, peers: &mut Peers, buffer: &mut [u8]) {
    for _ in 0..TURN {
        let received = socket.try_io(Interest::READABLE, || Ok(naru_sys::net::receive(socket.as_fd(), buffer)?));
        let (length, from) = match received {
            Ok((length, client, asked)) => (length, (client, asked)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // An answer that could not be delivered shows here as an error of the socket; it goes on.
            Err(_) => continue,
        };
        if !peers.contains_key(&from) {
            let Ok(peer) = introduce(socket, from, target) else { continue };
            if peers.len() >= MAX_PEERS {
                let oldest = peers.iter().min_by_key(|(_, peer)| peer.last).map(|(address, _)| *address);
                oldest.and_then(|address| peers.remove(&address));
            }
            peers.insert(from, peer);
        }
        if let Some(peer) = peers.get_mut(&from) {
            peer.last = tokio::time::Instant::now();
            // A datagram that cannot be sent is lost, as datagrams are.
            rustix::net::send(&peer.socket, &buffer[..length], SendFlags::DONTWAIT).ok();
        }
    }
}

/// A socket for a client that was not known.
fn introduce(back: &Arc<UdpSocket>, from: Ends, target: SocketAddr) -> io::Result<Peer> {
    let any = SocketAddr::new(if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, 0);
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(target)?;
    socket.set_nonblocking(true)?;
    let socket = Arc::new(UdpSocket::from_std(socket)?);
    let answers = tokio::spawn(answers(socket.clone(), back.clone(), from));
    Ok(Peer { socket, last: tokio::time::Instant::now(), answers })
}

/// Carries what the container answers to one client.
async fn answers(socket: Arc<UdpSocket>, back: Arc<UdpSocket>, (client, asked): Ends) {
    loop {
        match socket.ready(Interest::READABLE | Interest::ERROR).await {
            // The container refused a datagram: the next may be welcome.
            Ok(ready) if ready.is_error() => drop(socket.take_error()),
            Ok(_) => {}
            Err(_) => return,
        }
        DATAGRAM.with_borrow_mut(|buffer| {
            for _ in 0..TURN {
                match socket.try_recv(buffer) {
                    // One that cannot be sent is lost, as datagrams are.
                    Ok(length) => drop(naru_sys::net::send_from(back.as_fd(), &buffer[..length], asked, client)),
                    Err(_) => return,
                }
            }
        });
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Ports;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn held(protocol: Protocol) -> (OwnedFd, SocketAddr) {
        let mut held = Ports::new().reserve(protocol, &["127.0.0.1".parse().unwrap()], (0, 0), "test").unwrap();
        (held[0].take_socket().unwrap(), held[0].address)
    }

    #[tokio::test]
    async fn tcp_both_ways_with_half_close() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (socket, address) = held(Protocol::Tcp);
        let proxy = start(Protocol::Tcp, socket, server.local_addr().unwrap()).unwrap();
        let serve = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut all = Vec::new();
            // The end of the request arrives although the answer is still to come.
            stream.read_to_end(&mut all).await.unwrap();
            all.reverse();
            stream.write_all(&all).await.unwrap();
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        let request: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        client.write_all(&request).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        answer.reverse();
        assert_eq!(answer, request);
        serve.await.unwrap();
        drop(proxy);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn nobody_behind_it_closes_the_connection() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (socket, address) = held(Protocol::Tcp);
        let _proxy = start(Protocol::Tcp, socket, gone).unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn udp_answers_reach_their_own_peer() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (socket, address) = held(Protocol::Udp);
        let _proxy = start(Protocol::Udp, socket, server.local_addr().unwrap()).unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 100];
            while let Ok((length, from)) = server.recv_from(&mut buffer).await {
                buffer[..length].reverse();
                server.send_to(&buffer[..length], from).await.unwrap();
            }
        });
        let mut clients = Vec::new();
        for n in 0..5u8 {
            let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            client.connect(address).await.unwrap();
            client.send(&[n, 1, 2]).await.unwrap();
            clients.push((n, client));
        }
        for (n, client) in clients {
            let mut buffer = [0; 10];
            let length = tokio::time::timeout(Duration::from_secs(5), client.recv(&mut buffer)).await.unwrap().unwrap();
            assert_eq!(&buffer[..length], [2, 1, n]);
        }
    }

    #[tokio::test]
    async fn udp_answers_come_from_the_address_that_was_asked() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for (any, asked) in [("0.0.0.0:0", ["127.0.0.5", "127.0.0.6"]), ("[::]:0", ["::1", "::1"])] {
            let held = std::net::UdpSocket::bind(any).unwrap();
            held.set_nonblocking(true).unwrap();
            let port = held.local_addr().unwrap().port();
            let _proxy = start(Protocol::Udp, held.into(), server.local_addr().unwrap()).unwrap();
            // One client that asks both: each answer from where the question went.
            let client = UdpSocket::bind(any).await.unwrap();
            for address in asked {
                let question = SocketAddr::new(address.parse().unwrap(), port);
                client.send_to(b"?", question).await.unwrap();
                let mut buffer = [0; 10];
                let (length, from) = server.recv_from(&mut buffer).await.unwrap();
                server.send_to(&buffer[..length], from).await.unwrap();
                let (_, from) = tokio::time::timeout(Duration::from_secs(5), client.recv_from(&mut buffer)).await.unwrap().unwrap();
                assert_eq!(from, question);
            }
        }
    }
}
