//! Giving memory back: a monitor lives as long as its container and should cost a few pages.

/// Returns the allocator's free pages to the kernel.
pub fn trim() {
    // SAFETY: malloc_trim only touches the allocator's own free memory.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Returns the unused part of the stack, i.e. what deep calls (parsing) have touched below the caller's frame.
pub fn release_stack() {
    const PAGE: usize = 4096;
    /// The frames of this function and of the C library below it live here.
    const MARGIN: usize = 4 * PAGE;
    /// Deeper than any call chain of a monitor; the kernel's default limit is 8 MiB.
    const DEPTH: usize = 1 << 20;
    let here = 0u8;
    let top = ((&raw const here as usize) - MARGIN) & !(PAGE - 1);
    // SAFETY: the range lies below the live frames of the only thread, so it holds no data of anyone; pages that are
    // not mapped make the call fail with ENOMEM after it has dropped the mapped ones, which is as good.
    unsafe {
        libc::madvise((top - DEPTH) as *mut libc::c_void, DEPTH, libc::MADV_DONTNEED);
    }
}

/// Unmaps the pages of this program's code from this process; those that are needed come back from the page cache by
/// themselves. After a start most of what was touched is never used again.
pub fn release_code() -> std::io::Result<()> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let program = program.to_string_lossy();
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        if !line.ends_with(&*program) || rights != "r-xp" {
            continue;
        }
        let bounds = range.split_once('-').map(|(start, end)| (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)));
        if let Some((Ok(start), Ok(end))) = bounds {
            // SAFETY: code is never written (relocations of a static program lie in its data), so that every page is the
            // file's; the ones that are dropped, this function's included, are read again when they are touched.
            unsafe {
                libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED);
            }
        }
    }
    Ok(())
}
