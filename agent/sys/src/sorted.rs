//! The names of a folder in their order, read in pieces: larger folders come in sorted pieces.

use crate::fs::{DirEntry, read_dir};
use std::io;
use std::os::fd::BorrowedFd;

/// Names that are sorted at once.
const PIECE: usize = 16384;

/// What is still to come of a folder that is open for reading.
#[derive(Default)]
pub struct SortedNames {
    names: std::vec::IntoIter<DirEntry>,
    all_read: bool,
}

impl SortedNames {
    /// No names, whatever the folder has.
    pub fn none() -> Self {
        SortedNames { all_read: true, ..SortedNames::default() }
    }

    /// Nothing is read from the folder any more.
    pub fn all_read(&self) -> bool {
        self.all_read
    }

    pub fn next(&mut self, folder: BorrowedFd<'_>) -> io::Result<Option<DirEntry>> {
        loop {
            if let Some(next) = self.names.next() {
                return Ok(Some(next));
            }
            if self.all_read {
                return Ok(None);
            }
            let mut names = read_dir(folder, PIECE)?;
            self.all_read = names.is_empty();
            names.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            self.names = names.into_iter();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn names_come_sorted_and_once() {
        let dir = std::env::temp_dir().join(format!("berth-sorted-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for name in ["c", "a", "b"] {
            std::fs::write(dir.join(name), "").unwrap();
        }
        let folder = std::fs::File::open(&dir).unwrap();
        let mut names = SortedNames::default();
        let mut seen = Vec::new();
        while let Some(entry) = names.next(folder.as_fd()).unwrap() {
            seen.push(entry.name);
        }
        assert_eq!(seen, ["a", "b", "c"]);
        assert!(names.all_read() && names.next(folder.as_fd()).unwrap().is_none());
        assert!(SortedNames::none().next(folder.as_fd()).unwrap().is_none());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
