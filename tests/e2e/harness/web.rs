//! Pages that containers serve.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Whether a page comes from a port of the host.
pub fn answers(port: u16) -> bool {
    answers_at(&format!("127.0.0.1:{port}"))
}

/// Whether a page comes from there.
pub fn answers_at(at: &str) -> bool {
    let address: SocketAddr = at.parse().expect("an address");
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(2)) else { return false };
    let mut text = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
        && write!(stream, "GET / HTTP/1.0\r\n\r\n").is_ok()
        && stream.read_to_string(&mut text).is_ok()
        && text.contains("200 OK")
}
