//! Connections to the monitor: requests being read, watchers, clients of streams.

use super::protocol::{Event, MAX_FRAME_BYTES, Response, encode};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A client that lets this much pile up is waited for: the container's stream stops until it reads.
pub(super) const MAX_QUEUED_BYTES: usize = 1 << 20;

/// What a connection is.
#[derive(Debug)]
pub(super) enum Role {
    /// Sends requests; what has been read of the next one.
    Requests(Vec<u8>),
    /// Hears events.
    Watch,
    /// A client of the streams of a process.
    Stream(Subscription),
    /// Only what is queued goes out, then it closes.
    Closing,
}

/// Which streams of which process a client has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subscription {
    pub process: usize,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Raw bytes instead of frames.
    pub raw: bool,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Client {
    pub socket: OwnedFd,
    pub role: Role,
    queue: Vec<u8>,
    sent: usize,
    /// The interest registered with epoll.
    pub registered: Option<rustix::event::epoll::EventFlags>,
    /// The client has sent its last byte.
    pub input_ended: bool,
    pub gone: bool,
}

impl Client {
    pub(super) fn new(socket: OwnedFd, role: Role) -> Client {
        Client { socket, role, queue: Vec::new(), sent: 0, registered: None, input_ended: false, gone: false }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len() - self.sent
    }

    /// Queues bytes and sends what can be sent at once.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        if self.gone {
            return;
        }
        let mut bytes = bytes;
        if self.queued() == 0 {
            match self.send_now(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(_) => return self.gone = true,
            }
        }
        if !bytes.is_empty() {
            self.queue.extend_from_slice(bytes);
        }
    }

    pub(super) fn respond(&mut self, response: &Response) {
        self.send(&encode(response));
    }

    pub(super) fn tell(&mut self, event: &Event) {
        self.send(&encode(event));
        // A watcher that never reads must not make this process grow.
        if self.queued() > MAX_QUEUED_BYTES {
            self.gone = true;
        }
    }

    /// Output of a stream (1 or 2).
    pub(super) fn output(&mut self, stream: u8, raw: bool, bytes: &[u8]) {
        if !raw {
            let mut header = [stream, 0, 0, 0, 0, 0, 0, 0];
            header[4..].copy_from_slice(&(bytes.len() as u32).to_be_bytes());
            // One message where possible: the header waits in the queue for its payload.
            if self.queued() == 0 {
                match self.send_two(&header, bytes) {
                    Ok(count) if count >= header.len() => return self.queue.extend_from_slice(&bytes[count - header.len()..]),
                    Ok(count) => self.queue.extend_from_slice(&header[count..]),
                    Err(_) => return self.gone = true,
                }
            } else {
                self.queue.extend_from_slice(&header);
            }
            self.queue.extend_from_slice(bytes);
            return;
        }
        self.send(bytes);
    }

    /// Sends more of the queue.
    pub(super) fn flush(&mut self) {
        while self.queued() > 0 && !self.gone {
            match self.send_now(&self.queue[self.sent..]) {
                Ok(0) => return self.forget_sent(),
                Ok(count) => self.sent += count,
                Err(_) => self.gone = true,
            }
        }
        self.queue = Vec::new();
        self.sent = 0;
    }

    /// Frees what was sent. A queue that a slow reader never empties would hold all that ever went through it; moving the
    /// rest only when it is the smaller part costs less than the sending did.
    fn forget_sent(&mut self) {
        if self.sent * 2 >= self.queue.len() {
            self.queue.drain(..self.sent);
            self.sent = 0;
        }
    }

    fn send_now(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => Ok(0),
            other => other,
        }
    }

    fn send_two(&self, header: &[u8], bytes: &[u8]) -> Result<usize, Errno> {
        let parts = [std::io::IoSlice::new(header), std::io::IoSlice::new(bytes)];
        let mut control = rustix::net::SendAncillaryBuffer::default();
        match rustix::net::sendmsg(&self.socket, &parts, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => Ok(0),
            other => other,
        }
    }

    /// Reads what is there; `Ok(None)` when nothing is.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        match rustix::net::recv(&self.socket, buffer, RecvFlags::DONTWAIT) {
            Ok((count, _)) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

/// The first complete frame of `bytes`, taken out; `Err` when it is too long.
pub(super) fn take_frame(bytes: &mut Vec<u8>) -> Result<Option<Vec<u8>>, ()> {
    let Some(length) = bytes.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize) else { return Ok(None) };
    if length > MAX_FRAME_BYTES {
        return Err(());
    }
    if bytes.len() < 4 + length {
        return Ok(None);
    }
    let rest = bytes.split_off(4 + length);
    let mut frame = std::mem::replace(bytes, rest);
    frame.drain(..4);
    Ok(Some(frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_whole() {
        let mut bytes = vec![2, 0, 0, 0, b'{'];
        assert_eq!(take_frame(&mut bytes), Ok(None));
        bytes.extend_from_slice(b"}rest");
        assert_eq!(take_frame(&mut bytes), Ok(Some(b"{}".to_vec())));
        assert_eq!(bytes, b"rest");
        assert_eq!(take_frame(&mut vec![255, 255, 255, 255]), Err(()));
    }

    #[test]
    fn a_full_socket_queues_and_keeps_the_order() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut client = Client::new(ours.into(), Role::Watch);
        let chunk = vec![7; 100_000];
        for _ in 0..20 {
            client.output(1, false, &chunk);
        }
        assert!(client.queued() > 0);
        let reader = std::thread::spawn(move || {
            use std::io::Read;
            let mut all = Vec::new();
            let mut theirs = theirs;
            theirs.read_to_end(&mut all).unwrap();
            all
        });
        while client.queued() > 0 {
            client.flush();
        }
        drop(client);
        let all = reader.join().unwrap();
        assert_eq!(all.len(), 20 * 100_008);
        for frame in all.chunks(100_008) {
            assert_eq!(frame[..8], [1, 0, 0, 0, 0, 1, 0x86, 0xa0]);
        }
    }

    const READ: usize = 64 << 10;

    #[test]
    fn a_slow_reader_costs_no_more_than_its_queue() {
        use std::io::Read;
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut client = Client::new(ours.into(), Role::Watch);
        let (chunk, mut block) = (vec![7; READ], vec![0; READ / 2]);
        let (mut written, mut read) = (0, 0);
        while written < 64 * MAX_QUEUED_BYTES {
            // As the monitor does: a full queue stops the reading of the output, not its reader.
            while client.queued() < MAX_QUEUED_BYTES {
                client.output(1, true, &chunk);
                written += READ;
            }
            read += theirs.read(&mut block).unwrap();
            client.flush();
            assert!(client.queued() > 0, "it is never empty");
            assert!(client.queue.len() <= 2 * (MAX_QUEUED_BYTES + READ), "{} bytes after {read}", client.queue.len());
        }
    }
}
