//! The resolver of containers' names: answers what a [`Zone`] knows, forwards the rest.
//!
//! Its sockets lie in the container's namespace, on 127.0.0.11 and ports nobody chose; [`redirect`] sends port 53 of that
//! address there, so that a container's own server can have port 53. Answering needs no change of namespace. Forwarding goes
//! out from the host's, where the host's own resolver can be reached; to servers that somebody chose for the container from
//! the container's, for they may be reached from there alone: by macvlan, in an internal network, inside the container.
//!
//! Everything a container can make this do is bounded: queries in flight, of one resolver and of all, the same question
//! at a time (two resolvers that ask each other end there), connections, what is read of each. An idle resolver has no
//! buffer. What is no query is not answered.

mod forward;
pub mod message;
mod redirect;

pub use redirect::redirect;

use crate::dns::forward::{Forwarder, Path};
use crate::dns::message::{MAX_MESSAGE, Reply, Transport, respond};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

/// The address containers know.
pub const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 11));

/// Longest query by UDP; real ones have less than 300 bytes.
const MAX_QUERY: usize = 4096;

/// Queries answered before others have their turn.
const TURN: usize = 64;

/// Connections of one resolver; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;

/// A connection that is silent for so long is closed.
const TCP_IDLE: Duration = Duration::from_secs(10);

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: it is forwarded.
    NotOurs,
    /// It has these addresses; of either family, also none of the one that is asked for.
    Addresses(Vec<IpAddr>),
}

/// What a container is to see. Called for each query, so it must answer at once.
pub trait Zone: Send + Sync {
    /// A name, in lower case and without a final dot.
    fn lookup(&self, name: &str) -> Answer;

    /// The name of an address.
    fn reverse(&self, address: IpAddr) -> Option<String>;

    /// The servers to forward to, in order; none for a network that has no outside.
    fn upstream(&self) -> Vec<SocketAddr>;

    /// The network namespace they are asked from; the host's when absent.
    fn namespace(&self) -> Option<Arc<OwnedFd>> {
        None
    }
}

/// A running resolver; dropping it stops it and everything in flight.
#[derive(Debug)]
pub struct Serving([JoinHandle<()>; 2]);

impl Drop for Serving {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Answers queries that arrive at a bound UDP socket and a bound TCP socket. Must be called within a tokio runtime.
pub fn serve(udp: OwnedFd, tcp: OwnedFd, zone: Arc<dyn Zone>) -> io::Result<Serving> {
    for socket in [&udp, &tcp] {
        rustix::io::ioctl_fionbio(socket, true)?;
    }
    // A socket that listens already is none the worse.
    rustix::net::listen(&tcp, 128)?;
    let udp = Arc::new(UdpSocket::from_std(udp.into())?);
    let tcp = TcpListener::from_std(tcp.into())?;
    let forwarder = Arc::new(Forwarder::new());
    Ok(Serving([tokio::spawn(serve_udp(udp, zone.clone(), forwarder.clone())), tokio::spawn(serve_tcp(tcp, zone, forwarder))]))
}

async fn serve_udp(socket: Arc<UdpSocket>, zone: Arc<dyn Zone>, forwarder: Arc<Forwarder>) {
    let mut in_flight = JoinSet::new();
    loop {
        tokio::select! {
            ready = socket.readable() => if ready.is_err() {
                // The namespace is going; if not, the next turn will tell.
                tokio::time::sleep(Duration::from_millis(50)).await;
            },
            Some(_) = in_flight.join_next() => {
                while in_flight.try_join_next().is_some() {}
                continue;
            }
        }
        for _ in 0..TURN {
            // On the stack, and not across a wait: an idle resolver holds no buffer.
            let mut buffer = [0; MAX_QUERY];
            let (length, from) = match socket.try_recv_from(&mut buffer) {
                Ok(received) => received,
                // An answer that could not be delivered shows here as an error of the socket; it goes on.
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => continue,
                Err(_) => break,
            };
            let query = &buffer[..length];
            match respond(query, Transport::Udp, &*zone) {
                Reply::Nothing => {}
                // Where there is no room the datagram is lost, as datagrams are.
                Reply::Answer(answer) => drop(socket.try_send_to(&answer, from)),
                Reply::Forward => match forwarder.admit(query) {
                    Ok(place) => {
                        let (socket, query) = (socket.clone(), query.to_vec());
                        let (servers, namespace) = (zone.upstream(), zone.namespace());
                        in_flight.spawn(async move {
                            let answer = place.ask(&query, &servers, namespace, Path::Udp).await;
                            socket.send_to(&answer, from).await.ok();
                        });
                    }
                    Err(refusal) => drop(socket.try_send_to(&refusal, from)),
                },
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<dyn Zone>, forwarder: Arc<Forwarder>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut carried = JoinSet::new();
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let stream = loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => break stream,
                    // Out of descriptors: waiting is all that helps.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                },
                Some(_) = carried.join_next() => {}
            }
        };
        let (zone, forwarder) = (zone.clone(), forwarder.clone());
        carried.spawn(async move {
            // A broken connection is the client's business, there is nobody else to tell.
            connection(stream, &*zone, &forwarder).await.ok();
            drop(place);
        });
        while carried.try_join_next().is_some() {}
    }
}

/// Queries of one connection, one after the other.
async fn connection(mut stream: TcpStream, zone: &dyn Zone, forwarder: &Arc<Forwarder>) -> io::Result<()> {
    loop {
        let query = tokio::time::timeout(TCP_IDLE, read_framed(&mut stream)).await??;
        let answer = match respond(&query, Transport::Tcp, zone) {
            Reply::Nothing => return Ok(()),
            Reply::Answer(answer) => answer,
            Reply::Forward => match forwarder.admit(&query) {
                Ok(place) => place.ask(&query, &zone.upstream(), zone.namespace(), Path::Tcp).await,
                Err(refusal) => refusal,
            },
        };
        tokio::time::timeout(TCP_IDLE, write_framed(&mut stream, &answer)).await??;
    }
}

async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn write_framed(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len().min(MAX_MESSAGE)).expect("a message is at most 65535 bytes");
    // In one write: some clients take the length and the message for two answers.
    stream.write_all(&[&length.to_be_bytes(), &bytes[..usize::from(length)]].concat()).await
}
