//! Errors of the network: each names what was attempted, and on what.

use crate::address::{IpNet, Protocol};
use naru_types::{ErrorKind, ParseError};
use rustix::io::Errno;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// What went wrong in the network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a change of links, addresses, routes or filters.
    #[error("cannot {action} {object}")]
    Kernel {
        /// What was attempted.
        action: &'static str,
        /// On what.
        object: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel's answer to a request is not what it should be.
    #[error("the kernel's answer about {object} cannot be read")]
    Answer {
        /// What was asked for.
        object: String,
    },
    /// The kernel has no links of this kind.
    #[error("the kernel of this host lacks {kind} links; load or build the module {kind}")]
    Unsupported {
        /// As the kernel calls it.
        kind: &'static str,
    },
    /// The link a network should hang on does not exist.
    #[error("-o parent interface was not found on the host: {name}")]
    NoParent {
        /// What was asked for.
        name: String,
    },
    /// The name asks for a VLAN that cannot be.
    #[error("invalid subinterface vlan name {name}, example formatting is eth0.10")]
    BadParent {
        /// What was asked for.
        name: String,
    },
    /// The host port is taken by another container of this engine.
    #[error("Bind for {address} failed: port is already allocated by {owner}")]
    PortAllocated {
        /// What was asked for.
        address: SocketAddr,
        /// tcp, udp or sctp.
        protocol: Protocol,
        /// Who has it.
        owner: String,
    },
    /// The host port is taken by another program.
    #[error("failed to bind host port {address}/{protocol}: address already in use by {holder}")]
    PortHeld {
        /// What was asked for.
        address: SocketAddr,
        /// tcp, udp or sctp.
        protocol: Protocol,
        /// Name and number of the process.
        holder: String,
    },
    /// The host port cannot be bound.
    #[error("failed to bind host port {address}/{protocol}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// tcp, udp or sctp.
        protocol: Protocol,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another engine has the links and rules of this name.
    #[error("the networks of {name:?} are in the hands of {holder}; give each daemon a bridge of its own (--bridge, --bip)")]
    Claimed {
        /// The default bridge.
        name: String,
        /// Name and number of the process.
        holder: String,
    },
    /// All ports of the range are taken.
    #[error("no free host port for {protocol} on {host} in {first}-{last}")]
    NoFreePort {
        /// tcp, udp or sctp.
        protocol: Protocol,
        /// The host address.
        host: IpAddr,
        /// First of the range.
        first: u16,
        /// Last of the range.
        last: u16,
    },
    /// All addresses of the network are taken.
    #[error("no available addresses in {subnet}")]
    PoolExhausted {
        /// The network.
        subnet: IpNet,
    },
    /// The address is taken.
    #[error("Address already in use: {address}")]
    AddressInUse {
        /// The address.
        address: IpAddr,
    },
    /// The address cannot be used in this network.
    #[error("address {address} cannot be used in {subnet}: {reason}")]
    BadAddress {
        /// The address.
        address: IpAddr,
        /// The network.
        subnet: IpNet,
        /// Why not.
        reason: &'static str,
    },
    /// All default networks are taken.
    #[error("all predefined address pools have been fully subnetted")]
    NoFreeSubnet,
    /// A text does not parse.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The system bus cannot be reached, or not in time.
    #[error("cannot {action} the system bus")]
    Bus {
        /// What was attempted.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// What came from the system bus is not an answer.
    #[error("the answer to {method} on the system bus cannot be read")]
    BusAnswer {
        /// What was asked for.
        method: &'static str,
    },
    /// A service is not on the system bus.
    #[error("{service} is not on the system bus")]
    NoService {
        /// Who was asked.
        service: &'static str,
    },
    /// A service of the system bus does not do what was asked for.
    #[error("{service} refuses {method}: {reason}")]
    Refused {
        /// What was asked for.
        method: &'static str,
        /// Who was asked.
        service: &'static str,
        /// What it says.
        reason: String,
    },
    /// A file of the host cannot be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: String,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::PortAllocated { .. } | Error::PortHeld { .. } | Error::Bind { .. } | Error::NoFreePort { .. } => ErrorKind::Internal,
            Error::PoolExhausted { .. } | Error::NoFreeSubnet => ErrorKind::Unavailable,
            Error::AddressInUse { .. } => ErrorKind::Forbidden,
            Error::Claimed { .. } => ErrorKind::Conflict,
            Error::BadAddress { .. } | Error::Parse(_) => ErrorKind::InvalidArgument,
            Error::Unsupported { .. } => ErrorKind::Unsupported,
            Error::NoParent { .. } | Error::BadParent { .. } => ErrorKind::InvalidArgument,
            Error::Kernel { .. } | Error::Answer { .. } | Error::File { .. } => ErrorKind::Internal,
            Error::Bus { .. } | Error::BusAnswer { .. } | Error::NoService { .. } | Error::Refused { .. } => ErrorKind::Internal,
        }
    }

    pub(crate) fn kernel(action: &'static str, object: impl Into<String>, errno: Errno) -> Self {
        Error::Kernel { action, object: object.into(), source: errno.into() }
    }

    /// The kernel's error number, when that is what it is about.
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            Error::Kernel { source, .. } => Errno::from_io_error(source),
            _ => None,
        }
    }
}

/// The network's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
