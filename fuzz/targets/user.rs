//! Users looked up in an image's files: `user`, `/etc/passwd`, `/etc/group` and further groups, parted by zero bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_fuzz::scratch;
use naru_runtime::user::resolve;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::LazyLock;

static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = scratch("user");
    std::fs::create_dir_all(root.join("etc")).expect("the scratch directory can be written");
    root
});

fuzz_target!(|data: &[u8]| {
    let mut parts = data.split(|byte| *byte == 0);
    let user = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    for name in ["etc/passwd", "etc/group"] {
        std::fs::write(ROOT.join(name), parts.next().unwrap_or_default()).expect("the scratch directory can be written");
    }
    let groups: Vec<String> = parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    let root = std::fs::File::open(&*ROOT).expect("the scratch directory is there");
    if let Ok(found) = resolve(root.as_fd(), &user, &groups) {
        // 2^32-1 means "as it is" for the kernel: the process would stay root.
        let ids = found.additional_gids.iter().chain([&found.uid, &found.gid]);
        assert!(ids.copied().all(|id| id <= i32::MAX as u32), "{found:?}");
        assert_eq!(found.additional_gids.first(), Some(&found.gid));
    }
});
