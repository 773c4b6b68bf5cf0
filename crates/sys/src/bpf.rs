//! eBPF: programs that the kernel runs, and the tables they read.
//!
//! One kind, attached to a cgroup of version 2, decides each open and mknod of devices; the other looks at packets.

use crate::check;
use rustix::io::Errno;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One eBPF instruction.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low, source register in the high half.
    pub registers: u8,
    /// Jump distance or memory offset.
    pub offset: i16,
    /// Immediate operand.
    pub immediate: i32,
}

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_MAP_TYPE_HASH: u32 = 1;
/// Memory for the elements there are, not for those there may be.
const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// bpf(2) with the first part of its `bpf_attr`; the kernel takes the rest for zeros.
///
/// # Safety
/// What the attribute points to must live across the call and be as large as the command says.
unsafe fn bpf<T>(command: libc::c_int, attribute: &mut T) -> Result<libc::c_long, Errno> {
    // SAFETY: the structure is a prefix of bpf_attr of the given size; the rest is the caller's promise.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<T>()) })
}

/// The descriptor that a command made.
fn made(descriptor: libc::c_long) -> OwnedFd {
    // SAFETY: the descriptor is new and owned by nobody else.
    unsafe { OwnedFd::from_raw_fd(descriptor as i32) }
}

/// Loads a program that decides about opens and mknods; the kernel verifies it.
pub fn load_device_program(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    load(BPF_PROG_TYPE_CGROUP_DEVICE, program, c"Apache-2.0")
}

/// Loads a program that looks at packets which arrive; the kernel verifies it.
pub fn load_packet_program(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    // The kernel gives its own functions to programs that may be used under its licence.
    load(BPF_PROG_TYPE_SCHED_CLS, program, c"Dual BSD/GPL")
}

fn load(program_type: u32, program: &[Instruction], license: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    #[repr(C)]
    struct Load {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
    }
    let mut request = Load {
        program_type,
        instruction_count: u32::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: program and license live across the call.
    unsafe { bpf(BPF_PROG_LOAD, &mut request) }.map(made)
}

/// Attaches a device program to a cgroup, beside those of its ancestors.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        attach_type: u32,
        flags: u32,
        replace: u32,
    }
    let mut request = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
        replace: 0,
    };
    // SAFETY: nothing is pointed to.
    unsafe { bpf(BPF_PROG_ATTACH, &mut request) }.map(drop)
}

/// A hash table that programs read, from keys of `K` bytes to numbers.
#[derive(Debug)]
pub struct Table<const K: usize>(OwnedFd);

#[repr(C)]
struct Element {
    table: u32,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl<const K: usize> Table<K> {
    /// An empty one for at most `entries` keys.
    pub fn new(entries: u32) -> Result<Self, Errno> {
        #[repr(C)]
        struct Create {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            entries: u32,
            flags: u32,
        }
        let key_size = u32::try_from(K).map_err(|_| Errno::INVAL)?;
        let mut request =
            Create { map_type: BPF_MAP_TYPE_HASH, key_size, value_size: size_of::<u32>() as u32, entries, flags: BPF_F_NO_PREALLOC };
        // SAFETY: nothing is pointed to.
        unsafe { bpf(BPF_MAP_CREATE, &mut request) }.map(|descriptor| Table(made(descriptor)))
    }

    /// Sets the number of a key.
    pub fn set(&self, key: &[u8; K], value: u32) -> Result<(), Errno> {
        let mut request = self.element(key, std::ptr::from_ref(&value) as u64);
        // SAFETY: key and value live across the call and have the sizes the table was made with.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut request) }.map(drop)
    }

    /// Removes a key; absent is fine.
    pub fn remove(&self, key: &[u8; K]) -> Result<(), Errno> {
        let mut request = self.element(key, 0);
        // SAFETY: the key lives across the call and has the size the table was made with.
        match unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut request) } {
            Err(Errno::NOENT) => Ok(()),
            done => done.map(drop),
        }
    }

    fn element(&self, key: &[u8; K], value: u64) -> Element {
        Element { table: self.0.as_raw_fd() as u32, _padding: 0, key: key.as_ptr() as u64, value, flags: 0 }
    }
}

impl<const K: usize> AsFd for Table<K> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
