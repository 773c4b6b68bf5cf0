//! Capabilities and resource limits by name, as bits and numbers.

use crate::defaults::ALL_CAPABILITIES;
use crate::error::{Error, Result};
use crate::spec::{Capabilities, Rlimit};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// The five sets as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rights {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

impl Rights {
    pub(crate) fn new(capabilities: &Capabilities) -> Result<Rights> {
        Ok(Rights {
            bounding: bits(&capabilities.bounding)?,
            effective: bits(&capabilities.effective)?,
            inheritable: bits(&capabilities.inheritable)?,
            permitted: bits(&capabilities.permitted)?,
            ambient: bits(&capabilities.ambient)?,
        })
    }

    /// Drops from the bounding set what is not in it. Needs CAP_SETPCAP.
    pub(crate) fn bound(&self) -> Result<(), Errno> {
        for number in 0..64 {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if self.bounding & (1 << number) != 0 {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                // The first number the kernel does not know.
                Err(Errno::INVAL) => break,
                // Not held in the first place: nothing to drop, and nothing to drop it with.
                Err(Errno::PERM) if !rustix::thread::capability_is_in_bounding_set(one).unwrap_or(true) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Only what this process has can be given: an engine in a container itself has less than all.
    pub(crate) fn limited_to(&self, held: u64) -> Rights {
        let permitted = self.permitted & held;
        let inheritable = self.inheritable & held;
        Rights {
            bounding: self.bounding,
            permitted,
            effective: self.effective & permitted,
            inheritable,
            ambient: self.ambient & permitted & inheritable,
        }
    }

    /// Sets all but the bounding set.
    pub(crate) fn apply(&self) -> Result<(), Errno> {
        set(self.effective, self.permitted, self.inheritable)?;
        rustix::thread::clear_ambient_capability_set()?;
        for number in 0..64 {
            if self.ambient & (1 << number) != 0 {
                rustix::thread::configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(1 << number), true)?;
            }
        }
        Ok(())
    }
}

/// What this process may do.
pub(crate) fn held() -> Result<u64, Errno> {
    Ok(rustix::thread::capabilities(None)?.permitted.bits())
}

pub(crate) fn set(effective: u64, permitted: u64, inheritable: u64) -> Result<(), Errno> {
    let of = CapabilitySet::from_bits_retain;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: of(effective), permitted: of(permitted), inheritable: of(inheritable) },
    )
}

fn bits(names: &[String]) -> Result<u64> {
    names.iter().try_fold(0, |bits, name| {
        let upper = name.to_ascii_uppercase();
        let at = ALL_CAPABILITIES.iter().position(|known| *known == upper);
        at.map(|at| bits | 1 << at).ok_or_else(|| Error::Invalid(format!("unknown capability {name:?}")))
    })
}

/// Number, soft and hard.
pub(crate) fn rlimits(limits: &[Rlimit]) -> Result<Vec<(u32, u64, u64)>> {
    /// By the kernel's number.
    const NAMES: [&str; 16] = [
        "CPU",
        "FSIZE",
        "DATA",
        "STACK",
        "CORE",
        "RSS",
        "NPROC",
        "NOFILE",
        "MEMLOCK",
        "AS",
        "LOCKS",
        "SIGPENDING",
        "MSGQUEUE",
        "NICE",
        "RTPRIO",
        "RTTIME",
    ];
    limits
        .iter()
        .map(|limit| {
            let name = limit.kind.strip_prefix("RLIMIT_").unwrap_or(&limit.kind);
            let number = NAMES.iter().position(|known| *known == name);
            let number = number.ok_or_else(|| Error::Invalid(format!("unknown resource limit {:?}", limit.kind)))?;
            if limit.soft > limit.hard {
                return Err(Error::Invalid(format!("the soft limit of {} is above the hard one", limit.kind)));
            }
            Ok((number as u32, limit.soft, limit.hard))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults;

    #[test]
    fn dockers_default_is_the_known_number() {
        let rights = Rights::new(&defaults::capabilities(defaults::CAPABILITIES)).unwrap();
        assert_eq!(rights.effective, 0xa804_25fb);
        assert_eq!((rights.inheritable, rights.ambient), (0, 0));
        assert!(Rights::new(&defaults::capabilities(&["CAP_NONSENSE"])).is_err());
    }

    #[test]
    fn limits() {
        let limit = |kind: &str, soft, hard| Rlimit { kind: kind.into(), soft, hard };
        assert_eq!(rlimits(&[limit("RLIMIT_NOFILE", 10, 20)]).unwrap(), [(7, 10, 20)]);
        assert!(rlimits(&[limit("RLIMIT_FOO", 10, 20)]).is_err());
        assert!(rlimits(&[limit("RLIMIT_CPU", 30, 20)]).is_err());
    }
}
