//! Commands on a terminal, driven by a small helper process (Python's pty module).

use super::{LONG, source_dir};
use std::process::{Command, Stdio};

#[derive(Debug)]
pub enum Step<'a> {
    /// Wait until the output holds this.
    Expect(&'a str),
    Send(&'a str),
    Resize(u16, u16),
    Signal(i32),
}

#[derive(Debug)]
pub struct Session {
    pub output: String,
    pub code: i32,
    /// The terminal's settings were the same before and after.
    pub restored: bool,
}

/// Runs `command` on a terminal of 24 rows and 80 columns, takes the steps, and waits for its end.
#[track_caller]
pub fn run(command: &Command, steps: &[Step<'_>]) -> Session {
    let steps: Vec<_> = steps
        .iter()
        .map(|step| match step {
            Step::Expect(text) => serde_json::json!(["expect", text]),
            Step::Send(text) => serde_json::json!(["send", text]),
            Step::Resize(rows, columns) => serde_json::json!(["resize", rows, columns]),
            Step::Signal(signal) => serde_json::json!(["signal", signal]),
        })
        .collect();
    let mut helper = Command::new("python3");
    helper.arg(source_dir().join("tests/e2e/terminal.py")).arg(LONG.as_secs().to_string());
    helper.arg(serde_json::Value::Array(steps).to_string()).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => helper.env(name, value),
            None => helper.env_remove(name),
        };
    }
    let output = helper.stdin(Stdio::null()).output().expect("python3");
    assert!(output.status.success(), "terminal.py: {}", String::from_utf8_lossy(&output.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("terminal.py's answer");
    if let Some(failure) = answer["failure"].as_str() {
        panic!("{failure}\n--- the terminal:\n{}", answer["output"].as_str().unwrap_or_default());
    }
    Session {
        output: answer["output"].as_str().expect("output").to_owned(),
        code: answer["code"].as_i64().expect("code") as i32,
        restored: answer["restored"].as_bool().expect("restored"),
    }
}
