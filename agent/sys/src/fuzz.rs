//! Doors for the fuzz targets: lines of /proc whose words strangers choose.

use crate::mount::peers_of;
use crate::process::parse_start_time;
use std::os::unix::ffi::OsStrExt;

/// What a process calls itself, and where a mount is, say nothing else.
pub fn kernel(bytes: &[u8]) {
    let _ = parse_start_time(bytes);
    let name: Vec<u8> = bytes.iter().copied().filter(|b| *b != 0).take(15).collect();
    let numbers: Vec<String> = (4..=22).map(|field| format!(" {field}")).collect();
    let stat = [b"1 (", &name[..], b") S", numbers.concat().as_bytes(), b" 23 24\n"].concat();
    assert_eq!(parse_start_time(&stat), Some(22), "{}", String::from_utf8_lossy(&stat));

    for line in bytes.split(|b| *b == b'\n') {
        if let Some(found) = peers_of(line, "36") {
            assert!(found.point.as_os_str().len() <= line.len());
        }
    }
    // Escaped as the kernel does (seq_path: " \t\n\\").
    let escape = |b: &u8| match b {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{b:03o}").into_bytes(),
        b => vec![*b],
    };
    let point: Vec<u8> = bytes.iter().flat_map(escape).collect();
    let line = [b"36 35 0:5 / ", &point[..], b" rw shared:1 - tmpfs x rw"].concat();
    let found = peers_of(&line, "36").expect("the mount");
    assert_eq!(found.point.as_os_str().as_bytes(), bytes);
    assert!(found.peers.shared && !found.peers.slave);
}
