//! berthctl, as a test's user calls it.

use super::*;

impl Node {
    pub(super) fn write_ctl_config(&self) {
        let identity = self.pki.identity("admin");
        let text = format!("current = \"test\"\n{}", context_toml("test", &self.endpoint(), &self.pki.ca(), &identity));
        fs::write(self.dir.join("config.toml"), text).expect("config.toml");
    }

    /// `berthctl` as admin.
    pub fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(ctl_binary());
        command.env("BERTH_CONFIG", self.dir.join("config.toml")).args(arguments);
        command
    }

    pub fn ctl(&self, arguments: &[&str]) -> Output {
        run(self.ctl_command(arguments).stdin(Stdio::null()))
    }

    /// As somebody else.
    pub fn ctl_as(&self, identity: &Identity, arguments: &[&str]) -> Output {
        let config =
            self.dir.join(format!("config-{}.toml", identity.cert.file_stem().expect("stem").to_string_lossy()));
        let text = format!("current = \"test\"\n{}", context_toml("test", &self.endpoint(), &self.pki.ca(), identity));
        fs::write(&config, text).expect("config");
        let mut command = Command::new(ctl_binary());
        run(command.env("BERTH_CONFIG", &config).args(arguments).stdin(Stdio::null()))
    }

    pub fn ctl_stdin(&self, arguments: &[&str], stdin: &str) -> Output {
        let file = self.dir.join("stdin");
        fs::write(&file, stdin).expect("stdin");
        run(self.ctl_command(arguments).stdin(File::open(file).expect("stdin")))
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        assert_eq!(
            output.code,
            0,
            "berthctl {arguments:?}\n{}{}\n--- agent:\n{}",
            output.stdout,
            output.stderr,
            self.tail()
        );
        output.stdout.trim_end().to_owned()
    }

    /// Standard error of a command that must fail with `code`.
    #[track_caller]
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        assert_eq!(output.code, code, "berthctl {arguments:?}\n{}{}", output.stdout, output.stderr);
        output.stderr
    }

    /// `run --rm --network none busybox sh -c SCRIPT` with options before the image.
    #[track_caller]
    pub fn sh(&self, options: &[&str], script: &str) -> String {
        let output = self.sh_output(options, script);
        assert_eq!(
            output.code,
            0,
            "{options:?} {script:?}\n{}{}\n--- agent:\n{}",
            output.stdout,
            output.stderr,
            self.tail()
        );
        output.stdout.trim_end().to_owned()
    }

    pub fn sh_output(&self, options: &[&str], script: &str) -> Output {
        let busybox = image("busybox");
        let mut arguments = vec!["run", "--rm"];
        if !options.contains(&"--network") {
            arguments.extend(["--network", "none"]);
        }
        arguments.extend(options);
        arguments.extend([busybox.as_str(), "sh", "-c", script]);
        self.ctl(&arguments)
    }

    /// Starts a busybox in the background that runs SCRIPT; gives its id.
    #[track_caller]
    pub fn detached(&self, options: &[&str], script: &str) -> String {
        let busybox = image("busybox");
        let mut arguments = vec!["run", "-d"];
        if !options.contains(&"--network") {
            arguments.extend(["--network", "none"]);
        }
        arguments.extend(options);
        arguments.extend([busybox.as_str(), "sh", "-c", script]);
        let id = self.ok(&arguments);
        if !options.contains(&"--init") {
            self.until_trapped(&id, script);
        }
        id
    }

    /// A shell has just been started when `run -d` ends: its traps come a little later, and process 1 does not feel a signal that it does
    /// not catch. Looks into the kernel's masks (proc_pid_status(5)) until every signal that the script names is there.
    #[track_caller]
    pub fn until_trapped(&self, container: &str, script: &str) {
        let named = |(name, _): &&(&str, u32)| script.contains(&format!("' {name};"));
        let signals = [("HUP", 1), ("INT", 2), ("USR1", 10), ("USR2", 12), ("TERM", 15)];
        let wanted = signals.iter().filter(named).fold(0u64, |mask, (_, number)| mask | 1 << (number - 1));
        if wanted == 0 {
            return;
        }
        let pid = self.inspect(container)["State"]["Pid"].as_u64().expect("pid");
        super::super::until(&format!("the traps of {script:?} are set"), || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let mask = |field: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(field));
                line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
            };
            (mask("SigCgt:") | mask("SigIgn:")) & wanted == wanted
        });
    }

    pub fn inspect(&self, container: &str) -> serde_json::Value {
        let text = self.ok(&["inspect", "-o", "json", container]);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        value.as_array().and_then(|list| list.first().cloned()).unwrap_or(value)
    }

    pub(super) fn tail(&self) -> String {
        let log = self.agent_log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}
