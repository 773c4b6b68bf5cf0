//! Loading a classic BPF filter with seccomp(2).

use crate::check;
use rustix::io::Errno;

/// One instruction of classic BPF, as the kernel takes it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump distance when true.
    pub jt: u8,
    /// Jump distance when false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

impl Instruction {
    /// Eight bytes in the machine's order, for the way between processes.
    pub fn to_bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..2].copy_from_slice(&self.code.to_ne_bytes());
        bytes[2] = self.jt;
        bytes[3] = self.jf;
        bytes[4..].copy_from_slice(&self.k.to_ne_bytes());
        bytes
    }

    /// The inverse of [`Instruction::to_bytes`].
    pub fn from_bytes(bytes: [u8; 8]) -> Instruction {
        let [c0, c1, jt, jf, k @ ..] = bytes;
        Instruction { code: u16::from_ne_bytes([c0, c1]), jt, jf, k: u32::from_ne_bytes(k) }
    }
}

/// `SECCOMP_FILTER_FLAG_LOG`.
pub const FLAG_LOG: u64 = 2;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`.
pub const FLAG_SPEC_ALLOW: u64 = 4;

/// Puts the filter on this thread. Needs no-new-privileges or `CAP_SYS_ADMIN`.
pub fn load(program: &[Instruction], flags: u64) -> Result<(), Errno> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    const KNOWN: u64 = FLAG_LOG | FLAG_SPEC_ALLOW;
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    if flags & !KNOWN != 0 {
        return Err(Errno::INVAL);
    }
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: Instruction has the layout of sock_filter; the kernel copies `len` of them and checks the program.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const filter) }).map(drop)
}
