//! One plugin, run for one verb.
//!
//! Its configuration is a sealed file in memory, so that a plugin that does not read it holds up nobody; what it says is read with a bound and
//! against the clock. It leads a process group of its own, and everything that it has started carries the call's mark in its environment:
//! both are killed when its time is over, and by the next agent when this one dies in the middle.

use crate::{Act, Cni, CniError};
use berth_sys::process::{self, Poll};
use berth_sys::store::read_at_most;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Bytes of an answer: a result with a thousand addresses is a tenth of it.
const MAX_ANSWER: usize = 1 << 20;
/// Bytes of what it says beside its answer, of which the last line is told.
const MAX_TALK: usize = 64 << 10;
/// Characters of its own words in an error.
const MAX_WORDS: usize = 1024;
/// What is killed has ended within this, unless the kernel holds it: nobody waits for longer.
const KILLED: Duration = Duration::from_secs(5);
/// In the environment of a plugin and all that it starts: which call they belong to.
const MARK: &str = "BERTH_CNI_CALL";
/// Bytes of a process's environment in which the mark is looked for: a plugin's own is some hundred bytes, and what it starts adds little. Processes
/// of containers are among those that are looked at.
const MARKED: usize = 256 << 10;
/// Plugins start programs such as iptables, which an agent without a PATH would not have either.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SIGKILL: i32 = 9;

/// What a plugin is asked to do (CNI_COMMAND).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    Add,
    Check,
    Del,
    Gc,
    Status,
    Version,
}

impl Verb {
    pub const fn name(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Check => "CHECK",
            Verb::Del => "DEL",
            Verb::Gc => "GC",
            Verb::Status => "STATUS",
            Verb::Version => "VERSION",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Letters, digits, '-', '_' and '.', the first a letter or digit, at most 64: a program in one of the folders, and no path.
pub fn is_plugin_name(name: &str) -> bool {
    let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    name.len() <= 64 && name.bytes().all(rest) && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

/// What one call is about.
pub(crate) struct Call<'a> {
    pub verb: Verb,
    pub kind: &'a str,
    pub config: &'a [u8],
    /// CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_ARGS, as far as the verb has them.
    pub env: Vec<(&'static str, String)>,
    /// See [`kill_marked`].
    pub mark: &'a str,
}

impl Cni {
    /// Where a plugin is.
    pub(crate) fn find(&self, kind: &str) -> Result<PathBuf, CniError> {
        let dirs = &self.config().bin_dirs;
        let is_program =
            |p: &PathBuf| fs::metadata(p).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
        let found = dirs.iter().map(|dir| dir.join(kind)).find(is_program);
        found.ok_or_else(|| {
            let dirs: Vec<String> = dirs.iter().map(|d| d.display().to_string()).collect();
            CniError::NotFound { plugin: kind.to_owned(), dirs: dirs.join(", ") }
        })
    }

    /// Runs a plugin to its end; its answer.
    pub(crate) fn call(&self, call: &Call<'_>) -> Result<Vec<u8>, CniError> {
        let program = self.find(call.kind)?;
        let starting = || format!("starting CNI plugin {}", program.display());
        let config = berth_sys::memfd::sealed("cni-config", call.config, false).act(starting)?;
        let path: Vec<_> = self.config().bin_dirs.iter().map(|d| d.display().to_string()).collect();
        let mut child = Command::new(&program)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH.into()))
            .env("CNI_COMMAND", call.verb.name())
            .env("CNI_PATH", path.join(":"))
            .envs(call.env.iter().map(|(k, v)| (k, v)))
            .env(MARK, call.mark)
            .stdin(Stdio::from(File::from(config)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .act(starting)?;
        let begun = Instant::now();
        let ended = listen(&mut child, begun + self.config().timeout);
        if !matches!(ended, Ok(Heard { status: Some(_), .. })) {
            end(child, call.mark);
        }
        let failed = |why: String| CniError::Failed { plugin: call.kind.to_owned(), verb: call.verb, why };
        let heard = ended.act(|| format!("listening to CNI plugin {}", call.kind))?;
        tracing::debug!(plugin = call.kind, verb = %call.verb, took = ?begun.elapsed(), status = ?heard.status, "CNI");
        let Some(status) = heard.status else {
            if heard.out.len() > MAX_ANSWER {
                return Err(failed(format!("its answer is longer than {MAX_ANSWER} bytes; it was killed")));
            }
            let seconds = self.config().timeout.as_secs();
            return Err(CniError::Timeout { plugin: call.kind.to_owned(), verb: call.verb, seconds });
        };
        if status.success() {
            return Ok(heard.out);
        }
        if let Some((code, message)) = crate::result::error(&heard.out) {
            return Err(CniError::Refused {
                plugin: call.kind.to_owned(),
                verb: call.verb,
                code,
                message: clean(&message),
            });
        }
        Err(failed(format!("{}{}", how(status), words(&heard))))
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with code {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended".into(),
    }
}

/// The last line that it has said.
fn words(heard: &Heard) -> String {
    let last = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines().rev().find(|l| !l.trim().is_empty()).map(|l| format!(": {}", clean(l)))
    };
    last(&heard.talk).or_else(|| last(&heard.out)).unwrap_or_default()
}

/// A plugin's words, fit for a terminal and a log.
pub(crate) fn clean(text: &str) -> String {
    let safe = text.trim().chars().take(MAX_WORDS).map(|c| if c.is_control() { ' ' } else { c });
    safe.collect()
}

#[derive(Debug)]
struct Heard {
    out: Vec<u8>,
    talk: Vec<u8>,
    /// `None`: it goes on, and is to be ended.
    status: Option<ExitStatus>,
}

/// Listens until it has ended, says too much, or its time is over. What children of it keep open is not waited for.
fn listen(child: &mut Child, until: Instant) -> io::Result<Heard> {
    let pidfd = process::pidfd_open(child.id())?;
    let (mut out, mut talk) = (child.stdout.take(), child.stderr.take());
    for fd in [out.as_ref().map(AsFd::as_fd), talk.as_ref().map(AsFd::as_fd)].into_iter().flatten() {
        process::set_nonblocking(fd)?;
    }
    let mut heard = Heard { out: Vec::new(), talk: Vec::new(), status: None };
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(heard);
        }
        let wait = |fd: Option<BorrowedFd<'_>>| fd.map_or(Poll::NONE, |fd| Poll::new(fd, true, false));
        let mut fds = [
            Poll::new(pidfd.as_fd(), true, false),
            wait(out.as_ref().map(AsFd::as_fd)),
            wait(talk.as_ref().map(AsFd::as_fd)),
        ];
        process::poll(&mut fds, left.as_millis().clamp(1, 60_000) as i32)?;
        let ended = fds[0].readable();
        if let Some(pipe) = &mut out
            && !take(pipe, &mut heard.out, MAX_ANSWER + 1)?
        {
            out = None;
        }
        if heard.out.len() > MAX_ANSWER {
            return Ok(heard);
        }
        if let Some(pipe) = &mut talk
            && !take(pipe, &mut heard.talk, usize::MAX)?
        {
            talk = None;
        }
        let beyond = heard.talk.len().saturating_sub(MAX_TALK);
        heard.talk.drain(..beyond);
        if ended {
            heard.status = Some(child.wait()?);
            return Ok(heard);
        }
    }
}

/// Reads what is there, in pieces; false: there will be no more.
fn take(pipe: &mut impl Read, into: &mut Vec<u8>, most: usize) -> io::Result<bool> {
    let mut buffer = [0; 16 << 10];
    // A bound on one turn, too: who writes without end must not keep the clock from being looked at.
    for _ in 0..64 {
        if into.len() >= most {
            return Ok(true);
        }
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(n) => into.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// Kills it with its group and all that carries its mark.
fn end(mut child: Child, mark: &str) {
    let pid = child.id();
    let _ = process::kill(-(pid as i32), SIGKILL);
    let _ = child.kill();
    let until = Instant::now() + KILLED;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > until {
            // In an uninterruptible sleep (a dead file server, a stuck driver) it takes no signal, and whoever waits for it sleeps along.
            tracing::error!(pid, "a CNI plugin that was killed does not end: the kernel holds it");
            let reaper = std::thread::Builder::new().name("berth-cni-reap".into());
            let _ = reaper.spawn(move || child.wait());
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    kill_marked(mark);
}

/// Kills every process that a plugin's call with this mark has started, and waits until there is none.
pub(crate) fn kill_marked(mark: &str) {
    let wanted = format!("{MARK}={mark}");
    let until = Instant::now() + KILLED;
    loop {
        let found = marked(&wanted);
        if found.is_empty() {
            return;
        }
        if Instant::now() > until {
            tracing::error!(processes = ?found, "what a CNI plugin has started does not end");
            return;
        }
        for pid in found {
            tracing::info!(pid, "killing what a CNI plugin has left running");
            // By descriptor: it is looked at once more behind the opening, and its number cannot become another's.
            if let Ok(pidfd) = process::pidfd_open(pid)
                && has(pid, wanted.as_bytes())
            {
                let _ = process::pidfd_send_signal(pidfd.as_fd(), SIGKILL);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn marked(wanted: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| has(*pid, wanted.as_bytes())).collect()
}

/// One that has ended and waits for its parent has no environment any more.
fn has(pid: u32, wanted: &[u8]) -> bool {
    let environ = Path::new("/proc").join(pid.to_string()).join("environ");
    read_at_most(environ, MARKED).is_ok_and(|text| text.split(|b| *b == 0).any(|entry| entry == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CniConfig;

    fn cni(name: &str, script: &str, timeout: Duration) -> (Cni, PathBuf) {
        let dir = std::env::temp_dir().join(format!("berth-cni-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let program = dir.join("one");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let config = CniConfig {
            bin_dirs: vec![dir.join("none"), dir.clone()],
            state_dir: dir.join("state"),
            netns_dir: dir.join("netns"),
            timeout,
            point: |_| Ok(()),
        };
        (Cni::new(config), dir)
    }

    fn run(name: &str, script: &str) -> Result<String, CniError> {
        let (cni, dir) = cni(name, script, Duration::from_secs(20));
        let env = vec![("CNI_CONTAINERID", "c1".to_owned())];
        let said = cni.call(&Call { verb: Verb::Add, kind: "one", config: b"{\"x\":1}", env, mark: name });
        fs::remove_dir_all(dir).unwrap();
        said.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn it_reads_its_configuration_and_answers() {
        let said = run("answers", "echo \"$CNI_COMMAND $CNI_CONTAINERID $HOME $(cat)\"; env | grep -c CARGO");
        assert_eq!(said.unwrap_err().to_string(), "CNI plugin one failed at ADD: it ended with code 1: 0");
        assert_eq!(run("plain", "echo \"$CNI_COMMAND $CNI_CONTAINERID $(cat)\"").unwrap(), "ADD c1 {\"x\":1}\n");
        // Larger than a pipe, and nobody reads its configuration.
        let long = run("long", "head -c 300000 /dev/zero | tr '\\0' x").unwrap();
        assert_eq!(long.len(), 300_000);
    }

    #[test]
    fn its_own_words_are_told() {
        let said = run("refuses", "echo '{\"code\":11,\"msg\":\"no \\u001b[31mroom\",\"details\":\"at all\"}'; exit 1");
        assert_eq!(said.unwrap_err().to_string(), "CNI plugin one refuses ADD: no  [31mroom: at all (code 11)");
        let said = run("garbage", "echo oh no >&2; exit 3").unwrap_err().to_string();
        assert_eq!(said, "CNI plugin one failed at ADD: it ended with code 3: oh no");
        let said = run("signal", "kill -9 $$").unwrap_err().to_string();
        assert!(said.ends_with("it was ended by signal 9"), "{said}");
    }

    #[test]
    fn it_is_bounded() {
        let said = run("endless", "exec cat /dev/zero").unwrap_err().to_string();
        assert!(said.contains("longer than 1048576 bytes"), "{said}");
        let (cni, dir) = cni("hangs", "setsid sleep 4242 & sleep 4243", Duration::from_millis(300));
        let begun = Instant::now();
        let said = cni.call(&Call { verb: Verb::Del, kind: "one", config: b"", env: Vec::new(), mark: "hangs-mark" });
        assert!(matches!(said, Err(CniError::Timeout { verb: Verb::Del, .. })), "{said:?}");
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!(marked(&format!("{MARK}=hangs-mark")), [0; 0], "the child that left its group is gone, too");
        fs::remove_dir_all(dir).unwrap();
    }

    /// Frozen by cgroup v1's freezer, a process takes no SIGKILL, as in an uninterruptible sleep.
    #[test]
    fn one_that_the_kernel_holds_is_not_waited_for() {
        let freezer = Path::new("/sys/fs/cgroup/freezer");
        if !freezer.join("cgroup.procs").exists() {
            eprintln!("skipped: this host has no freezer that holds what is killed");
            return;
        }
        let group = freezer.join(format!("berth-cni-held-{}", std::process::id()));
        fs::create_dir(&group).unwrap();
        let g = group.display();
        let script = format!("echo $$ > {g}/cgroup.procs; echo FROZEN > {g}/freezer.state; sleep 60");
        let (cni, dir) = cni("held", &script, Duration::from_millis(300));
        let begun = Instant::now();
        let said = cni.call(&Call { verb: Verb::Add, kind: "one", config: b"", env: Vec::new(), mark: "held-mark" });
        let took = begun.elapsed();
        let held = fs::read_to_string(group.join("cgroup.procs")).unwrap();
        fs::write(group.join("freezer.state"), "THAWED").unwrap();
        let thawed = Instant::now();
        while fs::remove_dir(&group).is_err() {
            assert!(thawed.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(matches!(said, Err(CniError::Timeout { verb: Verb::Add, .. })), "{said:?}");
        assert!(!held.is_empty(), "it was not held, and nothing was tried");
        assert!(took < KILLED + Duration::from_secs(3), "{took:?}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_child_that_stays_is_not_waited_for() {
        let begun = Instant::now();
        assert_eq!(run("stays", "sleep 30 & echo fine").unwrap(), "fine\n");
        assert!(begun.elapsed() < Duration::from_secs(10));
        kill_marked("stays");
    }

    #[test]
    fn one_that_is_missing_is_named() {
        let (cni, dir) = cni("missing", "", Duration::from_secs(1));
        let said = cni.find("two").unwrap_err().to_string();
        assert!(said.contains("CNI plugin two is not in") && said.contains("cni_bin_dirs"), "{said}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn names() {
        assert!(is_plugin_name("host-local") && is_plugin_name("x.1_y"));
        for bad in ["", "/bin/sh", "../x", ".", "..", "a b", "a\n", "-x", &"x".repeat(65)] {
            assert!(!is_plugin_name(bad), "{bad:?}");
        }
    }
}
