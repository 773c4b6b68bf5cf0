//! What a starting process and its parent say to each other, over a seqpacket socket that exec closes.
//!
//! ```text
//! child                          parent
//!  'U' user namespace made   ──▶  writes the id maps
//!                            ◀──  'k'
//!  'H' before pivot_root     ──▶  runs prestart and createRuntime hooks
//!                            ◀──  'k'
//!  'T' + terminal            ──▶
//!  'R' all but the program   ──▶  with `create` ends here: `start` goes on, over a connection of its own
//!                            ◀──  'k' when the program may run
//!  'X' exec comes next       ──▶
//!  'E' + reason + text       ──▶  the start has failed
//!  end of file               ──▶  after 'X' the program runs, else the child has died
//! ```

use crate::bytes::{receive_with_fds, send_with_fds};
use crate::error::{FailureReason, StartFailure, ignore};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A failure's text is cut to this.
const MAX_TEXT_BYTES: usize = 4096;

/// What the child says.
#[derive(Debug)]
pub(crate) enum Word {
    UserNamespace,
    Hooks,
    Terminal(OwnedFd),
    Ready,
    Exec,
    Failed(StartFailure),
    /// The connection has ended.
    Gone,
}

/// The child's end.
#[derive(Debug)]
pub(crate) struct ChildEnd(OwnedFd);

/// The parent's end.
#[derive(Debug)]
pub(crate) struct ParentEnd(OwnedFd);

pub(crate) fn pair() -> Result<(ParentEnd, ChildEnd), Errno> {
    let (parent, child) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((ParentEnd(parent), ChildEnd(child)))
}

fn reason_code(reason: FailureReason) -> u8 {
    match reason {
        FailureReason::NotFound => 1,
        FailureReason::PermissionDenied => 2,
        FailureReason::NotRunning => 3,
        FailureReason::Invalid => 4,
        FailureReason::Other => 5,
    }
}

fn reason_of(code: u8) -> FailureReason {
    match code {
        1 => FailureReason::NotFound,
        2 => FailureReason::PermissionDenied,
        3 => FailureReason::NotRunning,
        4 => FailureReason::Invalid,
        _ => FailureReason::Other,
    }
}

/// The bytes that tell of a failure.
fn failure_bytes(failure: &StartFailure) -> Vec<u8> {
    let text = failure.message.as_bytes();
    let mut message = vec![b'E', reason_code(failure.reason)];
    message.extend_from_slice(&text[..text.len().min(MAX_TEXT_BYTES)]);
    message
}

impl AsFd for ChildEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ChildEnd {
    /// From another connection of the same kind (the one of `start`).
    pub(crate) fn from_fd(fd: OwnedFd) -> ChildEnd {
        ChildEnd(fd)
    }

    fn ask(&self, word: u8) -> Result<(), StartFailure> {
        send_with_fds(self.0.as_fd(), &[word], &[]).map_err(|errno| StartFailure::other(format!("speak to the parent: {errno}")))?;
        self.leave()
    }

    /// Waits until the parent says that it goes on.
    pub(crate) fn leave(&self) -> Result<(), StartFailure> {
        let mut answer = [0; 1];
        match receive_with_fds(self.0.as_fd(), &mut answer) {
            Ok((1, _)) if answer == *b"k" => Ok(()),
            // The parent has ended or says no; whoever asked it for the start knows why.
            _ => Err(StartFailure::other("the parent gave up")),
        }
    }

    pub(crate) fn user_namespace(&self) -> Result<(), StartFailure> {
        self.ask(b'U')
    }

    pub(crate) fn hooks(&self) -> Result<(), StartFailure> {
        self.ask(b'H')
    }

    pub(crate) fn terminal(&self, master: BorrowedFd<'_>) -> Result<(), Errno> {
        send_with_fds(self.0.as_fd(), b"T", &[master])
    }

    /// Says that all but the program is there.
    pub(crate) fn ready(&self) -> Result<(), Errno> {
        send_with_fds(self.0.as_fd(), b"R", &[])
    }

    pub(crate) fn last_word(&self) -> Result<(), Errno> {
        send_with_fds(self.0.as_fd(), b"X", &[])
    }

    pub(crate) fn failed(&self, failure: &StartFailure) {
        // If nobody listens there is nobody to tell.
        ignore(send_with_fds(self.0.as_fd(), &failure_bytes(failure), &[]));
    }
}

impl AsFd for ParentEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ParentEnd {
    pub(crate) fn from_fd(fd: OwnedFd) -> ParentEnd {
        ParentEnd(fd)
    }

    pub(crate) fn hear(&self) -> Result<Word, Errno> {
        let mut message = [0; MAX_TEXT_BYTES + 2];
        let (count, fds) = match receive_with_fds(self.0.as_fd(), &mut message) {
            // A child that died with unread bytes of ours.
            Err(Errno::CONNRESET) => return Ok(Word::Gone),
            other => other?,
        };
        Ok(match &message[..count] {
            [] => Word::Gone,
            [b'U'] => Word::UserNamespace,
            [b'H'] => Word::Hooks,
            [b'R'] => Word::Ready,
            [b'X'] => Word::Exec,
            [b'T'] => Word::Terminal(fds.into_iter().next().ok_or(Errno::PROTO)?),
            [b'E', reason, text @ ..] => {
                Word::Failed(StartFailure { reason: reason_of(*reason), message: String::from_utf8_lossy(text).into_owned() })
            }
            _ => return Err(Errno::PROTO),
        })
    }

    pub(crate) fn go_on(&self) -> Result<(), Errno> {
        send_with_fds(self.0.as_fd(), b"k", &[])
    }
}
