//! `--init`: a first process that reaps orphans and hands signals on, as tini does.
//!
//! It is the container's pid 1 without a program of its own: it has no descriptors but the streams, the program's rights
//! and filter, and is not dumpable.

use crate::error::ignore;
use naru_sys::process::{self, Fork, SingleThread};
use rustix::io::Errno;

/// Faults of this process itself, and what the terminal says to a background group: not for the program.
const OWN: [i32; 9] =
    [libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGTRAP, libc::SIGSYS, libc::SIGTTIN, libc::SIGTTOU];

/// Comes back in a child that is to become the program; the caller itself reaps until that child has ended.
pub(crate) fn split(threads: SingleThread, terminal: bool) -> Result<(), Errno> {
    process::block_signals();
    match threads.fork()? {
        Fork::Child => {
            rustix::process::setpgid(None, None)?;
            if terminal {
                // A background process that takes the terminal is stopped by SIGTTOU, which is blocked here.
                match rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpgrp()) {
                    Ok(()) | Err(Errno::NOTTY | Errno::NXIO) => {}
                    Err(errno) => return Err(errno),
                }
            }
            process::reset_signals();
            Ok(())
        }
        Fork::Parent { pid } => process::exit_now(reap(pid)),
    }
}

fn reap(program: i32) -> i32 {
    ignore(process::close_from(3, false));
    ignore(rustix::thread::set_name(c"naru-init"));
    loop {
        match process::wait_signal(None) {
            Some(libc::SIGCHLD) => {
                while let Ok(Some((pid, ended))) = process::wait_child(-1, false) {
                    if pid == program {
                        return ended.code();
                    }
                }
            }
            Some(signal) if !OWN.contains(&signal) => drop(process::kill(program, signal)),
            _ => {}
        }
    }
}
