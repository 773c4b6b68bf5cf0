//! Request lines as people type them: `curl -g '…/events?filters={"type":["container"]}'`.
//!
//! Go's server takes a query with raw quotes, which no URI may have and hyper refuses. So the heads of requests are looked
//! at before hyper sees them, and what is not allowed there is escaped. The state says where in the stream we are:
//!
//! ```text
//! Head ──(blank line)──▶ Body(length) ──(length bytes)──▶ Head …
//!   └──(chunked, upgrade, expectation, anything odd)──▶ Raw, for ever
//! ```
//! Only what is surely a request line is ever changed; a body or an upgraded stream never is. A later request on a
//! connection that has become `Raw` is read as it stands.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// A head that has not ended after so many bytes is hyper's to judge.
const LONGEST_HEAD: usize = 64 << 10;
const BLOCK: usize = 8 << 10;

enum State {
    /// Inside a request's head, which is held back until it is complete.
    Head(Vec<u8>),
    /// So many bytes of a body are to come.
    Body(u64),
    /// Nothing is looked at any more.
    Raw,
}

/// A connection whose request lines are made ones that hyper takes.
pub struct Lenient<S> {
    stream: S,
    state: State,
    /// Bytes for the reader, from `given` on.
    ready: Vec<u8>,
    given: usize,
    /// Hears of the end of what the client sends.
    ended: Option<oneshot::Sender<End>>,
}

/// What a client does not do any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Send; it may still read.
    Sending,
    /// Anything: it has gone.
    All,
}

impl<S> Lenient<S> {
    /// Wraps a connection on which nothing was read yet; `ended` hears when there is no more to read.
    pub fn new(stream: S, ended: oneshot::Sender<End>) -> Self {
        Lenient { stream, state: State::Head(Vec::new()), ready: Vec::new(), given: 0, ended: Some(ended) }
    }

    /// The connection, and what was read of it and not given yet.
    pub fn into_parts(mut self) -> (S, Vec<u8>) {
        self.end();
        self.ready.drain(..self.given);
        (self.stream, self.ready)
    }

    /// Takes bytes of the stream in and makes `ready` of them what can be.
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Raw => {
                    self.ready.extend_from_slice(bytes);
                    return;
                }
                State::Body(left) => {
                    let part = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    self.ready.extend_from_slice(&bytes[..part]);
                    *left -= part as u64;
                    bytes = &bytes[part..];
                    if *left == 0 {
                        self.state = State::Head(Vec::new());
                    }
                }
                State::Head(head) => {
                    // The end of a head may lie across two reads.
                    let before = head.len();
                    let from = before.saturating_sub(3);
                    head.extend_from_slice(bytes);
                    let end = head[from..].windows(4).position(|four| four == b"\r\n\r\n").map(|at| from + at + 4);
                    match end {
                        Some(end) => {
                            bytes = &bytes[end - before..];
                            head.truncate(end);
                            escape_into(head, &mut self.ready);
                            self.state = after(head);
                        }
                        None => {
                            bytes = &[];
                            if head.len() > LONGEST_HEAD || !is_text(head, before) {
                                self.ready.append(head);
                                self.state = State::Raw;
                            }
                        }
                    }
                }
            }
        }
    }

    /// The stream has ended, perhaps inside a head.
    fn end(&mut self) {
        if let State::Head(head) = &mut self.state {
            self.ready.append(head);
        }
        self.state = State::Raw;
    }
}

/// Whether it may still become an HTTP/1 head with CRLF, as far as the bytes from `new` on tell: others need not wait for
/// a blank line.
fn is_text(head: &[u8], new: usize) -> bool {
    let bare = (new..head.len()).any(|at| head[at] == b'\n' && (at == 0 || head[at - 1] != b'\r'));
    head.first().is_some_and(u8::is_ascii_uppercase) && !bare
}

/// The head with what the query of its request line may not hold escaped.
fn escape_into(head: &[u8], out: &mut Vec<u8>) {
    let line = head.iter().position(|byte| *byte == b'\r').unwrap_or(head.len());
    let query = head[..line].iter().position(|byte| *byte == b'?').unwrap_or(line);
    out.extend_from_slice(&head[..query]);
    for byte in &head[query..line] {
        match byte {
            b'"' => out.extend_from_slice(b"%22"),
            b'<' => out.extend_from_slice(b"%3C"),
            b'>' => out.extend_from_slice(b"%3E"),
            byte => out.push(*byte),
        }
    }
    out.extend_from_slice(&head[line..]);
}

/// What follows a head.
fn after(head: &[u8]) -> State {
    let mut length = None;
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (line[..colon].to_ascii_lowercase(), line[colon + 1..].trim_ascii());
        match &*name {
            b"content-length" => {
                let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
                // Twice or no number: hyper refuses it.
                if length.is_some() || number.is_none() {
                    return State::Raw;
                }
                length = number;
            }
            b"transfer-encoding" | b"upgrade" | b"expect" => return State::Raw,
            _ => {}
        }
    }
    match length {
        None | Some(0) => State::Head(Vec::new()),
        Some(length) => State::Body(length),
    }
}

impl<S: AsyncRead + AsFd + Unpin> Lenient<S> {
    fn poll_stream(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let over = matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() == before && buffer.remaining() > 0;
        if over && let Some(ended) = self.ended.take() {
            // Nobody may want to know.
            ended.send(if has_gone(self.stream.as_fd()) { End::All } else { End::Sending }).ok();
        }
        read
    }
}

/// Whether the other end has closed both directions, as far as the kernel knows: of a connection to another host it does not.
pub fn has_gone(stream: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(stream, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec::default())).is_ok() && polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

impl<S: AsyncRead + AsFd + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.given < this.ready.len() {
                let part = (this.ready.len() - this.given).min(buffer.remaining());
                buffer.put_slice(&this.ready[this.given..this.given + part]);
                this.given += part;
                return Poll::Ready(Ok(()));
            }
            this.ready.clear();
            this.given = 0;
            match &mut this.state {
                State::Raw => return this.poll_stream(context, buffer),
                // A body goes straight to who reads it.
                State::Body(left) => {
                    let left = *left;
                    let room = buffer.remaining().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let mut part = ReadBuf::new(buffer.initialize_unfilled_to(room));
                    ready!(this.poll_stream(context, &mut part))?;
                    let count = part.filled().len();
                    buffer.advance(count);
                    match left - count as u64 {
                        _ if count == 0 && room > 0 => this.end(),
                        0 => this.state = State::Head(Vec::new()),
                        left => this.state = State::Body(left),
                    }
                    return Poll::Ready(Ok(()));
                }
                State::Head(_) => {
                    let mut block = [0; BLOCK];
                    let mut read = ReadBuf::new(&mut block);
                    ready!(this.poll_stream(context, &mut read))?;
                    if read.filled().is_empty() {
                        this.end();
                        if this.ready.is_empty() {
                            return Poll::Ready(Ok(()));
                        }
                    }
                    this.take(read.filled());
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    /// A stream that gives its bytes in parts; the descriptor is any that has not hung up.
    struct Parts(DuplexStream, File);

    impl AsFd for Parts {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.1.as_fd()
        }
    }

    impl AsyncRead for Parts {
        fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    /// What comes out when `input` comes in parts of `size` bytes.
    fn through(input: &[u8], size: usize) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (mut near, far) = tokio::io::duplex(size);
            let (end, ended) = oneshot::channel();
            let far = Parts(far, File::open("/dev/null").expect("it is there"));
            let (mut reader, mut out) = (Lenient::new(far, end), vec![]);
            let writing = async {
                near.write_all(input).await.expect("it is read");
                drop(near);
            };
            let (read, ()) = tokio::join!(reader.read_to_end(&mut out), writing);
            read.expect("it ends");
            assert_eq!(ended.await, Ok(End::Sending));
            out
        })
    }

    fn check(input: &str, expected: &str) {
        for size in [1, 2, 3, 7, 1 << 20] {
            assert_eq!(String::from_utf8_lossy(&through(input.as_bytes(), size)), expected, "in parts of {size}");
        }
    }

    #[test]
    fn quotes_of_a_query_are_escaped_and_nothing_else() {
        check(
            "GET /a\"b?f={\"x\":[\"<y>\"]} HTTP/1.1\r\nX: \"?\"\r\n\r\n",
            "GET /a\"b?f={%22x%22:[%22%3Cy%3E%22]} HTTP/1.1\r\nX: \"?\"\r\n\r\n",
        );
        check("GET /a HTTP/1.1\r\n\r\n", "GET /a HTTP/1.1\r\n\r\n");
    }

    #[test]
    fn each_request_of_a_connection_is_looked_at_and_no_body() {
        let first = "POST /x?a=1 HTTP/1.1\r\nContent-Length: 15\r\n\r\nGET /?\" \r\n\r\n\"!\"";
        let second = "GET /?\" HTTP/1.1\r\n\r\n";
        check(&format!("{first}{second}{second}"), &format!("{first}{}", second.replace('"', "%22").repeat(2)));
    }

    #[test]
    fn streams_of_unknown_length_are_left_alone() {
        for header in ["Transfer-Encoding: chunked", "Upgrade: tcp", "Expect: 100-continue", "Content-Length: x"] {
            let text = format!("POST /x HTTP/1.1\r\n{header}\r\n\r\nGET /?\" HTTP/1.1\r\n\r\n");
            check(&text, &text);
        }
        for text in ["GET /?\" HTTP/1.1\n\n", "\u{16}\u{3}\"?", "GET /?\"", "POST /x HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf"] {
            check(text, text);
        }
        let long = format!("GET /?\"{} HTTP/1.1\r\n\r\n", "x".repeat(2 * LONGEST_HEAD));
        check(&long, &long);
    }

    #[test]
    fn a_client_that_has_gone_is_told_from_one_that_listens() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
        runtime.block_on(async {
            for (whole, expected) in [(false, End::Sending), (true, End::All)] {
                let (mut near, far) = tokio::net::UnixStream::pair().expect("a pair");
                let (end, ended) = oneshot::channel();
                let mut reader = Lenient::new(far, end);
                near.shutdown().await.expect("it is open");
                let near = (!whole).then_some(near);
                assert_eq!(reader.read(&mut [0; 8]).await.expect("it ends"), 0);
                assert_eq!(ended.await, Ok(expected));
                drop(near);
            }
        });
    }
}
