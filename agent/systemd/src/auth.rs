//! Being let in (the D-Bus specification, "Authentication Protocol").

use std::io::{self, Read};

/// The line that answers an AUTH.
const LINE: usize = 512;

/// Reads the answer to an AUTH and no byte more: behind it messages begin.
///
/// # Errors
/// `PermissionDenied` with the other side's word; `InvalidData` for a line without an end.
pub fn let_in(stream: &mut impl Read) -> io::Result<()> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
        if line.len() > LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    match line.starts_with(b"OK ") {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&line).trim().to_owned();
            Err(io::Error::new(io::ErrorKind::PermissionDenied, said))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_the_answer_is_left() {
        let mut stream = &b"OK 1234\r\nl\x02"[..];
        let_in(&mut stream).unwrap();
        assert_eq!(stream, b"l\x02");
        let refused = let_in(&mut &b"REJECTED EXTERNAL\r\n"[..]).unwrap_err();
        assert_eq!(
            (refused.kind(), refused.to_string().as_str()),
            (io::ErrorKind::PermissionDenied, "REJECTED EXTERNAL")
        );
        assert_eq!(let_in(&mut &[b'x'; 9999][..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(let_in(&mut &b"OK"[..]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
