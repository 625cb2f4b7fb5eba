//! SELinux: whether this host has it, and which labels containers have there. The policy is the host's: the agent loads none.

use crate::{Runtime, RuntimeError};
use berth_model::ContainerSpec;
use berth_model::selinux::{CATEGORIES, Context, Labels, MAX_LABEL, level_of};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Where selinuxfs is mounted.
const SELINUXFS: &str = "/sys/fs/selinux";
const CONFIG: &str = "/etc/selinux";
/// What Podman and Docker take before the policy's own file.
const OF_CONTAINERS: &str = "/usr/share/containers/selinux/contexts";
/// What policies have for containers that do not say it (container-selinux).
const PROCESS: &str = "system_u:system_r:container_t:s0";
const FILE: &str = "system_u:object_r:container_file_t:s0";
/// What all containers may read and execute.
const RO_FILE: &str = "system_u:object_r:container_ro_file_t:s0";

/// The categories of files of containers without a label of their own: no container that has one reaches them.
pub const PRIVILEGED_PAIR: (u16, u16) = (CATEGORIES - 2, CATEGORIES - 1);

/// What SELinux means for containers here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SelinuxState {
    /// The kernel has none, or no policy is loaded.
    Absent,
    /// The host has it, and the agent's configuration leaves it out.
    Off,
    /// The policy knows nothing of containers: why.
    NoTypes(String),
    On(Box<Selinux>),
}

/// The contexts that the host's policy has for containers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selinux {
    process: Context,
    file: Context,
    ro_file: Context,
}

/// Which categories a container is to have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Level {
    /// None of its own: it is not confined, or the policy has none.
    None,
    /// A pair that nobody else has.
    Own,
    /// As it was asked for.
    Asked(String),
}

fn is_enabled() -> bool {
    // Before the first policy everything is called that.
    let current = fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    Path::new(SELINUXFS).join("enforce").exists() && current.trim_end_matches(['\0', '\n']) != "kernel"
}

/// The value of `key` in a file of `KEY=value` lines, quoted or not.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let found = lines.filter_map(|line| line.split_once('=')).rfind(|(k, _)| k.trim() == key);
    found.map(|(_, v)| v.trim().trim_matches('"'))
}

/// The first file that is there says what containers have; what it does not say is as most policies have it.
fn contexts(files: &[PathBuf]) -> Result<Selinux, String> {
    let found = files.iter().find_map(|path| Some((path, fs::read_to_string(path).ok()?)));
    let of = |key: &str, default: &str| {
        let said = found.as_ref().and_then(|(path, text)| Some((path.display(), value(text, key)?)));
        match said {
            None => Context::parse(default).ok_or_else(String::new),
            Some((path, text)) => Context::parse(text)
                .filter(|_| text.len() <= MAX_LABEL)
                .ok_or_else(|| format!("{path}: {key} = {text:?} is no context")),
        }
    };
    Ok(Selinux { process: of("process", PROCESS)?, file: of("file", FILE)?, ro_file: of("ro_file", RO_FILE)? })
}

/// Whether the policy knows a context.
fn check(context: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(Path::new(SELINUXFS).join("context"))?;
    file.write_all(context.as_bytes())
}

impl SelinuxState {
    /// `wanted`: as the agent's configuration has it.
    pub(crate) fn probe(wanted: bool) -> SelinuxState {
        if !is_enabled() {
            return SelinuxState::Absent;
        }
        if !wanted {
            return SelinuxState::Off;
        }
        let config = fs::read_to_string(Path::new(CONFIG).join("config")).unwrap_or_default();
        let policy = value(&config, "SELINUXTYPE").unwrap_or("targeted");
        let own = Path::new(CONFIG).join(policy).join("contexts/lxc_contexts");
        match contexts(&[OF_CONTAINERS.into(), own]).and_then(Selinux::known) {
            Ok(found) => SelinuxState::On(Box::new(found)),
            Err(why) => SelinuxState::NoTypes(why),
        }
    }
}

impl Selinux {
    fn known(mut self) -> Result<Selinux, String> {
        for context in [&self.process, &self.file] {
            check(&context.to_string()).map_err(|e| format!("the policy does not know {context}: {e}"))?;
        }
        // Older policies have no such type.
        if check(&self.ro_file.to_string()).is_err() {
            self.ro_file = self.file.clone();
        }
        Ok(self)
    }

    /// Whether its processes have no label of their own, as with Docker.
    fn is_unconfined(spec: &ContainerSpec) -> bool {
        let shares = spec.host_pid || spec.host_ipc;
        spec.privileged || spec.selinux.disable || shares && spec.selinux.is_default()
    }

    pub fn level(&self, spec: &ContainerSpec) -> Level {
        match &spec.selinux.level {
            _ if Self::is_unconfined(spec) || self.process.level.is_empty() => Level::None,
            asked if asked.is_empty() => Level::Own,
            asked => Level::Asked(asked.clone()),
        }
    }

    fn made(&self, spec: &ContainerSpec, level: &str) -> Labels {
        let asked = &spec.selinux;
        let or = |asked: &str, default: &str| if asked.is_empty() { default.to_owned() } else { asked.to_owned() };
        // A policy without levels has none for anybody.
        let at = |context: &Context, level: &str| match &*context.level {
            "" => String::new(),
            own => or(level, own),
        };
        if Self::is_unconfined(spec) {
            let level = at(&self.file, &level_of(PRIVILEGED_PAIR));
            return Labels { process: String::new(), mount: Context { level, ..self.file.clone() }.to_string() };
        }
        let process = Context {
            user: or(&asked.user, &self.process.user),
            role: or(&asked.role, &self.process.role),
            kind: or(&asked.kind, &self.process.kind),
            level: at(&self.process, level),
        };
        let mount = Context {
            user: or(&asked.user, &self.file.user),
            role: self.file.role.clone(),
            kind: or(&asked.file_type, &self.file.kind),
            level: at(&self.file, level),
        };
        Labels { process: process.to_string(), mount: mount.to_string() }
    }

    /// The labels of a new container.
    ///
    /// # Errors
    /// Why there are no such ones.
    pub fn labels(&self, spec: &ContainerSpec, level: &str) -> Result<Labels, String> {
        let labels = self.made(spec, level);
        for label in [&labels.process, &labels.mount].into_iter().filter(|label| !label.is_empty()) {
            if label.len() > MAX_LABEL || Context::parse(label).is_none() {
                return Err(format!("{label:?} is no context"));
            }
            check(label).map_err(|e| format!("the host's policy does not know {label}: {e}"))?;
        }
        Ok(labels)
    }

    /// Whether a process of the agent's may become one of a container. `None`: the kernel does not tell.
    pub fn may_enter(&self) -> Option<bool> {
        let read = |path: String| fs::read_to_string(Path::new(SELINUXFS).join(path)).ok();
        let number = |path: &str| read(format!("class/process/{path}"))?.trim().parse::<u32>().ok();
        let (class, bit) = (number("index")?, number("perms/transition")?.checked_sub(1)?);
        let own = fs::read_to_string("/proc/self/attr/current").ok()?;
        let own = own.trim_end_matches(['\0', '\n']);
        let access = Path::new(SELINUXFS).join("access");
        let mut file = OpenOptions::new().read(true).write(true).open(access).ok()?;
        file.write_all(format!("{own} {} {class}", self.process).as_bytes()).ok()?;
        let mut answer = String::new();
        file.read_to_string(&mut answer).ok()?;
        let allowed = u32::from_str_radix(answer.split_whitespace().next()?, 16).ok()?;
        Some(allowed >> bit & 1 == 1)
    }

    /// The type of containers' processes.
    pub fn process_type(&self) -> &str {
        &self.process.kind
    }

    /// The label of images' layers, which all containers read.
    pub fn layers(&self) -> String {
        self.ro_file.to_string()
    }

    /// The type of containers' files.
    pub fn file_type(&self) -> &str {
        &self.file.kind
    }
}

impl Runtime {
    pub fn selinux_state(&self) -> &SelinuxState {
        &self.inner.selinux
    }

    /// `None`: containers have no labels here.
    pub fn selinux(&self) -> Option<&Selinux> {
        match &self.inner.selinux {
            SelinuxState::On(found) => Some(found),
            _ => None,
        }
    }

    /// Whether what is forbidden is only written down.
    pub fn selinux_is_permissive(&self) -> bool {
        fs::read_to_string(Path::new(SELINUXFS).join("enforce")).is_ok_and(|text| text.trim() == "0")
    }

    /// Labels of a record, where they mean something here.
    pub fn labels<'a>(&self, given: &'a Labels) -> &'a Labels {
        static NONE: Labels = Labels::NONE;
        if self.selinux().is_some() { given } else { &NONE }
    }

    pub(crate) fn check_labels(&self, spec: &ContainerSpec) -> Option<(String, String)> {
        let wrong = |why: &str| Some(("selinux".to_owned(), why.to_owned()));
        if !spec.selinux.names_a_part() {
            return None;
        }
        if spec.selinux.disable || spec.privileged {
            return wrong("does not go with disable or privileged: such a container has no label of its own");
        }
        match &self.inner.selinux {
            SelinuxState::Absent => wrong("SELinux is not enabled on this host: leave it out"),
            SelinuxState::Off => {
                wrong("containers have no labels here: selinux = \"off\" in [isolation] of the agent's configuration")
            }
            SelinuxState::NoTypes(why) => wrong(&format!("containers have no labels here: {why}")),
            SelinuxState::On(_) => None,
        }
    }
}

/// Gives a file of the host's a label; what has none to change (EOPNOTSUPP) stays as it is.
pub(crate) fn set_file(path: &Path, label: &str) -> Result<(), RuntimeError> {
    if label.is_empty() {
        return Ok(());
    }
    let file = berth_sys::fs::open(path, berth_sys::fs::Open::RDONLY | berth_sys::fs::Open::NOFOLLOW, 0);
    let set = file.and_then(|file| {
        use std::os::fd::AsFd;
        berth_sys::fs::fsetxattr(file.as_fd(), c"security.selinux", label.as_bytes())
    });
    match set {
        Err(e) if e.raw_os_error() == Some(EOPNOTSUPP) => Ok(()),
        other => other.map_err(RuntimeError::io(format!("labelling {} {label}", path.display()))),
    }
}

const EOPNOTSUPP: i32 = 95;

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::selinux::LabelOptions;

    fn host() -> Selinux {
        contexts(&[]).unwrap()
    }

    #[test]
    fn files_say_it_and_the_rest_is_as_everywhere() {
        let dir = std::env::temp_dir().join(format!("berth-contexts-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("lxc_contexts");
        let at = [dir.join("none"), file.clone()];
        let text = "# process = \"x:y:z:s0\"\n; file = \"x\"\n\nprocess = \"system_u:system_r:svirt_t:s0\"\nro_file=\"a:b:c:s0\"\nnothing\n";
        for (text, process, kind) in [
            (text, "system_u:system_r:svirt_t:s0", "container_file_t"),
            ("file=system_u:object_r:svirt_file_t", PROCESS, "svirt_file_t"),
            ("", PROCESS, "container_file_t"),
        ] {
            fs::write(&file, text).unwrap();
            let found = contexts(&at).unwrap();
            assert_eq!((&*found.process.to_string(), found.file_type()), (process, kind), "{text}");
            let layers = if text.contains("ro_file") { "a:b:c:s0" } else { RO_FILE };
            assert_eq!(found.layers(), layers, "{text}");
        }
        fs::write(&file, "process = \"nonsense\"").unwrap();
        assert!(contexts(&at).unwrap_err().ends_with("process = \"nonsense\" is no context"));
        fs::remove_dir_all(dir).unwrap();
        assert_eq!(contexts(&at).unwrap(), host());
        assert_eq!(value("SELINUXTYPE=default\n#SELINUXTYPE=x\n", "SELINUXTYPE"), Some("default"));
    }

    #[test]
    fn labels_are_as_asked_for() {
        let options = |words: &[&str]| {
            let mut options = LabelOptions::default();
            words.iter().for_each(|w| assert!(options.take(w)));
            ContainerSpec { selinux: options, ..ContainerSpec::default() }
        };
        let plain = || options(&[]);
        let file = "system_u:object_r:container_file_t:s0:c1,c2";
        let process = "system_u:system_r:container_t:s0:c1,c2";
        let none = ("", "system_u:object_r:container_file_t:s0:c1022,c1023");
        let own = Level::Own;
        for (spec, level, (is, mount)) in [
            (plain(), own.clone(), (process, file)),
            (options(&["type:my_t"]), own.clone(), ("system_u:system_r:my_t:s0:c1,c2", file)),
            (options(&["filetype:my_file_t"]), own.clone(), (process, "system_u:object_r:my_file_t:s0:c1,c2")),
            (
                options(&["user:u", "role:r"]),
                own.clone(),
                ("u:r:container_t:s0:c1,c2", "u:object_r:container_file_t:s0:c1,c2"),
            ),
            (options(&["disable"]), Level::None, none),
            (ContainerSpec { privileged: true, ..plain() }, Level::None, none),
            (ContainerSpec { host_pid: true, ..plain() }, Level::None, none),
            (ContainerSpec { host_ipc: true, ..plain() }, Level::None, none),
            (
                ContainerSpec { host_pid: true, ..options(&["type:my_t"]) },
                own,
                ("system_u:system_r:my_t:s0:c1,c2", file),
            ),
        ] {
            assert_eq!(host().level(&spec), level, "{:?}", spec.selinux);
            let made = host().made(&spec, "s0:c1,c2");
            assert_eq!((&*made.process, &*made.mount), (is, mount), "{:?}", spec.selinux);
        }
        assert_eq!(host().level(&options(&["level:s0:c9,c8"])), Level::Asked("s0:c9,c8".into()));
        let flat = |text: &str| Context::parse(text).unwrap();
        let flat = Selinux { process: flat("u:r:p_t"), file: flat("u:o:f_t"), ro_file: flat("u:o:r_t") };
        assert_eq!(flat.level(&plain()), Level::None);
        assert_eq!(flat.made(&plain(), ""), Labels { process: "u:r:p_t".into(), mount: "u:o:f_t".into() });
    }
}
