//! What the process gives back of its memory when it has nothing to do.

/// Gives free heap back to the kernel (malloc_trim(3)); true: there was some. Other C libraries than glibc do so by themselves.
pub fn give_back() -> bool {
    // SAFETY: malloc_trim(3) takes no pointer, is thread-safe and returns only pages that hold no allocation.
    #[cfg(target_env = "gnu")]
    return unsafe { libc::malloc_trim(0) } == 1;
    #[cfg(not(target_env = "gnu"))]
    return false;
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

#[cfg(test)]
mod tests {
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
}
