//! What the firewall cannot rewrite, carried by the engine: connections to a published port from 127.0.0.1 or ::1, from
//! IPv6 to a container with IPv4 only, and everything while the table is gone.
//!
//! Runs on the engine's tokio runtime. The ports of a container wait in one epoll set that one task watches, so that a port
//! nobody asks costs its socket and a few words. Dropping the handle ends the task and all it carries.

mod carry;
mod datagrams;

use crate::address::Protocol;
use crate::error::{Error, Result};
use datagrams::{Peers, UDP_IDLE};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::unix::pipe::Receiver;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Connections of one container at a time; more wait in the kernel's queues.
const MAX_CONNECTIONS: usize = 4096;

/// Ports that are looked at before other containers have their turn.
const PORTS_A_TURN: usize = 16;

/// Connections that one port may bring before others have their turn.
const CONNECTIONS_A_TURN: usize = 16;

/// How long the container may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A bound socket (see [`crate::ports::Reservation::take_socket`]) and where in a container it leads.
#[derive(Debug)]
pub struct Served {
    /// tcp, udp or sctp.
    pub protocol: Protocol,
    /// Listening, but with UDP. Others may keep it open, too.
    pub socket: Arc<OwnedFd>,
    /// Address and port of the container.
    pub target: SocketAddr,
}

/// The running proxy of some ports.
#[derive(Debug)]
pub struct Proxy(JoinHandle<()>);

impl Drop for Proxy {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Carries what arrives at the sockets to where they lead. Must be called within a tokio runtime.
pub fn serve(ports: Vec<Served>) -> Result<Proxy> {
    let set = watch(&ports)?;
    Ok(Proxy(tokio::spawn(carry_all(set, ports))))
}

/// The ports as an epoll set; an event's data is the port's index.
fn watch(ports: &[Served]) -> Result<Receiver> {
    let fail = |errno: Errno| Error::Kernel { action: "watch", object: format!("{} published ports", ports.len()), source: errno.into() };
    let set = epoll::create(CreateFlags::CLOEXEC).map_err(fail)?;
    for (index, port) in (0..).zip(ports) {
        if port.protocol == Protocol::Udp {
            datagrams::prepare(&port.socket, port.target);
        }
        epoll::add(&set, &port.socket, EventData::new_u64(index), EventFlags::IN).map_err(fail)?;
    }
    // A receiver is no more than tokio's registration of a descriptor that becomes readable; nothing is read by it.
    Receiver::from_owned_fd_unchecked(set).map_err(|source| fail(Errno::from_io_error(&source).unwrap_or(Errno::NOMEM)))
}

async fn carry_all(set: Receiver, ports: Vec<Served>) {
    let mut carried = JoinSet::new();
    let mut peers = Peers::default();
    loop {
        tokio::select! {
            ready = set.readable(), if carried.len() < MAX_CONNECTIONS => {
                if ready.is_err() {
                    return;
                }
                let waiting = match set.try_io(|| waiting(&set)) {
                    Ok(waiting) => waiting,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(_) => return,
                };
                for port in waiting.into_iter().filter_map(|index| ports.get(index)) {
                    if port.protocol == Protocol::Udp {
                        peers.receive(port);
                    } else if accept(port, &mut carried).is_err() {
                        // Out of descriptors: waiting is all that helps.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
                tokio::task::yield_now().await;
            }
            () = tokio::time::sleep(UDP_IDLE / 3), if !peers.is_empty() => peers.forget_idle(),
            Some(_) = carried.join_next() => {}
        }
    }
}

/// Some of the ports at which something waits; `WouldBlock` when there is none.
fn waiting(set: &Receiver) -> io::Result<Vec<usize>> {
    let mut events = Vec::with_capacity(PORTS_A_TURN);
    let at_once = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    match epoll::wait(set, rustix::buffer::spare_capacity(&mut events), Some(&at_once)) {
        Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
        Ok(_) | Err(Errno::INTR) => Ok(events.iter().filter_map(|event| usize::try_from(event.data.u64()).ok()).collect()),
        Err(errno) => Err(errno.into()),
    }
}

/// Takes the connections that wait at a port.
fn accept(port: &Served, carried: &mut JoinSet<()>) -> Result<(), Errno> {
    for _ in 0..CONNECTIONS_A_TURN {
        if carried.len() >= MAX_CONNECTIONS {
            break;
        }
        match rustix::net::accept_with(&port.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(client) => {
                let client = TcpStream::from_std(client.into()).map_err(|_| Errno::NFILE)?;
                carried.spawn(carry(client, port.protocol, port.target));
            }
            Err(Errno::AGAIN) => break,
            // The client has gone again.
            Err(Errno::CONNABORTED | Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Connects to the container and carries the connection.
async fn carry(mut client: TcpStream, protocol: Protocol, target: SocketAddr) {
    // A container that does not answer: the client sees its connection closed.
    let Ok(Ok(mut server)) = tokio::time::timeout(CONNECT_TIMEOUT, connect(protocol, target)).await else { return };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    // A broken connection is the ends' business, there is nobody else to tell.
    carry::both_ways(&mut client, &mut server).await.ok();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Ports;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UdpSocket};

    fn start(protocol: Protocol, socket: OwnedFd, target: SocketAddr) -> Result<Proxy> {
        serve(vec![Served { protocol, socket: Arc::new(socket), target }])
    }

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
    async fn many_ports_each_lead_to_their_own_target() {
        // More than are looked at in a turn, all at once.
        let mut ports = Vec::new();
        let (mut addresses, mut targets) = (Vec::new(), JoinSet::new());
        for n in 0..3 * PORTS_A_TURN {
            let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (socket, address) = held(Protocol::Tcp);
            ports.push(Served { protocol: Protocol::Tcp, socket: Arc::new(socket), target: target.local_addr().unwrap() });
            addresses.push(address);
            targets.spawn(async move {
                for _ in 0..2 * CONNECTIONS_A_TURN {
                    target.accept().await.unwrap().0.write_all(&[n as u8]).await.unwrap();
                }
            });
        }
        let _proxy = serve(ports).unwrap();
        let mut clients = JoinSet::new();
        for (n, address) in addresses.into_iter().enumerate() {
            for _ in 0..2 * CONNECTIONS_A_TURN {
                clients.spawn(async move {
                    let mut answer = Vec::new();
                    TcpStream::connect(address).await.unwrap().read_to_end(&mut answer).await.unwrap();
                    assert_eq!(answer, [n as u8]);
                });
            }
        }
        clients.join_all().await;
        targets.join_all().await;
    }

    #[tokio::test]
    async fn nobody_behind_it_closes_the_connection() {
        // At an address of its own, where nobody gets the port meanwhile.
        let gone = TcpListener::bind("127.0.0.9:0").await.unwrap().local_addr().unwrap();
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
            let length = tokio::time::timeout(Duration::from_secs(60), client.recv(&mut buffer)).await.unwrap().unwrap();
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
                let (_, from) = tokio::time::timeout(Duration::from_secs(60), client.recv_from(&mut buffer)).await.unwrap().unwrap();
                assert_eq!(from, question);
            }
        }
    }
}
