//! System call filters: Docker's default profile, Docker's JSON profiles, and their compilation to classic BPF.
//!
//! Docker and podman compare 64 bits of arguments of which the kernel reads 32, so `socket(2^32 + AF_VSOCK)` passes
//! them. Here arguments that are `int` for the kernel are compared as 32 bits (see `compile::is_int`).

mod compile;
mod default;
mod profile;
mod table;

pub use compile::Program;
pub use default::{ProfileOptions, default_profile, default_profile_with};
pub use profile::from_json;

use crate::error::Result;
use crate::spec::Seccomp;
use std::sync::{Arc, Mutex, PoisonError};

/// Compiled programs by filter: most containers share one.
#[derive(Debug, Default)]
pub struct Cache {
    recent: Mutex<Vec<(Seccomp, Arc<Program>)>>,
}

impl Cache {
    /// More filters than that at once are compiled anew (about 0.2 ms each).
    const ENTRIES: usize = 16;

    /// The program of a filter.
    pub fn compile(&self, filter: &Seccomp) -> Result<Arc<Program>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = recent.iter().position(|(known, _)| known == filter) {
            let entry = recent.remove(at);
            let program = entry.1.clone();
            recent.push(entry);
            return Ok(program);
        }
        let program = Arc::new(compile(filter)?);
        if recent.len() == Self::ENTRIES {
            recent.remove(0);
        }
        recent.push((filter.clone(), program.clone()));
        Ok(program)
    }
}

/// Compiles a filter for this machine's architecture and the 32-bit one it also runs.
pub fn compile(filter: &Seccomp) -> Result<Program> {
    compile::compile(filter)
}
