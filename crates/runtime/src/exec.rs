//! Another process in a running container: cloned into its pid namespace and cgroup, it enters the container by its own
//! system calls and then does what the first process did last.

use crate::cgroup::{Cgroup, Entry};
use crate::child::{self, Stdio, Streams};
use crate::error::{Error, StartFailure, ignore};
use crate::handshake::{self, ChildEnd, ParentEnd};
use crate::launch::{ChildrenIn, enter};
use crate::plan::ProcessPlan;
use naru_sys::process::{self, Clone3, SingleThread};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Clones the process of an exec, which then makes its own way into the container.
pub(crate) fn clone_exec(
    threads: SingleThread,
    mut plan: ProcessPlan,
    stdio: Option<Stdio>,
    cgroup: &Cgroup,
    container: BorrowedFd<'_>,
    namespaces: u64,
) -> Result<(ParentEnd, i32, OwnedFd), StartFailure> {
    let entry = cgroup.entry()?;
    let (parent, mut channel) = handshake::pair().map_err(|errno| Error::System { action: "make a socket pair", errno })?;
    let children = ChildrenIn::enter(container)?;
    let cloned = threads
        .clone3(0, entry.unified.as_ref().map(AsFd::as_fd))
        .map_err(|errno| Error::System { action: "clone the exec's process", errno })?;
    match cloned {
        Clone3::Parent { pid, pidfd } => {
            drop(children);
            Ok((parent, pid, pidfd))
        }
        Clone3::Child => {
            drop(parent);
            let failure = enter_and_run(threads, &mut plan, stdio, &entry, container, namespaces, &mut channel);
            channel.failed(&failure);
            process::exit_now(1)
        }
    }
}

fn enter_and_run(
    threads: SingleThread,
    plan: &mut ProcessPlan,
    stdio: Option<Stdio>,
    entry: &Entry,
    container: BorrowedFd<'_>,
    namespaces: u64,
    channel: &mut ChildEnd,
) -> StartFailure {
    let prepared = (|| {
        process::reset_signals();
        ignore(process::set_dumpable(false));
        for procs in &entry.procs {
            rustix::io::write(procs, b"0").map_err(child::failed("join the cgroup"))?;
        }
        enter(container, namespaces)?;
        // Inside, processes of the container can look at this one: it has nothing of the host's any more (CVE-2016-9962).
        let mut keep = vec![channel.as_fd().as_raw_fd()];
        keep.extend(stdio.iter().flat_map(|stdio| [&stdio.stdin, &stdio.stdout, &stdio.stderr]).map(AsRawFd::as_raw_fd));
        process::close_all_but(3, &mut keep).map_err(child::failed("close descriptors"))?;
        ignore(rustix::process::setsid());
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(child::failed("open the root"))?;
        plan.resolve_user(root.as_fd())?;
        if !plan.terminal {
            return Ok(Streams::Pipes(stdio.ok_or_else(|| StartFailure::other("the exec has no streams"))?));
        }
        let (master, slave) = child::exec_terminal()?;
        if let Some((rows, columns)) = plan.console_size {
            child::set_size(master.as_fd(), rows, columns);
        }
        channel.terminal(master.as_fd()).map_err(child::failed("send the terminal"))?;
        Ok(Streams::Terminal(slave))
    })();
    match prepared {
        Ok(streams) => child::run_exec(threads, plan, streams, channel),
        Err(failure) => failure,
    }
}
