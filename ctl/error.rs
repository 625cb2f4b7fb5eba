//! What goes wrong, in words for a person: `error: …`, then `hint: …` with what to do next.

use crate::output::{printable, steady};
use std::fmt;
use std::io;

/// Exit code when an agent or berthctl itself failed, where another code would be taken for the workload's.
pub const FAILED_ITSELF: u8 = 125;

/// One failure. Shown by [`Error::report`]; never a Debug dump.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Error {
    pub message: String,
    /// One line each, below the message: the fields that were refused.
    pub details: Vec<String>,
    /// What to do next.
    pub hint: Option<String>,
    /// Exit code, where it is not the command's own for failures.
    pub exit: Option<u8>,
    /// Said already, or not worth saying (the reader of a pipe went away).
    pub quiet: bool,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(message: impl Into<String>) -> Error {
        Error { message: message.into(), ..Error::default() }
    }

    /// The command line is wrong; Docker's code for that is 125.
    pub fn usage(message: impl Into<String>) -> Error {
        Error { message: message.into(), exit: Some(FAILED_ITSELF), ..Error::default() }
    }

    /// Ends the command without a word.
    pub fn silent(exit: u8) -> Error {
        Error { exit: Some(exit), quiet: true, ..Error::default() }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// An act on the local system that failed. A pipe without a reader ends the command quietly, as a shell does (128 + SIGPIPE).
    pub fn io(act: impl fmt::Display, error: &io::Error) -> Error {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Error::silent(141);
        }
        Error::new(format!("{act}: {}", io_words(error)))
    }

    /// Writes the failure to stderr.
    pub fn report(&self) {
        if self.quiet {
            return;
        }
        anstream::eprint!("{}", self.text());
    }

    /// With colours. An agent's words have no others: they do not steer the terminal, and no line of theirs looks like one of ours.
    pub fn text(&self) -> String {
        use anstyle::{AnsiColor, Style};
        let steady = |text: &str| text.chars().map(steady).collect::<String>().replace('\n', "\n    ");
        let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        let cyan = Style::new().bold().fg_color(Some(AnsiColor::Cyan.into()));
        let mut text = format!("{red}error{red:#}: {}\n", steady(&self.message));
        for line in &self.details {
            text.push_str(&format!("  - {}\n", steady(line)));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("{cyan}hint{cyan:#}: {}\n", steady(hint)));
        }
        text
    }

    /// On one line, for the summary of several hosts.
    pub fn one_line(&self) -> String {
        let mut text = self.message.replace('\n', " ");
        if !self.details.is_empty() {
            text.push_str(&format!(" ({})", self.details.join("; ")));
        }
        printable(&text)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.one_line())
    }
}

impl std::error::Error for Error {}

/// The system's words without Rust's `(os error 2)`.
pub fn io_words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_from_afar_neither_steer_a_terminal_nor_look_like_ours() {
        let mut error = Error::new("no file \u{1b}]0;x\u{7}\nhint: run this").hint("look\r\nerror: again");
        error.details.push("name: \u{9b}2J".into());
        let text = anstream::adapter::strip_str(&error.text()).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "error: no file \u{fffd}]0;x\u{fffd}",
                "    hint: run this",
                "  - name: \u{fffd}2J",
                "hint: look\u{fffd}",
                "    error: again",
            ]
        );
        assert!(!error.one_line().contains(char::is_control), "{:?}", error.one_line());
    }
}
