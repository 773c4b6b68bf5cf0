//! Netlink: requests written into one buffer, sent with one call, answers read until there are none.
//!
//! The kernel works on a request within the call that sends it, so when the call returns all answers (but those of a
//! long dump) lie in the socket. Routing requests are carried out one by one, also after one has failed; a batch of
//! nf_tables is a transaction.

use crate::error::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Flags of a request's header.
pub(crate) mod flags {
    pub const REQUEST: u16 = 1;
    pub const ACK: u16 = 4;
    pub const REPLACE: u16 = 0x100;
    pub const EXCL: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    pub const APPEND: u16 = 0x800;
    pub const DUMP: u16 = 0x300;
}

/// Marks an attribute that holds attributes.
const NESTED: u16 = 1 << 15;
const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// What a request of a batch is for, to name it in an error.
#[derive(Debug, Clone)]
struct Purpose {
    action: &'static str,
    object: String,
    /// Failures that are none.
    fine: Vec<Errno>,
}

/// Requests for one send.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    start: usize,
    purposes: Vec<Purpose>,
}

impl Batch {
    /// Begins a request; `payload` is the protocol's fixed header.
    pub fn begin(&mut self, kind: u16, flags: u16, action: &'static str, object: impl Into<String>, payload: &[u8]) {
        self.end();
        self.start = self.bytes.len();
        // The sequence number is the request's place in the batch.
        let sequence = u32::try_from(self.purposes.len()).expect("a batch has fewer than 2^32 requests");
        self.purposes.push(Purpose { action, object: object.into(), fine: vec![] });
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | flags::REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.raw(payload);
    }

    /// Bytes that are no attribute, filled up to four.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("an attribute's value is shorter than 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(value);
    }

    /// Text with its end mark.
    pub fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, &[value.as_bytes(), b"\0"].concat());
    }

    pub fn u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// nf_tables' numbers are big-endian.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// An attribute that holds what `inside` writes.
    pub fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        inside(self);
        let length = u16::try_from(self.bytes.len() - start).expect("an attribute is shorter than 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Asks for an answer to the present request.
    pub fn acknowledge(&mut self) {
        let at = self.start + 6;
        let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]) | flags::ACK;
        self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
    }

    /// Goes on when the kernel refuses the present request for this reason.
    pub fn or_refused(&mut self, errno: Errno) {
        self.purposes.last_mut().expect("a request was begun").fine.push(errno);
    }

    /// Number of requests.
    pub fn len(&self) -> usize {
        self.purposes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.purposes.is_empty()
    }

    fn end(&mut self) {
        if !self.purposes.is_empty() {
            let length = u32::try_from(self.bytes.len() - self.start).expect("a request is shorter than 4 GiB");
            self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }
}

/// An answer that is neither an acknowledgement nor an error.
#[derive(Debug)]
pub(crate) struct Answer(pub Vec<u8>);

impl Answer {
    /// The attributes after a fixed header of `skip` bytes.
    pub fn attributes(&self, skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
        attributes(self.0.get(skip..).unwrap_or_default())
    }
}

/// Attributes of a buffer; what is cut off is not returned.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*rest.first()?, *rest.get(1)?]));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]) & !(NESTED | 1 << 14);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A netlink socket; the namespace is that of the thread which opened it.
#[derive(Debug)]
pub(crate) struct Socket<Fd = OwnedFd>(pub Fd);

impl Socket {
    pub fn route() -> Result<Self> {
        Self::open(None, "routing")
    }

    pub fn netfilter() -> Result<Self> {
        Self::netfilter_events(0)
    }

    /// A socket that hears of changes to the groups of these bits.
    pub fn netfilter_events(groups: u32) -> Result<Self> {
        // Bound also to none: only then it has a number of its own.
        Self::open(Some(NETFILTER), "netfilter")?.listening(groups, "changes of nftables")
    }

    /// The same of links, addresses and routes.
    pub fn route_events(groups: u32) -> Result<Self> {
        Self::open(None, "routing")?.listening(groups, "changes of links")
    }

    pub fn listening(self, groups: u32, to: &'static str) -> Result<Self> {
        let bound = rustix::net::bind(&self.0, &SocketAddrNetlink::new(0, groups));
        bound.map(|()| self).map_err(|errno| Error::kernel("listen to", to, errno))
    }

    /// Waits until something was told, and passes over what it was; false when nothing came in time.
    pub fn wait(&self, patience: Duration) -> Result<bool> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: patience.as_nanos().min(999_999_999) as i64 };
        let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
        let count = rustix::io::retry_on_intr(|| poll(&mut polled, Some(&timeout)));
        let count = count.map_err(|errno| Error::kernel("listen to", "changes of links", errno))?;
        let mut buffer = vec![0; 64 << 10];
        // More than there was room for is news, too.
        while !matches!(self.receive(&mut buffer, RecvFlags::DONTWAIT), Err(Errno::AGAIN)) {}
        Ok(count > 0)
    }

    fn open(protocol: Option<rustix::net::Protocol>, name: &str) -> Result<Self> {
        let fail = |errno| Error::kernel("open a netlink socket for", name, errno);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol).map_err(fail)?;
        // Room for the answers to a large transaction; the kernel caps it.
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4 << 20).map_err(fail)?;
        Ok(Socket(socket))
    }
}

impl<Fd: AsFd> Socket<Fd> {
    /// Carries the batch out: the answers, or the first error.
    pub fn request(&self, batch: Batch) -> Result<Vec<Answer>> {
        self.exchange(batch, false)
    }

    /// Asks for a list.
    pub fn dump(&self, batch: Batch) -> Result<Vec<Answer>> {
        self.exchange(batch, true)
    }

    fn exchange(&self, mut batch: Batch, is_dump: bool) -> Result<Vec<Answer>> {
        batch.end();
        let fail = |errno| {
            let first = batch.purposes.first();
            Error::kernel(first.map_or("talk about", |p| p.action), first.map_or_else(String::new, |p| p.object.clone()), errno)
        };
        // What an earlier, interrupted exchange left must not be taken for an answer to this one.
        let mut buffer = vec![0; 64 << 10];
        while self.receive(&mut buffer, RecvFlags::DONTWAIT).is_ok_and(|got| got > 0) {}
        let kernel = SocketAddrNetlink::new(0, 0);
        let sent = rustix::io::retry_on_intr(|| rustix::net::sendto(&self.0, &batch.bytes, SendFlags::empty(), &kernel)).map_err(fail)?;
        if sent != batch.bytes.len() {
            return Err(fail(Errno::MSGSIZE));
        }
        let (mut answers, mut failure): (_, Option<(usize, Errno)>) = (Vec::new(), None);
        loop {
            let wait = if is_dump { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
            let got = match self.receive(&mut buffer, wait) {
                Ok(got) => got,
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(fail(errno)),
            };
            let mut rest = &buffer[..got];
            let mut done = false;
            while let Some((kind, sequence, payload, next)) = message(rest) {
                rest = next;
                match kind {
                    ERROR => {
                        let code = payload.get(..4).map_or(0, |code| i32::from_ne_bytes([code[0], code[1], code[2], code[3]]));
                        let is_fine = batch.purposes.get(sequence).is_some_and(|p| p.fine.iter().any(|fine| fine.raw_os_error() == -code));
                        // The first failed request explains those after it.
                        if code != 0 && !is_fine && failure.is_none_or(|(earlier, _)| sequence < earlier) {
                            failure = Some((sequence, Errno::from_raw_os_error(-code)));
                        }
                        done = true;
                    }
                    DONE => done = true,
                    _ => answers.push(Answer(payload.to_vec())),
                }
            }
            if is_dump && done {
                break;
            }
        }
        match failure {
            Some((sequence, errno)) => {
                let purpose = batch.purposes.get(sequence).cloned();
                let purpose = purpose.unwrap_or(Purpose { action: "carry out", object: "a netlink request".into(), fine: vec![] });
                Err(Error::kernel(purpose.action, purpose.object, errno))
            }
            None => Ok(answers),
        }
    }

    /// The socket's own number, by which the kernel tells who changed something.
    pub fn port(&self) -> Result<u32> {
        let fail = |errno| Error::kernel("name", "a netlink socket", errno);
        let name = rustix::net::getsockname(&self.0).map_err(fail)?;
        SocketAddrNetlink::try_from(name).map(|name| name.pid()).map_err(fail)
    }

    pub fn receive(&self, buffer: &mut [u8], flags: RecvFlags) -> std::result::Result<usize, Errno> {
        let (got, whole) = rustix::io::retry_on_intr(|| rustix::net::recv(&self.0, &mut *buffer, flags | RecvFlags::TRUNC))?;
        if whole > buffer.len() { Err(Errno::MSGSIZE) } else { Ok(got) }
    }
}

pub(crate) type Message<'a> = (u16, usize, &'a [u8], &'a [u8]);

/// The first message of a buffer: kind, sequence number, payload, what follows.
pub(crate) fn message(bytes: &[u8]) -> Option<Message<'_>> {
    let number = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    let length = usize::try_from(number(0)?).ok()?;
    let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let sequence = usize::try_from(number(8)?).ok()?;
    let payload = bytes.get(HEADER..length)?;
    Some((kind, sequence, payload, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_answers_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = bytes.as_slice();
            while let Some((_, _, payload, next)) = message(rest) {
                attributes(payload).for_each(drop);
                rest = next;
            }
            attributes(&bytes).for_each(drop);
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut batch = Batch::default();
        batch.begin(16, flags::ACK, "a", "b", &[7; 3]);
        batch.text(1, "abc");
        batch.nest(2, |b| b.u32(3, 9));
        batch.begin(17, 0, "c", "d", &[]);
        batch.end();
        let (kind, sequence, payload, next) = message(&batch.bytes).unwrap();
        assert_eq!((kind, sequence), (16, 0));
        let found: Vec<_> = attributes(&payload[4..]).collect();
        assert_eq!(found[0], (1, &b"abc\0"[..]));
        assert_eq!(attributes(found[1].1).collect::<Vec<_>>(), [(3, &9u32.to_ne_bytes()[..])]);
        assert_eq!(message(next).unwrap().0, 17);
    }
}
