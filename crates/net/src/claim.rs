//! One engine at a time has the links and rules of a name: two that both mend them would undo each other's work for ever, and
//! what one finds at its start it would take for a dead engine's.
//!
//! The claim is an abstract socket (unix(7)): it belongs to a network namespace as the links do, and goes with its process.

use crate::error::{Error, Result};
use crate::holder;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with, sockopt};
use std::os::fd::OwnedFd;

/// The claim of a name in this network namespace, as long as it lives.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "held open")] Option<OwnedFd>);

impl Claim {
    /// Claims a name; refused where another engine has it.
    pub fn take(name: &str) -> Result<Claim> {
        let fail = |errno| Error::kernel("claim", name, errno);
        let address = SocketAddrUnix::new_abstract_name(format!("naru-networks/{name}").as_bytes()).map_err(fail)?;
        let socket = || socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None);
        let own = socket().map_err(fail)?;
        match bind(&own, &address) {
            Ok(()) => {
                // Whoever connects is told by the kernel who this is; nobody is answered.
                listen(&own, 1).map_err(fail)?;
                Ok(Claim(Some(own)))
            }
            Err(Errno::ADDRINUSE) => {
                let asking = socket().map_err(fail)?;
                let peer = connect(&asking, &address).and_then(|()| sockopt::socket_peercred(&asking));
                match peer {
                    // Anybody may take such a name; only another engine's claim counts.
                    Ok(peer) if !peer.uid.is_root() => {
                        tracing::warn!(name, user = peer.uid.as_raw(), "a user's process has the name by which engines know of each other");
                        Ok(Claim(None))
                    }
                    peer => {
                        let holder = peer.ok().and_then(|peer| holder::name_of(peer.pid.as_raw_nonzero().get().unsigned_abs()));
                        Err(Error::Claimed { name: name.to_owned(), holder: holder.unwrap_or_else(|| "another engine".into()) })
                    }
                }
            }
            Err(errno) => Err(fail(errno)),
        }
    }
}
