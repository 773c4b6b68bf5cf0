//! What the targets share.

use std::path::PathBuf;

/// A new directory for a target that needs files, in `TMPDIR`; `run` deletes it, the fuzzer's end runs no destructors.
pub fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("naru-fuzz-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).expect("TMPDIR can be written");
    path
}

/// The input as text parts; a zero byte stands between two.
pub fn parts(data: &[u8]) -> Vec<String> {
    data.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}
