//! The bytes of a connection, both ways: the first ones are copied, the rest is moved by the kernel through a pipe
//! (splice(2)) and never comes into this process. So a short connection costs no pipe, and a long one no copy.

use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::io;
use std::os::fd::AsFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

/// Copy buffer of each direction.
const BUFFER: usize = 32 << 10;
/// Bytes that are copied before a pipe is worth its descriptors.
const COPIED: usize = 256 << 10;
/// Bytes in a pipe at a time.
const PIPE: usize = 256 << 10;
/// Rounds before others have their turn.
const TURN: u32 = 16;

/// Carries both directions until both have ended, each end passed on by itself; an error ends both.
pub async fn both_ways(one: &mut TcpStream, other: &mut TcpStream) -> io::Result<()> {
    let (one, other) = (one.split(), other.split());
    tokio::try_join!(one_way(one.0, other.1), one_way(other.0, one.1)).map(drop)
}

async fn one_way(mut from: ReadHalf<'_>, to: WriteHalf<'_>) -> io::Result<()> {
    let to = to.as_ref();
    if !copy(&mut from, to, Some(COPIED)).await? {
        match pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) {
            Ok((out, into)) => {
                // The default of 64 KiB does, too, where users may have no more.
                fcntl_setpipe_size(&into, PIPE).ok();
                move_rest(from.as_ref(), to, out, into).await?;
            }
            // Out of descriptors: copying needs none.
            Err(_) => {
                copy(&mut from, to, None).await?;
            }
        }
    }
    match rustix::net::shutdown(to, Shutdown::Write) {
        // The other end has gone meanwhile.
        Ok(()) | Err(Errno::NOTCONN) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Copies up to `most` bytes, or all; true when the end was reached.
async fn copy(from: &mut ReadHalf<'_>, to: &TcpStream, most: Option<usize>) -> io::Result<bool> {
    let (mut buffer, mut copied) = (vec![0; BUFFER], 0);
    while most.is_none_or(|most| copied < most) {
        // Not `async_io`: a read that leaves room in the buffer has emptied the socket, which this one knows without asking
        // again. That is one of four system calls on the way of a request.
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(true);
        }
        let mut left = &buffer[..count];
        while !left.is_empty() {
            let sent = to.async_io(Interest::WRITABLE, || to.try_write(left)).await?;
            left = &left[sent..];
        }
        copied += count;
        if copied % (BUFFER * TURN as usize) < count {
            tokio::task::yield_now().await;
        }
    }
    Ok(false)
}

/// Moves everything up to the end.
async fn move_rest(from: &TcpStream, to: &TcpStream, out: impl AsFd, into: impl AsFd) -> io::Result<()> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    for round in 1_u32.. {
        // The pipe is empty here, so that "try again" is about the socket.
        let filled = from.async_io(Interest::READABLE, || Ok(splice(from, None, &into, None, PIPE, flags)?)).await?;
        if filled == 0 {
            return Ok(());
        }
        let mut left = filled;
        while left > 0 {
            match to.async_io(Interest::WRITABLE, || Ok(splice(&out, None, to, None, left, flags)?)).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                sent => left -= sent,
            }
        }
        if round % TURN == 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (connected, listener.accept().await.unwrap().0)
    }

    /// Sizes before, at and far beyond the point where the pipe takes over, in both directions at once.
    #[tokio::test]
    async fn what_goes_in_comes_out() {
        for size in [0, 1, COPIED - 1, COPIED, COPIED + 1, 40 * COPIED + 7] {
            let ((mut client, mut one), (mut other, mut server)) = (pair().await, pair().await);
            let carried = tokio::spawn(async move { both_ways(&mut one, &mut other).await });
            let bytes = |salt: usize| (0..size).map(|at| (at * 31 + salt) as u8).collect::<Vec<_>>();
            let (request, answer) = (bytes(1), bytes(2));
            let (sent_up, sent_down) = (request.clone(), answer.clone());
            let ends = tokio::spawn(async move {
                let (mut reading, mut writing) = server.split();
                let mut received = Vec::new();
                let (read, written) = tokio::join!(reading.read_to_end(&mut received), async {
                    writing.write_all(&sent_down).await?;
                    writing.shutdown().await
                });
                read.unwrap();
                written.unwrap();
                received
            });
            let (mut reading, mut writing) = client.split();
            let mut received = Vec::new();
            let (read, written) = tokio::join!(reading.read_to_end(&mut received), async {
                writing.write_all(&sent_up).await?;
                writing.shutdown().await
            });
            read.unwrap();
            written.unwrap();
            assert!(received == answer && ends.await.unwrap() == request, "{size} bytes");
            carried.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn an_end_that_breaks_ends_both() {
        let ((mut client, mut one), (mut other, server)) = (pair().await, pair().await);
        let carried = tokio::spawn(async move { both_ways(&mut one, &mut other).await });
        let mut big = vec![7; 4 * COPIED];
        drop(server);
        // The first bytes may still be taken; then the connection is gone.
        while client.write_all(&big).await.is_ok() {
            big.truncate(COPIED);
        }
        assert!(carried.await.unwrap().is_err());
    }
}
