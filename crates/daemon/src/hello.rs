//! The image that ships inside: `naru/hello`, so that a first run needs no registry.
//!
//! Its one file is a static program of a few dozen instructions that writes a greeting; it is put together here, byte by
//! byte, so that the repository holds no binary and the image is the same on every host.

use naru_engine::{Engine, EngineError, Result};
use naru_store::tar::Writer;
use naru_store::{ConfigPatch, ImportOptions};
use naru_types::ImageRef;

/// Name of the image.
const NAME: &str = "naru/hello";

const GREETING: &str = "
Hello from Naru!

This line was written by a process in a container of its own:
  1. the client asked the engine for a container of the image naru/hello,
  2. the engine stacked the image's layers and a writable one on top,
  3. the kernel gave the process its own view of processes, files, network and users,
  4. the process wrote this and ended.

Try next:
  naru import rootfs.tar mine:1      an image of any root file system
  naru run -it --rm mine:1 sh        a shell in it
  naru ps -a, naru logs, naru stats  what is going on
";

/// Loads the image unless it is there. A user who removed it gets it back with the next start.
pub async fn ensure(engine: &Engine) -> Result<()> {
    if engine.image(NAME).is_ok() {
        return Ok(());
    }
    let mut writer = Writer::new(Vec::new());
    writer.bytes("hello", 0o755, &program(GREETING))?;
    let archive = writer.finish()?;
    let options = ImportOptions {
        reference: Some(ImageRef::parse(NAME)?),
        changes: ConfigPatch::parse(&["CMD [\"/hello\"]"]).map_err(EngineError::from)?,
        message: "ships with naru".into(),
        platform: None,
    };
    engine.import_image(std::io::Cursor::new(archive), options).await.map(drop)
}

/// Where the program is loaded: the usual address of static executables on x86-64.
const BASE: u64 = 0x40_0000;
/// ELF header and one program header (elf(5)).
const HEADERS: usize = 64 + 56;

/// A static ELF executable that writes `text` to standard output and exits with 0.
fn program(text: &str) -> Vec<u8> {
    let code = machine_code(u32::try_from(text.len()).expect("a short text"));
    let size = (HEADERS + code.len() + text.len()) as u64;
    let mut elf = Vec::new();
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\x00\0\0\0\0\0\0\0\0");
    // ET_EXEC, the machine, version 1
    elf.extend_from_slice(&2_u16.to_le_bytes());
    elf.extend_from_slice(&MACHINE.to_le_bytes());
    elf.extend_from_slice(&1_u32.to_le_bytes());
    // entry, offset of the program header, no section headers, no flags
    elf.extend_from_slice(&(BASE + HEADERS as u64).to_le_bytes());
    elf.extend_from_slice(&64_u64.to_le_bytes());
    elf.extend_from_slice(&0_u64.to_le_bytes());
    elf.extend_from_slice(&0_u32.to_le_bytes());
    // sizes: this header, a program header, their number; section headers: size, number, names
    for value in [64_u16, 56, 1, 64, 0, 0] {
        elf.extend_from_slice(&value.to_le_bytes());
    }
    // PT_LOAD, readable and executable, the whole file
    elf.extend_from_slice(&1_u32.to_le_bytes());
    elf.extend_from_slice(&5_u32.to_le_bytes());
    for value in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend_from_slice(&value.to_le_bytes());
    }
    elf.extend_from_slice(&code);
    elf.extend_from_slice(text.as_bytes());
    elf
}

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// write(1, text behind the code, length); exit_group(0)
#[cfg(target_arch = "x86_64")]
fn machine_code(length: u32) -> Vec<u8> {
    let mut code = vec![
        0xb8, 1, 0, 0, 0, // mov eax, 1 (write)
        0xbf, 1, 0, 0, 0, // mov edi, 1
        0x48, 0x8d, 0x35, 16, 0, 0, 0,    // lea rsi, [rip + 16]
        0xba, // mov edx, length
    ];
    code.extend_from_slice(&length.to_le_bytes());
    code.extend_from_slice(&[
        0x0f, 0x05, // syscall
        0x31, 0xff, // xor edi, edi
        0xb8, 231, 0, 0, 0, // mov eax, 231 (exit_group)
        0x0f, 0x05, // syscall
    ]);
    code
}

/// write(1, text behind the code, length); exit_group(0)
#[cfg(target_arch = "aarch64")]
fn machine_code(length: u32) -> Vec<u8> {
    assert!(length < 1 << 16, "the length fits one movz");
    let words: [u32; 8] = [
        0xd280_0020,                 // movz x0, #1
        0x1000_00e1,                 // adr x1, #28
        0xd280_0002 | (length << 5), // movz x2, #length
        0xd280_0808,                 // movz x8, #64 (write)
        0xd400_0001,                 // svc #0
        0xd280_0000,                 // movz x0, #0
        0xd280_0bc8,                 // movz x8, #94 (exit_group)
        0xd400_0001,                 // svc #0
    ];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_program_runs_and_greets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hello");
        std::fs::write(&path, super::program("hi\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let output = std::process::Command::new(&path).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"hi\n"[..]));
    }
}
