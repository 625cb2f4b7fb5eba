//! What the files of a group hold, over a moment in which systemd writes all of them.

use crate::limits::FILES;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Files with what they held.
pub struct Files(Vec<(PathBuf, String)>);

impl Files {
    /// Of the folder of a group, before systemd is told a property of its unit.
    pub fn read(group: &Path) -> Files {
        let of = |file: &&str| {
            let path = group.join(file);
            fs::read_to_string(&path).ok().map(|text| (path, text))
        };
        Files(FILES.iter().filter_map(of).collect())
    }

    /// `None`: there is no such file.
    pub fn get(&self, file: &str) -> Option<&str> {
        self.0.iter().find(|(path, _)| path.ends_with(file)).map(|(_, text)| &**text)
    }

    /// Writes those again that hold something else by now, but for those that were to be changed.
    ///
    /// # Errors
    /// With the file that did not take it.
    pub fn put_back(&self, changed: impl Fn(&str) -> bool) -> Result<(), (PathBuf, io::Error)> {
        let name = |path: &Path| path.file_name().is_some_and(|name| changed(&name.to_string_lossy()));
        for (path, before) in self.0.iter().filter(|(path, _)| !name(path)) {
            let now = fs::read_to_string(path).unwrap_or_default();
            // An idle group has no weight, and says 0.
            let idle = path.ends_with("cpu.weight") && (now.trim() == "0" || before.trim() == "0");
            if now != *before && !idle {
                write_lines(path, &lines(path, &now, before)).map_err(|e| (path.clone(), e))?;
            }
        }
        Ok(())
    }
}

/// What brings a file back to what it held. Those of disks do not forget one that is left out.
fn lines(path: &Path, now: &str, before: &str) -> Vec<String> {
    let key = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let none = match path.file_name().and_then(|name| name.to_str()) {
        Some("io.max") => "rbps=max wbps=max riops=max wiops=max",
        Some("io.weight" | "io.bfq.weight") => "default",
        // An empty list is a line, too.
        _ if before.trim().is_empty() => return vec![String::new()],
        _ => return before.lines().map(str::to_owned).collect(),
    };
    let gone = now.lines().map(key).filter(|k| before.lines().all(|line| key(line) != *k));
    gone.map(|k| format!("{k} {none}")).chain(before.lines().map(str::to_owned)).collect()
}

/// A write(2) for each: cgroupfs takes one line at a time.
fn write_lines(path: &Path, lines: &[String]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).truncate(true).open(path)?;
    lines.iter().try_for_each(|line| file.write_all(format!("{line}\n").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_wrote_is_undone_and_what_was_asked_for_is_not() {
        let dir = std::env::temp_dir().join(format!("berth-rewritten-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let write = |file: &str, text: &str| fs::write(dir.join(file), text).unwrap();
        let all = || -> Vec<String> {
            let files = ["cpu.max", "memory.max", "io.bfq.weight", "cpu.idle", "cpu.weight"];
            files.iter().map(|f| fs::read_to_string(dir.join(f)).unwrap()).collect()
        };
        write("cpu.max", "12345 100000\n");
        write("memory.max", "1\n");
        write("io.bfq.weight", "default 50\n8:0 70\n");
        write("cpu.idle", "1\n");
        write("cpu.weight", "0\n");
        write("hugetlb.2MB.max", "1\n");
        let files = Files::read(&dir);
        write("cpu.max", "13000 100000\n");
        write("memory.max", "2\n");
        write("io.bfq.weight", "default 100\n8:0 100\n");
        write("cpu.idle", "0\n");
        write("cpu.weight", "100\n");
        files.put_back(|file| file == "memory.max").unwrap();
        assert_eq!(all(), ["12345 100000\n", "2\n", "default 50\n8:0 70\n", "1\n", "100\n"]);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn disks_and_lists_that_were_not_there_go() {
        let back = |file: &str, now: &str, before: &str| lines(Path::new(file), now, before).join(";");
        let rates = "rbps=max wbps=max riops=max wiops=max";
        assert_eq!(back("/g/io.max", "8:0 rbps=1\n", ""), format!("8:0 {rates}"));
        assert_eq!(back("/g/io.weight", "default 1\n8:0 2\n", "default 100\n"), "8:0 default;default 100");
        assert_eq!(back("/g/cpuset.cpus", "0-1\n", "\n"), "");
        assert_eq!(back("/g/pids.max", "1\n", "max\n"), "max");
    }
}
