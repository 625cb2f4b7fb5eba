//! What systemd is asked for.

use crate::SystemdError;
use crate::bus::Bus;
use crate::limits;
use crate::wire::{Arg, Property, Value};
use std::time::{Duration, Instant};

const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
/// Since when scopes have an OOMPolicy=. Those before write 0 to memory.oom.group whenever they are reloaded.
const OOM_POLICY: u32 = 253;
/// For a unit of the same name to be gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// A scope to be started (systemd.scope(5)).
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    pub name: &'a str,
    pub slice: &'a str,
    pub description: &'a str,
    /// Who is in it from the beginning: a scope cannot be empty.
    pub process: u32,
    /// From the SIGTERM of a stop to the SIGKILL. `None`: systemd's own.
    pub stop_timeout: Option<Duration>,
    /// Where memory runs out, all processes end together: memory.oom.group, which systemd writes as it thinks fit.
    pub oom_group: bool,
    pub limits: &'a [Property],
}

impl Scope<'_> {
    fn properties(&self) -> Vec<Property> {
        let text = |text: &str| Value::Text(text.to_owned());
        let mut all = vec![
            Property::new("Description", text(self.description)),
            Property::new("Slice", text(self.slice)),
            // What is below is its owner's (https://systemd.io/CGROUP_DELEGATION).
            Property::new("Delegate", Value::Bool(true)),
            // At a shutdown of the host it is its owner's who ends it in order.
            Property::new("DefaultDependencies", Value::Bool(false)),
            // It goes also when it failed.
            Property::new("CollectMode", text("inactive-or-failed")),
            Property::new("PIDs", Value::Numbers(vec![self.process])),
        ];
        let accounting = ["CPUAccounting", "MemoryAccounting", "IOAccounting", "TasksAccounting"];
        all.extend(accounting.map(|name| Property::new(name, Value::Bool(true))));
        if let Some(timeout) = self.stop_timeout {
            let micros = u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
            all.push(Property::new("TimeoutStopUSec", Value::Long(micros)));
        }
        all.extend_from_slice(self.limits);
        all
    }
}

/// Of a version such as `252.39-1~deb12u1`; 0: it begins with no number.
fn major(version: &str) -> u32 {
    let digits = version.trim_start_matches('v').split(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|d| d.parse().ok()).unwrap_or_default()
}

/// A scope that systemd has begun.
#[derive(Debug)]
pub struct Begun {
    answer: Vec<String>,
    unit: String,
    act: String,
}

/// One connection to systemd.
pub struct Manager {
    bus: Bus,
}

impl Manager {
    /// # Errors
    /// There is no systemd on this host, or it does not talk to this user.
    pub fn connect() -> Result<Self, SystemdError> {
        Ok(Manager { bus: Bus::connect()? })
    }

    /// As `systemctl --version` has it: `252.39-1~deb12u1`.
    pub fn version(&mut self) -> Result<String, SystemdError> {
        self.bus.property("Version")
    }

    /// Starts a scope, and returns when its process is in it.
    pub fn start(&mut self, scope: &Scope<'_>) -> Result<(), SystemdError> {
        let begun = self.begin(scope)?;
        self.finish(begun)
    }

    /// Has systemd begin a scope. From the answer on the unit of this name is this scope, whatever becomes of it; before, and where this fails, it
    /// may be somebody's.
    pub fn begin(&mut self, scope: &Scope<'_>) -> Result<Begun, SystemdError> {
        let act = format!("starting {}", scope.name);
        let mut properties = scope.properties();
        if scope.oom_group {
            let version = self.version()?;
            if major(&version) < OOM_POLICY {
                return Err(SystemdError::TooOld {
                    version,
                    what: "an end of all processes together where memory runs out",
                });
            }
            properties.push(Property::new("OOMPolicy", Value::Text("kill".into())));
        }
        let args = [Arg::Text(scope.name), Arg::Text("replace"), Arg::Properties(&properties), Arg::NoUnits];
        let begun = Instant::now();
        loop {
            match self.bus.manager("StartTransientUnit", &args, &act) {
                // One of before that has failed, or is on its way out. A living one is nobody's to end here.
                Err(e) if e.is(UNIT_EXISTS) && begun.elapsed() < PATIENCE => {
                    self.forget(scope.name)?;
                    std::thread::sleep(Duration::from_millis(20));
                }
                answer => return Ok(Begun { answer: answer?, unit: scope.name.to_owned(), act }),
            }
        }
    }

    /// Returns when the process is in the scope.
    pub fn finish(&mut self, begun: Begun) -> Result<(), SystemdError> {
        self.done(begun.answer, &begun.unit, begun.act)
    }

    /// Until the next boot, as all that is transient.
    pub fn set(&mut self, unit: &str, properties: &[Property]) -> Result<(), SystemdError> {
        if properties.is_empty() {
            return Ok(());
        }
        let properties = self.known(properties)?;
        let args = [Arg::Text(unit), Arg::Bool(true), Arg::Properties(&properties)];
        self.bus.manager("SetUnitProperties", &args, &format!("setting properties of {unit}")).map(drop)
    }

    /// Without those that this systemd is too old for: it writes no files of them either.
    fn known(&mut self, properties: &[Property]) -> Result<Vec<Property>, SystemdError> {
        let mut known = properties.to_vec();
        if known.iter().any(|p| limits::since(p) > 0) {
            let version = major(&self.version()?);
            known.retain(|p| limits::since(p) <= version);
        }
        Ok(known)
    }

    /// Stops a unit with what is left in it, and lets systemd forget that it failed. Gone already is fine.
    pub fn stop(&mut self, unit: &str) -> Result<(), SystemdError> {
        let act = format!("stopping {unit}");
        match self.bus.manager("StopUnit", &[Arg::Text(unit), Arg::Text("replace")], &act) {
            Err(e) if e.is(NO_SUCH_UNIT) => return Ok(()),
            answer => self.done(answer?, unit, act)?,
        }
        self.forget(unit)
    }

    /// That it failed.
    fn forget(&mut self, unit: &str) -> Result<(), SystemdError> {
        match self.bus.manager("ResetFailedUnit", &[Arg::Text(unit)], &format!("forgetting {unit}")) {
            Err(e) if !e.is(NO_SUCH_UNIT) => Err(e),
            _ => Ok(()),
        }
    }

    fn done(&mut self, answer: Vec<String>, unit: &str, act: String) -> Result<(), SystemdError> {
        let Some(job) = answer.first() else { return Err(SystemdError::Answer { act }) };
        match self.bus.wait(job, &act)?.as_str() {
            "done" => Ok(()),
            other => Err(SystemdError::Job { act, unit: unit.to_owned(), result: other.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;
    use std::io::{Read, Write};

    #[test]
    fn versions_begin_with_a_number() {
        assert_eq!((major("252.39-1~deb12u1"), major("v253-rc1"), major("257"), major("")), (252, 253, 257, 0));
    }

    /// A message as the specification has it, with one text in it.
    fn answer(kind: u8, to: u32, error: &str, text: &str) -> Vec<u8> {
        let pad = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(8), 0);
        let put = |bytes: &mut Vec<u8>, text: &str| {
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.as_bytes());
            bytes.push(0);
        };
        let mut fields = b"\x05\x01u\0".to_vec();
        fields.extend(to.to_le_bytes());
        if !error.is_empty() {
            fields.extend(b"\x04\x01s\0");
            put(&mut fields, error);
            pad(&mut fields);
        }
        fields.extend(b"\x08\x01g\0\x01s\0");
        let mut body = Vec::new();
        put(&mut body, text);
        let mut message = vec![b'l', kind, 0, 1];
        for number in [body.len() as u32, 1, fields.len() as u32] {
            message.extend(number.to_le_bytes());
        }
        pad(&mut fields);
        [message, fields, body].concat()
    }

    /// Answers one call after the other.
    fn systemd(answers: Vec<(u8, &'static str, &'static str)>) -> Manager {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut theirs = theirs;
            for (serial, (kind, error, text)) in (1..).zip(answers) {
                let mut fixed = [0; wire::FIXED];
                theirs.read_exact(&mut fixed).unwrap();
                let mut rest = vec![0; wire::rest(&fixed).unwrap()];
                theirs.read_exact(&mut rest).unwrap();
                theirs.write_all(&answer(kind, serial, error, text)).unwrap();
            }
        });
        Manager { bus: Bus::on(ours) }
    }

    const SCOPE: Scope<'_> = Scope {
        name: "x.scope",
        slice: "system.slice",
        description: "",
        process: 1,
        stop_timeout: None,
        oom_group: false,
        limits: &[],
    };

    #[test]
    fn a_unit_is_ours_when_systemd_has_taken_the_order() {
        let refused = systemd(vec![(wire::ERROR, "org.freedesktop.systemd1.Other", "no")]).begin(&SCOPE);
        assert!(refused.unwrap_err().is("org.freedesktop.systemd1.Other"));
        // Taken, and never done: the connection ends first.
        let mut manager = systemd(vec![(wire::REPLY, "", "/job/1")]);
        let begun = manager.begin(&SCOPE).unwrap();
        assert!(manager.finish(begun).is_err());
    }

    #[test]
    fn what_systemd_is_too_old_for_is_left_out() {
        let all = [Property::new("MemoryZSwapMax", Value::Long(0)), Property::new("MemoryMax", Value::Long(0))];
        for (version, known) in [("252.39-1", 1), ("253", 2)] {
            assert_eq!(systemd(vec![(wire::REPLY, "", version)]).known(&all).unwrap().len(), known, "{version}");
        }
        // Nobody is asked where nothing is new.
        assert_eq!(systemd(Vec::new()).known(&all[1..]).unwrap().len(), 1);
    }
}
