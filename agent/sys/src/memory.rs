//! What the process gives back of its memory when it has nothing to do.

use std::io;

/// Gives free heap back to the kernel (malloc_trim(3)); true: there was some. Other C libraries than glibc do so by themselves.
pub fn give_back() -> bool {
    // SAFETY: malloc_trim(3) takes no pointer, is thread-safe and returns only pages that hold no allocation.
    #[cfg(target_env = "gnu")]
    return unsafe { libc::malloc_trim(0) } == 1;
    #[cfg(not(target_env = "gnu"))]
    return false;
}

/// Lets go of the pages that hold this program's own code (madvise(2), MADV_DONTNEED), and says how many bytes they span: most of them served
/// the start alone. They are the file's, so the kernel has them at hand when one is needed again.
pub fn forget_code() -> io::Result<usize> {
    let mut range = 0..0usize;
    // SAFETY: dl_iterate_phdr(3) calls back before it returns, with a description that lives that long, as `code` expects.
    unsafe { libc::dl_iterate_phdr(Some(code), (&raw mut range).cast()) };
    let page = page_bytes() as usize;
    let (begin, end) = (range.start.next_multiple_of(page), range.end / page * page);
    if begin >= end {
        return Ok(0);
    }
    // SAFETY: the segment is mapped privately from a file, never written to (it is not writable, and a program with relocations in its
    // code is not built here): what is dropped is read again as it was.
    match unsafe { libc::madvise(begin as *mut libc::c_void, end - begin, libc::MADV_DONTNEED) } {
        0 => Ok(end - begin),
        _ => Err(io::Error::last_os_error()),
    }
}

/// For dl_iterate_phdr(3): where the first object, which is the program, has its code. The result ends the walk.
unsafe extern "C" fn code(info: *mut libc::dl_phdr_info, _: usize, range: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the walk hands a valid description to each call, and `forget_code` the range.
    let (info, range) = unsafe { (&*info, &mut *range.cast::<std::ops::Range<usize>>()) };
    // SAFETY: the kernel's own table of the program's segments, which stays.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    let segment = headers.iter().find(|h| {
        let flags = h.p_flags & (libc::PF_X | libc::PF_W);
        h.p_type == libc::PT_LOAD && flags == libc::PF_X
    });
    if let Some(segment) = segment {
        let begin = info.dlpi_addr as usize + segment.p_vaddr as usize;
        *range = begin..begin + segment.p_memsz as usize;
    }
    1
}

/// Bytes of a page of memory (sysconf(3)).
pub fn page_bytes() -> u64 {
    // SAFETY: sysconf(3) takes no pointer and changes nothing.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Keeps all threads to one heap (mallopt(3), M_ARENA_MAX): what one has freed serves the others, so that an agent that has worked stays
/// two megabytes smaller. Before there is a second thread.
pub fn one_heap() {
    // SAFETY: mallopt(3) takes two numbers; a value that it does not like changes nothing.
    #[cfg(target_env = "gnu")]
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// PR_SET_MDWE and its bits (linux/prctl.h).
const SET_MDWE: libc::c_int = 65;
const REFUSE_EXEC_GAIN: libc::c_ulong = 1;
const NO_INHERIT: libc::c_ulong = 2;

/// From now on no memory of this process becomes executable that is or was writable (PR_SET_MDWE, Linux 6.6 for `NO_INHERIT`): not in its children,
/// whose programs may want that. `EINVAL` on older kernels.
pub fn refuse_new_code() -> io::Result<()> {
    // SAFETY: takes numbers only.
    match unsafe {
        libc::prctl(SET_MDWE, REFUSE_EXEC_GAIN | NO_INHERIT, 0 as libc::c_ulong, 0 as libc::c_ulong, 0 as libc::c_ulong)
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::io;

    /// Bytes of this program's code that are in memory.
    fn code_in_memory() -> u64 {
        let program = std::fs::read_link("/proc/self/exe").unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines().skip_while(|l| !(l.contains(" r-xp ") && l.ends_with(program.to_str().unwrap())));
        let rss = lines.find_map(|l| l.strip_prefix("Rss:")).unwrap();
        rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    #[test]
    fn code_is_forgotten_and_found_again() {
        let before = code_in_memory();
        let size = super::forget_code().unwrap();
        let after = code_in_memory();
        // A page at either end may be another segment's, too.
        assert!(size as u64 + 2 * super::page_bytes() >= before, "{size} {before}");
        // Some of it is what has just looked.
        assert!(after < before, "{after} {before}");
        // What was there at the start works as before.
        assert_eq!(format!("{:?}", vec![Some(1.5), None]), "[Some(1.5), None]");
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn freed_memory_is_given_back() {
        let small: Vec<Vec<u8>> = (0..4096).map(|_| vec![1; 4096]).collect();
        // The last one keeps the heap's end in use, so that only the trim can reach what is below it.
        let last = Box::new([1u8; 64]);
        drop(small);
        assert!(super::give_back());
        assert_eq!(last.len(), 64);
    }

    #[test]
    fn no_new_code_and_only_here() {
        let both = || {
            let prot = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
            // SAFETY: a new mapping, of which nothing is used.
            let at =
                unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
            if at == libc::MAP_FAILED { Err(io::Error::last_os_error().raw_os_error()) } else { Ok(()) }
        };
        assert!(both().is_ok());
        if super::refuse_new_code().is_err() {
            // A kernel before 6.6.
            return;
        }
        assert_eq!(both(), Err(Some(libc::EACCES)));
        let child =
            std::process::Command::new("python3").args(["-c", "import mmap; mmap.mmap(-1, 4096, prot=7)"]).status();
        assert!(child.unwrap().success(), "it is inherited");
    }
}
