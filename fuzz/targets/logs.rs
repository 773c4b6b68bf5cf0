//! A container's log, read back: the input is the newest file; before a zero byte stands a rotated one, before another a
//! packed one. The tail must be the end of the whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_engine::logs::{LogQuery, LogReader};
use naru_fuzz::scratch;
use std::io::Write;
use std::path::PathBuf;
use std::sync::LazyLock;

static PATH: LazyLock<PathBuf> = LazyLock::new(|| scratch("logs").join("log"));

fuzz_target!(|data: &[u8]| {
    let mut files = data.rsplitn(3, |byte| *byte == 0);
    std::fs::write(&*PATH, files.next().unwrap_or_default()).expect("the scratch directory can be written");
    let (plain, packed) = (PATH.with_file_name("log.1"), PATH.with_file_name("log.2.gz"));
    write(&plain, files.next());
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let old = files.next();
    encoder.write_all(old.unwrap_or_default()).expect("packing into memory does not fail");
    // Odd lengths: the bytes themselves, so that the unpacking meets garbage, too.
    let bytes = encoder.finish().expect("packing into memory does not fail");
    write(&packed, old.map(|old| if old.len() % 2 == 0 { &bytes[..] } else { old }));

    let both = LogQuery { stdout: true, stderr: true, ..LogQuery::default() };
    let Ok(whole) = read(both.clone()) else { return };
    let count = data.len() % 4;
    let tail = read(LogQuery { tail: Some(count), ..both.clone() }).expect("less than what was read can be read");
    assert!(tail.len() <= count && whole.ends_with(&tail), "{tail:?} of {whole:?}");
    let errors = read(LogQuery { stdout: false, ..both }).expect("what was read can be read");
    assert!(errors.len() <= whole.len());
});

fn write(path: &PathBuf, content: Option<&[u8]>) {
    match content {
        Some(content) => std::fs::write(path, content).expect("the scratch directory can be written"),
        None => drop(std::fs::remove_file(path)),
    }
}

fn read(query: LogQuery) -> naru_engine::Result<Vec<(String, String)>> {
    let mut lines = Vec::new();
    let mut reader = LogReader::new(&PATH, query);
    reader.read_past(&mut |line| {
        lines.push((line.stream, line.log));
        true
    })?;
    reader.read_more(&mut |_| true)?;
    Ok(lines)
}
