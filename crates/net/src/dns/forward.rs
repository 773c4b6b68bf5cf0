//! Asks other servers: each query under an identifier of its own, from a port of its own, the next server when one fails
//! or is slow.

use crate::dns::message::{Code, MAX_MESSAGE, Transport, failed, failure, is_answer, pass_on, question};
use crate::dns::{ADDRESS, read_framed, write_framed};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::task::JoinSet;

/// Queries of one resolver in flight.
const MAX_IN_FLIGHT: usize = 512;

/// Queries of all resolvers in flight; each has a descriptor.
const MAX_OF_ALL: usize = 2048;

/// The same question of one resolver in flight. More are a sign that a server asks us what we ask it.
const MAX_SAME: u16 = 32;

/// Servers that are asked, as a resolv.conf has at most.
const MAX_SERVERS: usize = 3;

/// When a server has not answered for so long the next is asked too.
const PATIENCE: Duration = Duration::from_millis(1500);

/// When none has answered for so long the client hears of it; its own patience is five seconds.
const DEADLINE: Duration = Duration::from_millis(4500);

static ALL: Semaphore = Semaphore::const_new(MAX_OF_ALL);

/// The way to a server, that of the client's query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    Udp,
    Tcp,
}

/// What one resolver has in flight.
#[derive(Debug)]
pub(super) struct Forwarder {
    room: Arc<Semaphore>,
    questions: Mutex<HashMap<Vec<u8>, u16>>,
}

/// A query's place in flight.
pub(super) struct Place {
    forwarder: Arc<Forwarder>,
    question: Vec<u8>,
    _own: OwnedSemaphorePermit,
    _of_all: SemaphorePermit<'static>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut questions = self.forwarder.questions.lock().expect("the table of questions is not poisoned");
        if let Some(count) = questions.get_mut(&self.question) {
            *count -= 1;
            if *count == 0 {
                questions.remove(&self.question);
            }
        }
    }
}

impl Forwarder {
    pub fn new() -> Self {
        Forwarder { room: Arc::new(Semaphore::new(MAX_IN_FLIGHT)), questions: Mutex::default() }
    }

    /// A place for a query, or the answer that there is none.
    pub fn admit(self: &Arc<Self>, query: &[u8]) -> Result<Place, Vec<u8>> {
        let refusal = || failure(query, Code::Refused);
        let question = question(query).ok_or_else(refusal)?;
        let own = self.room.clone().try_acquire_owned().map_err(|_| refusal())?;
        let of_all = ALL.try_acquire().map_err(|_| refusal())?;
        let mut questions = self.questions.lock().expect("the table of questions is not poisoned");
        let count = questions.entry(question.clone()).or_default();
        if *count >= MAX_SAME {
            return Err(failure(query, Code::ServerFailure));
        }
        *count += 1;
        Ok(Place { forwarder: self.clone(), question, _own: own, _of_all: of_all })
    }
}

impl Place {
    /// The answer to the query, whatever comes of it. It is asked from the host, or from another network namespace.
    pub async fn ask(self, query: &[u8], servers: &[SocketAddr], from: Option<Arc<OwnedFd>>, path: Path) -> Vec<u8> {
        let transport = if path == Path::Udp { Transport::Udp } else { Transport::Tcp };
        let (mut asked, mut last) = (JoinSet::new(), None);
        let mut servers = servers.iter().filter(|server| !is_ourselves(server, from.is_some())).take(MAX_SERVERS);
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let mut is_more = true;
        loop {
            if is_more {
                match servers.next() {
                    Some(server) => drop(asked.spawn(ask_one(query.to_vec(), *server, from.clone(), path))),
                    None => is_more = false,
                }
            }
            if asked.is_empty() && !is_more {
                break;
            }
            let until = if is_more { (tokio::time::Instant::now() + PATIENCE).min(deadline) } else { deadline };
            match tokio::time::timeout_at(until, asked.join_next()).await {
                Ok(Some(Ok(Ok(answer)))) if !failed(&answer) => return pass_on(query, answer, transport),
                // What a server says about its failure is worth more than our word for it.
                Ok(Some(Ok(Ok(answer)))) => last = Some(answer),
                Ok(_) => {}
                Err(_) if tokio::time::Instant::now() >= deadline => break,
                Err(_) => {}
            }
        }
        match last {
            Some(answer) => pass_on(query, answer, transport),
            None => failure(query, Code::ServerFailure),
        }
    }
}

/// The host's own address of that name is no resolver of ours, unless the host is a container itself; then its engine's
/// resolver is there, and answers. A container's is ours in any case.
fn is_ourselves(server: &SocketAddr, in_container: bool) -> bool {
    server.ip() == ADDRESS && (in_container || server.port() != 53)
}

async fn ask_one(mut query: Vec<u8>, server: SocketAddr, from: Option<Arc<OwnedFd>>, path: Path) -> io::Result<Vec<u8>> {
    let mut identifier = [0; 2];
    getrandom::fill(&mut identifier).expect("the kernel's random source cannot fail after boot");
    query[..2].copy_from_slice(&identifier);
    let identifier = u16::from_be_bytes(identifier);
    match path {
        Path::Udp => ask_by_udp(&query, identifier, server, from).await,
        Path::Tcp => {
            let mut stream = match from {
                None => TcpStream::connect(server).await?,
                Some(from) => TcpSocket::from_std_stream(socket_in(from, server, SocketType::STREAM).await?.into()).connect(server).await?,
            };
            write_framed(&mut stream, &query).await?;
            let answer = read_framed(&mut stream).await?;
            is_answer(&query, identifier, &answer).then_some(answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
        }
    }
}

/// A socket of another network namespace: a thread goes there and ends. There are no more of them than queries in flight.
async fn socket_in(namespace: Arc<OwnedFd>, server: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (made, socket) = tokio::sync::oneshot::channel();
    let open = move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
    };
    // Small, because it is made for each query; who asked may have gone meanwhile.
    std::thread::Builder::new().stack_size(64 << 10).spawn(move || made.send(open()).ok())?;
    Ok(socket.await.map_err(io::Error::other)??)
}

/// The kernel chooses a random port, and takes datagrams of this server only.
async fn ask_by_udp(query: &[u8], identifier: u16, server: SocketAddr, from: Option<Arc<OwnedFd>>) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = match from {
        None => UdpSocket::bind(SocketAddr::new(any, 0)).await?,
        Some(from) => UdpSocket::from_std(socket_in(from, server, SocketType::DGRAM).await?.into())?,
    };
    socket.connect(server).await?;
    socket.send(query).await?;
    loop {
        // Nobody listening there is an error of the socket, with nothing to read.
        if socket.ready(Interest::READABLE | Interest::ERROR).await?.is_error()
            && let Some(error) = socket.take_error()?
        {
            return Err(error);
        }
        let mut buffer = Vec::new();
        // Room for what is there, not for the longest there can be while it is waited for.
        buffer.try_reserve_exact(MAX_MESSAGE).map_err(io::Error::other)?;
        match socket.try_recv_buf(&mut buffer) {
            Ok(_) if is_answer(query, identifier, &buffer) => {
                buffer.shrink_to_fit();
                return Ok(buffer);
            }
            // A guess of somebody who does not know the identifier.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
