//! The loopback interface of a fresh network namespace; which messages reach a socket; datagrams and the address of this host
//! they were sent to; what the other end of a local connection has not read yet.

use crate::seccomp::Instruction;
use crate::{check, last_errno};
use rustix::io::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Sets `lo` up in the network namespace of this thread.
pub fn loopback_up() -> Result<(), Errno> {
    // SAFETY: the descriptor returned is new and owned by nobody else.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd == -1 {
            return Err(last_errno());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: ifreq is plain data for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` is the structure that SIOCSIFFLAGS takes and lives across the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) } as libc::c_long).map(drop)
}

/// Whether the other end of a unix socket has not read yet all that was sent (SIOCOUTQ).
pub fn is_unread(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut count: libc::c_int = 0;
    // SAFETY: the ioctl writes one int, which lives across the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) } as libc::c_long)?;
    // The memory of what is unread; one byte is held while the kernel tells of the last reading, so that whoever it wakes
    // may still see that.
    Ok(count > 1)
}

/// Asks the kernel to tell with each datagram to which address of this host it was sent, see [`receive`].
pub fn tell_destinations(socket: BorrowedFd<'_>, is_ipv4: bool) -> Result<(), Errno> {
    let (level, option) = if is_ipv4 { (libc::IPPROTO_IP, libc::IP_PKTINFO) } else { (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) };
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the pointer and the length are those of `on`, which lives across the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), length) } as libc::c_long).map(drop)
}

/// Has the kernel put only those messages into the socket that the program lets pass.
pub fn attach_filter(socket: BorrowedFd<'_>, program: &[Instruction]) -> Result<(), Errno> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    let (fd, size) = (socket.as_raw_fd(), size_of_val(&filter) as libc::socklen_t);
    // SAFETY: Instruction has the layout of sock_filter; the kernel copies `len` of them and checks the program.
    let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const filter).cast(), size) };
    check(set as libc::c_long).map(drop)
}

/// Room for one message of either family, aligned as its header.
#[repr(C)]
struct Control {
    header: [libc::cmsghdr; 0],
    bytes: [u8; 64],
}

/// Receives a datagram without waiting: its length, who sent it, and to which address of this host, if
/// [`tell_destinations`] was called.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, SocketAddr, Option<IpAddr>), Errno> {
    // SAFETY: plain data for which zeros are valid.
    let (mut name, mut message): (libc::sockaddr_storage, libc::msghdr) = unsafe { std::mem::zeroed() };
    let mut control = Control { header: [], bytes: [0; 64] };
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = size_of_val(&name) as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes.as_mut_ptr().cast();
    message.msg_controllen = control.bytes.len();
    // SAFETY: all that the message points to lives across the call and is as long as it says.
    let length = check(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) } as libc::c_long)?;
    let sender = match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote an address of the family it names.
            let own = unsafe { *(&raw const name).cast::<libc::sockaddr_in>() };
            SocketAddr::from((Ipv4Addr::from(u32::from_be(own.sin_addr.s_addr)), u16::from_be(own.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: the kernel wrote an address of the family it names.
            let own = unsafe { *(&raw const name).cast::<libc::sockaddr_in6>() };
            SocketAddrV6::new(Ipv6Addr::from(own.sin6_addr.s6_addr), u16::from_be(own.sin6_port), own.sin6_flowinfo, own.sin6_scope_id)
                .into()
        }
        _ => return Err(Errno::AFNOSUPPORT),
    };
    let mut destination = None;
    // SAFETY: the kernel filled the control buffer with whole messages and said how long they are; the macros stay within.
    // Data need not be aligned, hence the unaligned reads, which are done for messages of the matching kind only.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    // Of a broadcast this is the address to answer from.
                    destination = Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    destination = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok((length as usize, sender, destination))
}

/// Sends a datagram without waiting, from that address of this host; from the one that the route has when there is none.
pub fn send_from(socket: BorrowedFd<'_>, bytes: &[u8], from: Option<IpAddr>, to: SocketAddr) -> Result<(), Errno> {
    // SAFETY: plain data for which zeros are valid.
    let (mut name, mut message): (libc::sockaddr_storage, libc::msghdr) = unsafe { std::mem::zeroed() };
    let mut control = Control { header: [], bytes: [0; 64] };
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    message.msg_name = (&raw mut name).cast();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_namelen = match to {
        SocketAddr::V4(to) => {
            let address = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: to.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is large enough and aligned for every family.
            unsafe { (&raw mut name).cast::<libc::sockaddr_in>().write(address) };
            size_of_val(&address)
        }
        SocketAddr::V6(to) => {
            let address = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: to.port().to_be(),
                sin6_flowinfo: to.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
                sin6_scope_id: to.scope_id(),
            };
            // SAFETY: the storage is large enough and aligned for every family.
            unsafe { (&raw mut name).cast::<libc::sockaddr_in6>().write(address) };
            size_of_val(&address)
        }
    } as libc::socklen_t;
    if let Some(from) = from {
        message.msg_control = control.bytes.as_mut_ptr().cast();
        message.msg_controllen = control.bytes.len();
        // SAFETY: the buffer has room for one message of either kind and is aligned for its header; the message's length is
        // set to what was written.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            let length = match from {
                IpAddr::V4(from) => {
                    let mut info: libc::in_pktinfo = std::mem::zeroed();
                    info.ipi_spec_dst = libc::in_addr { s_addr: u32::from(from).to_be() };
                    (*header).cmsg_level = libc::IPPROTO_IP;
                    (*header).cmsg_type = libc::IP_PKTINFO;
                    libc::CMSG_DATA(header).cast::<libc::in_pktinfo>().write_unaligned(info);
                    size_of_val(&info)
                }
                IpAddr::V6(from) => {
                    let mut info: libc::in6_pktinfo = std::mem::zeroed();
                    info.ipi6_addr.s6_addr = from.octets();
                    (*header).cmsg_level = libc::IPPROTO_IPV6;
                    (*header).cmsg_type = libc::IPV6_PKTINFO;
                    libc::CMSG_DATA(header).cast::<libc::in6_pktinfo>().write_unaligned(info);
                    size_of_val(&info)
                }
            } as libc::c_uint;
            (*header).cmsg_len = libc::CMSG_LEN(length) as usize;
            message.msg_controllen = libc::CMSG_SPACE(length) as usize;
        }
    }
    // SAFETY: all that the message points to lives across the call and is as long as it says; nothing is written through it.
    check(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) } as libc::c_long)
        .map(drop)
}
