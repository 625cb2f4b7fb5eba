//! What the process gives back of its memory when it has nothing to do.

use std::fs;
use std::io;

/// Gives free heap back, and unmaps the program's own code: pages that are run again come back from the page cache by minor faults, and
/// what only the start or a pull needed stays away. Returns the bytes of code that were let go of.
///
/// # Errors
/// /proc/self/maps cannot be read; madvise(2).
pub fn give_back() -> io::Result<usize> {
    // SAFETY: malloc_trim(3) takes no pointer, is thread-safe and returns only pages that hold no allocation.
    #[cfg(target_env = "gnu")]
    let _ = unsafe { libc::malloc_trim(0) };
    let program = fs::read_link("/proc/self/exe")?;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut bytes = 0;
    for (start, end) in maps.lines().filter_map(|line| code_of(line, program.to_str()?)) {
        // SAFETY: the range is a private mapping of the program's file that cannot be written to (r-xp): none of its pages differs from
        // the file, so that MADV_DONTNEED loses nothing, and a page that is wanted again is the same (madvise(2)). The program's
        // file cannot change below it while it runs (ETXTBSY).
        if unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) } != 0 {
            return Err(io::Error::last_os_error());
        }
        bytes += end - start;
    }
    Ok(bytes)
}

/// Start and end of a line of proc_pid_maps(5) that maps `program` readable and executable, and private.
fn code_of(line: &str, program: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    if fields.next()? != "r-xp" {
        return None;
    }
    // Offset, device, inode; what follows is the path, as it is.
    let _ = (fields.next()?, fields.next()?, fields.next()?);
    let path = line.find('/').map(|at| &line[at..])?;
    (path == program).then_some(())?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_programs_code_is_let_go_of() {
        let line = "55d0c000-55d0e000 r-xp 00002000 fe:00 123   /usr/bin/a b";
        assert_eq!(code_of(line, "/usr/bin/a b"), Some((0x55d0_c000, 0x55d0_e000)));
        assert_eq!(code_of(line, "/usr/bin/a"), None);
        // Relocated constants are private pages that differ from the file: they must stay.
        assert_eq!(code_of(&line.replace("r-xp", "r--p"), "/usr/bin/a b"), None);
        assert_eq!(code_of("7f00-7f01 r-xp 00000000 00:00 0   [vdso]", "/usr/bin/a"), None);
    }

    #[test]
    fn the_program_goes_on() {
        let sum = |n: u64| (0..n).filter(|i| i % 3 == 0).sum::<u64>();
        let before = sum(1000);
        assert!(give_back().expect("given back") > 0);
        assert_eq!(sum(1000), before);
    }
}
