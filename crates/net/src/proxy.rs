//! What the firewall cannot rewrite, carried by the engine: connections to a published port from 127.0.0.1 or ::1, from
//! IPv6 to a container with IPv4 only, and everything while the table is gone.
//!
//! Runs on the engine's tokio runtime. Dropping the handle ends the listener and all it carries.

use crate::address::Protocol;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
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

/// Copy buffer of each direction.
const BUFFER: usize = 64 << 10;

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
        Protocol::Tcp => {
            let listener = TcpListener::from_std(std::net::TcpListener::from(socket)).map_err(fail)?;
            Proxy(tokio::spawn(tcp(listener, target)))
        }
        Protocol::Udp => {
            let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket)).map_err(fail)?;
            Proxy(tokio::spawn(udp(Arc::new(socket), target)))
        }
        Protocol::Sctp => return Err(fail(std::io::ErrorKind::Unsupported.into())),
    })
}

async fn tcp(listener: TcpListener, target: SocketAddr) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut carried = JoinSet::new();
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    carried.spawn(async move {
                        carry(client, target).await;
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

/// Both directions, each end of stream passed on by itself.
async fn carry(mut client: TcpStream, target: SocketAddr) {
    // A container that does not answer: the client sees its connection closed.
    let Ok(Ok(mut server)) = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await else { return };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    // A broken connection is the ends' business, there is nobody else to tell.
    copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await.ok();
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

async fn udp(socket: Arc<UdpSocket>, target: SocketAddr) {
    let peers: Arc<Mutex<HashMap<SocketAddr, Peer>>> = Arc::default();
    let mut buffer = vec![0; 64 << 10];
    let mut tidy = tokio::time::interval(UDP_IDLE / 3);
    loop {
        let (length, from) = tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // An answer that could not be delivered shows here as an error of the socket; it goes on.
                Err(_) => {
                    tokio::task::yield_now().await;
                    continue;
                }
            },
            _ = tidy.tick() => {
                let now = tokio::time::Instant::now();
                peers.lock().expect("the table of peers is not poisoned").retain(|_, peer| now - peer.last < UDP_IDLE);
                continue;
            }
        };
        let known = peers.lock().expect("the table of peers is not poisoned").get_mut(&from).map(|peer| {
            peer.last = tokio::time::Instant::now();
            peer.socket.clone()
        });
        let towards = match known {
            Some(towards) => towards,
            None => match introduce(&socket, from, target, &peers).await {
                Ok(towards) => towards,
                Err(_) => continue,
            },
        };
        // A datagram that cannot be sent is lost, as datagrams are.
        towards.send(&buffer[..length]).await.ok();
    }
}

async fn introduce(
    socket: &Arc<UdpSocket>,
    from: SocketAddr,
    target: SocketAddr,
    peers: &Mutex<HashMap<SocketAddr, Peer>>,
) -> std::io::Result<Arc<UdpSocket>> {
    let any = SocketAddr::new(if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, 0);
    let towards = Arc::new(UdpSocket::bind(any).await?);
    towards.connect(target).await?;
    let (back, listen) = (socket.clone(), towards.clone());
    let answers = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match listen.recv(&mut buffer).await {
                Ok(length) => drop(back.send_to(&buffer[..length], from).await),
                // The container refused a datagram: the next may be welcome.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    let mut peers = peers.lock().expect("the table of peers is not poisoned");
    if peers.len() >= MAX_PEERS {
        let oldest = peers.iter().min_by_key(|(_, peer)| peer.last).map(|(address, _)| *address);
        oldest.and_then(|address| peers.remove(&address));
    }
    peers.insert(from, Peer { socket: towards.clone(), last: tokio::time::Instant::now(), answers });
    Ok(towards)
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
}
