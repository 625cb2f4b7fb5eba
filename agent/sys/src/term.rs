//! The terminal of a person: termios(3) and the window's size.

use rustix::termios::{self, OptionalActions, Termios};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The settings of a terminal before it was made raw.
#[derive(Clone, Debug)]
pub struct Saved(Termios);

/// Whether this is a terminal (isatty(3)).
pub fn is_terminal(fd: impl AsFd) -> bool {
    termios::isatty(fd)
}

/// Rows and columns of a terminal (TIOCGWINSZ); ENOTTY when it is none.
pub fn window_size(fd: impl AsFd) -> io::Result<(u16, u16)> {
    let size = termios::tcgetwinsize(fd)?;
    Ok((size.ws_row, size.ws_col))
}

/// Makes a terminal raw (cfmakeraw(3): every key goes through as it is, nothing is echoed, no key makes a signal), and returns what
/// [`restore`] needs.
pub fn make_raw(fd: BorrowedFd<'_>) -> io::Result<Saved> {
    let saved = termios::tcgetattr(fd)?;
    let mut raw = saved.clone();
    raw.make_raw();
    termios::tcsetattr(fd, OptionalActions::Now, &raw)?;
    Ok(Saved(saved))
}

/// Puts the settings back, once what was written has been shown.
pub fn restore(fd: BorrowedFd<'_>, saved: &Saved) -> io::Result<()> {
    Ok(termios::tcsetattr(fd, OptionalActions::Drain, &saved.0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags, open};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::LocalModes;

    #[test]
    fn a_raw_terminal_comes_back_as_it_was() {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pty");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        let name = ptsname(&master, Vec::new()).expect("named");
        let slave = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("opened");
        assert!(is_terminal(&slave));
        assert_eq!(window_size(&slave).expect("a size"), (0, 0));
        let modes = || termios::tcgetattr(&slave).expect("attributes").local_modes;
        let before = modes();
        assert!(before.contains(LocalModes::ECHO | LocalModes::ISIG));
        let saved = make_raw(slave.as_fd()).expect("raw");
        assert!(!modes().intersects(LocalModes::ECHO | LocalModes::ISIG | LocalModes::ICANON));
        restore(slave.as_fd(), &saved).expect("restored");
        assert_eq!(modes(), before);
    }

    #[test]
    fn a_file_is_no_terminal() {
        let null = std::fs::File::open("/dev/null").expect("opened");
        assert!(!is_terminal(&null));
        assert_eq!(window_size(&null).expect_err("no terminal").raw_os_error(), Some(libc::ENOTTY));
        assert!(make_raw(null.as_fd()).is_err());
    }
}
