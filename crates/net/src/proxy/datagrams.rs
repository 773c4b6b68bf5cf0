//! Datagrams to published ports: each peer of a port has a socket of its own towards the container, by which the answers find
//! their way back.

use super::Served;
use rustix::net::SendFlags;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Peers of one container; the one silent for longest makes room.
const MAX_PEERS: usize = 1024;

/// A peer that is silent for so long is forgotten, as Docker's proxy does.
pub const UDP_IDLE: Duration = Duration::from_secs(90);

/// Datagrams carried before others have their turn.
const TURN: usize = 64;

thread_local! {
    /// Datagrams are received here, sent from here, and never wait here: idle ports and peers hold no buffer.
    static DATAGRAM: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 << 10]);
}

/// Has the kernel tell which address of this host was asked.
pub fn prepare(socket: &OwnedFd, target: SocketAddr) {
    let is_ipv4 = rustix::net::getsockname(socket).is_ok_and(|own| SocketAddr::try_from(own).is_ok_and(|own| own.is_ipv4()));
    // Without it answers of a host with several addresses may come from another than the one asked.
    if let Err(error) = naru_sys::net::tell_destinations(socket.as_fd(), is_ipv4) {
        tracing::debug!(%target, %error, "datagrams do not tell where they were sent to");
    }
}

/// Who sent, and to which address of this host, from which the answers come.
type Ends = (SocketAddr, Option<IpAddr>);

/// The peers of some ports, by the port's socket.
#[derive(Default)]
pub struct Peers(HashMap<(RawFd, Ends), Peer>);

/// A peer's own socket towards the container, and when it last sent.
struct Peer {
    socket: Arc<UdpSocket>,
    last: Instant,
    answers: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

impl Peers {
    /// Nobody has asked lately.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets those that have been silent for [`UDP_IDLE`].
    pub fn forget_idle(&mut self) {
        let now = Instant::now();
        self.0.retain(|_, peer| now - peer.last < UDP_IDLE);
    }

    /// Carries what has arrived from clients at a port.
    pub fn receive(&mut self, port: &Served) {
        DATAGRAM.with_borrow_mut(|buffer| {
            for _ in 0..TURN {
                match naru_sys::net::receive(port.socket.as_fd(), buffer) {
                    Ok((length, client, asked)) => self.forward(port, (client, asked), &buffer[..length]),
                    Err(rustix::io::Errno::AGAIN) => return,
                    // An answer that could not be delivered shows here as an error of the socket; it goes on.
                    Err(_) => {}
                }
            }
        });
    }

    fn forward(&mut self, port: &Served, from: Ends, datagram: &[u8]) {
        let key = (port.socket.as_raw_fd(), from);
        if !self.0.contains_key(&key) {
            let Ok(peer) = introduce(&port.socket, from, port.target) else { return };
            if self.0.len() >= MAX_PEERS {
                let oldest = self.0.iter().min_by_key(|(_, peer)| peer.last).map(|(key, _)| *key);
                oldest.and_then(|key| self.0.remove(&key));
            }
            self.0.insert(key, peer);
        }
        if let Some(peer) = self.0.get_mut(&key) {
            peer.last = Instant::now();
            // A datagram that cannot be sent is lost, as datagrams are.
            rustix::net::send(&peer.socket, datagram, SendFlags::DONTWAIT).ok();
        }
    }
}

/// A socket for a client that was not known.
fn introduce(back: &Arc<OwnedFd>, from: Ends, target: SocketAddr) -> io::Result<Peer> {
    let any = SocketAddr::new(if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, 0);
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(target)?;
    socket.set_nonblocking(true)?;
    let socket = Arc::new(UdpSocket::from_std(socket)?);
    let answers = tokio::spawn(answers(socket.clone(), back.clone(), from));
    Ok(Peer { socket, last: Instant::now(), answers })
}

/// Carries what the container answers to one client.
async fn answers(socket: Arc<UdpSocket>, back: Arc<OwnedFd>, (client, asked): Ends) {
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
