//! The monitor: one process per container that owns its pidfd, terminal or pipes, log file and exit record.
//!
//! It is forked (not exec'd) from the spawner, has a session of its own and survives the daemon. On the disk:
//! `<directory>/monitor.sock` while it lives, `<directory>/exit.json` once the container has ended.
//!
//! Each connection to the socket begins with a [`Request`] frame (length as u32 little endian, then JSON). After
//! `Watch` only [`Event`] frames follow, the present state first. After `Attach` and `Exec` comes one [`Response`];
//! if it is `Ok` or `ExecStarted` the connection is the stream from then on: from the monitor Docker's frames (one byte 1
//! or 2, three zeros, length as u32 big endian, payload) or with a terminal raw bytes; towards the monitor raw standard
//! input, whose end is `shutdown(WR)`. Other requests get a [`Response`] each and the connection stays.

mod external;
mod files;
mod log;
mod process;
mod protocol;
mod serve;
mod sink;
mod start;

pub use log::LogFile;
pub use protocol::{
    Event, ExecRequest, ExitRecord, MAX_FRAME_BYTES, Request, Response, State, connect, decode, encode, read_exit_record, receive_event,
    receive_response, send_request,
};

pub(crate) use protocol::{Go, Log, Opening, Start, StartRootfs, StartRuntime};
pub(crate) use start::main;
