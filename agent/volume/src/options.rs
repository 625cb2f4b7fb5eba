//! Options of Docker's `local` driver, and `size`: from words to what is mounted.

use berth_sys::mount::MountAttr;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

/// The least that mkfs.ext4 makes with a journal is about 2 MiB; below this most of it would be the file system's own.
pub const LEAST_BYTES: u64 = 8 << 20;
/// As much as ext4 can be without options of its own.
pub const MOST_BYTES: u64 = 16 << 40;
/// The option that says how a size is kept.
const BACKING: &str = "backing";
/// In the place of a password.
const HIDDEN: &str = "***";

/// Where a volume's files are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backing {
    /// In its folder.
    Folder,
    /// In its folder, and the file system that this is on gives them so many bytes: a quota of the project with this number.
    Quota { bytes: u64, project: u32 },
    /// In a file system of this many bytes, in a file in its folder.
    Disk { bytes: u64 },
    /// In a folder of the host.
    Bind { path: String, recursive: bool, read_only: bool },
    /// In another file system.
    Mount(Foreign),
}

/// What keeps a volume to its size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LimitBy {
    /// A project quota of the file system that volumes are on.
    Quota,
    /// A file system of its own, in a file behind a loop device.
    Loop,
}

impl LimitBy {
    /// Which of them the options ask for, where they do.
    pub fn asked(options: &BTreeMap<String, String>) -> Option<LimitBy> {
        match options.get(BACKING)?.as_str() {
            "quota" => Some(LimitBy::Quota),
            "loop" => Some(LimitBy::Loop),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            LimitBy::Quota => "quota",
            LimitBy::Loop => "loop",
        }
    }
}

/// What is mounted where somebody uses the volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Foreign {
    pub fs_type: String,
    pub device: String,
    pub attributes: MountAttr,
    /// For the file system itself: a key, and a value where it has one.
    pub parameters: Vec<(String, Option<String>)>,
}

impl Foreign {
    /// What the file system is told, in this order: its source, then its own options. The kernel wants numbers where people write a server's name:
    /// `addr` becomes one, as in Docker, and where it is not said, the server that the device names is meant.
    ///
    /// # Errors
    /// What `address` says.
    pub(crate) fn words(
        &self,
        address: impl Fn(&str) -> io::Result<IpAddr>,
    ) -> io::Result<Vec<(String, Option<String>)>> {
        let number = |host: &str| match host.parse::<IpAddr>() {
            Ok(ip) => Ok(ip.to_string()),
            Err(_) => address(host).map(|ip| ip.to_string()),
        };
        let mut words = vec![("source".to_owned(), Some(self.device.clone()))];
        for (key, value) in &self.parameters {
            let value = match value {
                Some(host) if key == "addr" => Some(number(host)?),
                other => other.clone(),
            };
            words.push((key.clone(), value));
        }
        let said = self.parameters.iter().any(|(key, _)| key == "addr" || key == "ip");
        if let Some(server) = self.server().filter(|_| !said) {
            words.push(("addr".to_owned(), Some(number(server)?)));
        }
        Ok(words)
    }

    /// The host in the device of a file system of the network: `HOST:/path`, `[2001:db8::1]:/path`, `//HOST/share`.
    fn server(&self) -> Option<&str> {
        let server = match self.fs_type.as_str() {
            "nfs" | "nfs4" => match self.device.strip_prefix('[') {
                Some(rest) => rest.split_once("]:")?.0,
                None => self.device.split_once(":/")?.0,
            },
            "cifs" | "smb3" => self.device.strip_prefix("//")?.split_once('/')?.0,
            _ => return None,
        };
        Some(server).filter(|s| !s.is_empty())
    }
}

/// Which option is wrong, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadOptions {
    pub option: String,
    pub why: String,
}

/// Whether these options lead to something of the host, which not every caller may name.
pub fn is_of_host(options: &BTreeMap<String, String>) -> bool {
    options.keys().any(|key| key != "size" && key != BACKING)
}

/// `options` for those who may look and no more: passwords, and names of files that hold them, are left out.
pub fn without_secrets(options: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let shown = |(key, value): (&String, &String)| {
        let value = match key.as_str() {
            "o" => value.split(',').map(word_without_secret).collect::<Vec<_>>().join(","),
            "device" => without_login(value),
            _ => value.clone(),
        };
        (key.clone(), value)
    };
    options.iter().map(shown).collect()
}

/// By a part of its name, so that the file systems' own variants are known too: password2, passwd, secretfile, credentials, key_serial.
fn word_without_secret(word: &str) -> String {
    const SECRET: &[&str] = &["pass", "pwd", "secret", "cred", "token", "key"];
    let Some((key, value)) = word.split_once('=') else { return word.to_owned() };
    let name = key.trim().to_ascii_lowercase();
    if SECRET.iter().any(|part| name.contains(part)) {
        return format!("{key}={HIDDEN}");
    }
    // mount.cifs(8) takes USER%PASSWORD there.
    match value.split_once('%') {
        Some((user, _)) if name.starts_with("user") => format!("{key}={user}%{HIDDEN}"),
        _ => word.to_owned(),
    }
}

/// `//USER:PASSWORD@HOST/share`, `https://USER:PASSWORD@HOST/`
fn without_login(device: &str) -> String {
    let Some((scheme, rest)) = device.split_once("//") else { return device.to_owned() };
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    match host.rsplit_once('@').and_then(|(login, host)| Some((login.split_once(':')?.0, host))) {
        Some((user, host)) => format!("{scheme}//{user}:{HIDDEN}@{host}{path}"),
        None => device.to_owned(),
    }
}

/// `10g`, `512m`, `4096`: powers of 1024, as Docker has them.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, shift) = match lower.as_bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 10),
        b'm' => (&lower[..lower.len() - 1], 20),
        b'g' => (&lower[..lower.len() - 1], 30),
        b't' => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

impl Backing {
    /// Reads a volume's options. One with a size has a file system of its own; [`Backing::in_project`] makes it another.
    ///
    /// # Errors
    /// All that are wrong.
    pub fn parse(options: &BTreeMap<String, String>) -> Result<Backing, Vec<BadOptions>> {
        let mut wrong = Vec::new();
        let mut say = |option: &str, why: &str| wrong.push(BadOptions { option: option.into(), why: why.into() });
        for (key, value) in options {
            if !matches!(key.as_str(), "type" | "device" | "o" | "size" | BACKING) {
                say(key, "is not supported; there are type, device, o, size and backing");
            } else if value.len() > 4095 || value.chars().any(char::is_control) {
                say(key, "must be at most 4095 characters, none of them a control character");
            }
        }
        let get = |key: &str| options.get(key).map(String::as_str).filter(|v| !v.is_empty());
        let (fs_type, device, o, size) = (get("type"), get("device"), get("o"), get("size"));
        let words: Vec<&str> = o.unwrap_or("").split(',').map(str::trim).filter(|w| !w.is_empty()).collect();
        let bind = words.contains(&"bind") || words.contains(&"rbind");
        if options.contains_key(BACKING) {
            if LimitBy::asked(options).is_none() {
                say(
                    BACKING,
                    "must be quota (a project quota of the file system that volumes are on) or loop (a file system of its own)",
                );
            }
            if !options.contains_key("size") {
                say(BACKING, "says how a size is kept, and needs one: size=10g");
            }
        }
        if options.contains_key("size") {
            let parsed = size.and_then(bytes);
            if !parsed.is_some_and(|n| (LEAST_BYTES..=MOST_BYTES).contains(&n)) {
                say("size", "must be 8m to 16t: bytes, or a number with k, m, g or t");
            }
            if fs_type.is_some() || device.is_some() || o.is_some() {
                say("size", "does not go with type, device and o; a tmpfs takes o=size=");
            }
            let bytes = parsed.unwrap_or(0);
            return if wrong.is_empty() { Ok(Backing::Disk { bytes }) } else { Err(wrong) };
        }
        if fs_type.is_none() && device.is_none() && o.is_none() {
            return if wrong.is_empty() { Ok(Backing::Folder) } else { Err(wrong) };
        }
        if bind {
            if !matches!(fs_type, None | Some("none" | "bind")) {
                say("type", "must be none for a bind");
            }
            let path = device.unwrap_or("");
            if !path.starts_with('/') || path.split('/').any(|p| p == "..") {
                say("device", "must be an absolute path of the host, without '..'");
            }
            let (mut recursive, mut read_only) = (false, false);
            for word in words {
                match word {
                    "bind" => {}
                    "rbind" => recursive = true,
                    "ro" => read_only = true,
                    "rw" => {}
                    other => say("o", &format!("{other:?} does not go with a bind: bind, rbind, ro, rw")),
                }
            }
            let backing = Backing::Bind { path: path.into(), recursive, read_only };
            return if wrong.is_empty() { Ok(backing) } else { Err(wrong) };
        }
        let Some(fs_type) = fs_type else {
            say("type", "must be there beside device and o: tmpfs, nfs, cifs, ext4, …, or none with o=bind");
            return Err(wrong);
        };
        let word = |t: &str| t.len() <= 32 && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_'));
        if fs_type == "none" || !word(fs_type) {
            say("type", "must be a file system's name, or none with o=bind");
        }
        if device.is_none() && fs_type != "tmpfs" {
            say("device", "must be there: HOST:/path for nfs, //HOST/share for cifs, else a block device");
        }
        let mut attributes = MountAttr::NONE;
        let mut parameters = Vec::new();
        for word in words {
            match word {
                "ro" => attributes |= MountAttr::RDONLY,
                "nosuid" => attributes |= MountAttr::NOSUID,
                "nodev" => attributes |= MountAttr::NODEV,
                "noexec" => attributes |= MountAttr::NOEXEC,
                "noatime" => attributes |= MountAttr::NOATIME,
                "nodiratime" => attributes |= MountAttr::NODIRATIME,
                "strictatime" => attributes |= MountAttr::STRICTATIME,
                "rw" | "suid" | "dev" | "exec" | "relatime" | "defaults" => {}
                other => match other.split_once('=') {
                    // The kernel's own limit of fsconfig(2).
                    Some((_, value)) if value.len() > 255 => say("o", "a value is longer than 255 bytes"),
                    Some((key, value)) => parameters.push((key.to_owned(), Some(value.to_owned()))),
                    None => parameters.push((other.to_owned(), None)),
                },
            }
        }
        let device = device.unwrap_or("tmpfs").to_owned();
        let fs_type = fs_type.to_owned();
        if wrong.is_empty() {
            Ok(Backing::Mount(Foreign { fs_type, device, attributes, parameters }))
        } else {
            Err(wrong)
        }
    }

    /// The same, where its size is the quota of a project with this number.
    #[must_use]
    pub fn in_project(self, project: Option<u32>) -> Backing {
        match (self, project) {
            (Backing::Disk { bytes }, Some(project)) => Backing::Quota { bytes, project },
            (other, _) => other,
        }
    }

    /// The size, and what keeps the volume to it.
    pub fn limit(&self) -> Option<(u64, LimitBy)> {
        match self {
            Backing::Quota { bytes, .. } => Some((*bytes, LimitBy::Quota)),
            Backing::Disk { bytes } => Some((*bytes, LimitBy::Loop)),
            Backing::Folder | Backing::Bind { .. } | Backing::Mount(_) => None,
        }
    }

    /// What is full when the volume is, for people; `None`: the host's disk.
    pub fn room(&self) -> Option<&'static str> {
        match self {
            Backing::Quota { .. } => Some("a fixed size (a project quota)"),
            Backing::Disk { .. } => Some("a file system of a fixed size"),
            Backing::Mount(_) => Some("a file system of its own"),
            Backing::Folder | Backing::Bind { .. } => None,
        }
    }

    /// Its files are in a file system that is mounted while somebody uses them.
    pub fn is_mounted(&self) -> bool {
        matches!(self, Backing::Disk { .. } | Backing::Mount(_))
    }

    /// What is looked for elsewhere, for people; `None`: it is this host's disk, and the volume's own.
    pub fn elsewhere(&self) -> Option<String> {
        match self {
            Backing::Folder | Backing::Quota { .. } | Backing::Disk { .. } => None,
            Backing::Mount(f) if f.fs_type == "tmpfs" => None,
            Backing::Bind { path, .. } => Some(path.clone()),
            Backing::Mount(f) => Some(format!("{} {}", f.fs_type, f.device)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Backing, Vec<String>> {
        let options = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Backing::parse(&options).map_err(|w| w.into_iter().map(|w| w.option).collect())
    }

    #[test]
    fn good_ones() {
        assert_eq!(parse(&[]), Ok(Backing::Folder));
        assert_eq!(parse(&[("size", "1G")]), Ok(Backing::Disk { bytes: 1 << 30 }));
        assert_eq!(parse(&[("size", "64mb")]), Ok(Backing::Disk { bytes: 64 << 20 }));
        for backing in ["quota", "loop"] {
            assert_eq!(parse(&[("size", "64m"), ("backing", backing)]), Ok(Backing::Disk { bytes: 64 << 20 }));
        }
        let quota = Backing::Disk { bytes: 1 << 30 }.in_project(Some(7));
        assert_eq!((quota.limit(), quota.is_mounted()), (Some((1 << 30, LimitBy::Quota)), false));
        assert_eq!(Backing::Folder.in_project(Some(7)), Backing::Folder);
        let bind = Backing::Bind { path: "/srv/x".into(), recursive: false, read_only: true };
        assert_eq!(parse(&[("type", "none"), ("o", "bind,ro"), ("device", "/srv/x")]), Ok(bind));
        let Ok(Backing::Mount(tmpfs)) = parse(&[("type", "tmpfs"), ("o", "size=100m,uid=1000,noexec")]) else {
            panic!("a tmpfs");
        };
        assert_eq!((tmpfs.device.as_str(), tmpfs.attributes), ("tmpfs", MountAttr::NOEXEC));
        assert_eq!(
            tmpfs.parameters,
            [("size".to_owned(), Some("100m".to_owned())), ("uid".to_owned(), Some("1000".to_owned()))]
        );
        let nfs = parse(&[("type", "nfs"), ("o", "addr=10.0.0.1,rw,nolock"), ("device", ":/export")]);
        let Ok(Backing::Mount(nfs)) = nfs else { panic!("an nfs") };
        assert_eq!(nfs.parameters.len(), 2);
    }

    /// What fsconfig(2) is given, in order: `key=value`, or `key` alone.
    fn told(pairs: &[(&str, &str)]) -> String {
        let Ok(Backing::Mount(foreign)) = parse(pairs) else { panic!("{pairs:?}") };
        let address = |host: &str| match host {
            "nas" => Ok("192.0.2.7".parse().unwrap()),
            _ => Err(io::Error::other("no address")),
        };
        let words = match foreign.words(address) {
            Ok(words) => words,
            Err(e) => return e.to_string(),
        };
        let word = |(k, v): (String, Option<String>)| v.map_or(k.clone(), |v| format!("{k}={v}"));
        words.into_iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn servers_are_told_by_their_addresses() {
        let nfs = |device: &str, o: &str| told(&[("type", "nfs"), ("device", device), ("o", o)]);
        // Docker's way, and the shorter one.
        assert_eq!(nfs(":/export", "addr=nas,rw,nolock,vers=4"), "source=:/export addr=192.0.2.7 nolock vers=4");
        assert_eq!(nfs("nas:/export", "soft"), "source=nas:/export soft addr=192.0.2.7");
        assert_eq!(nfs("[2001:db8::1]:/export", ""), "source=[2001:db8::1]:/export addr=2001:db8::1");
        assert_eq!(nfs(":/export", "addr=10.0.0.1"), "source=:/export addr=10.0.0.1");
        assert_eq!(nfs("gone:/export", ""), "no address");
        let cifs = |o: &str| told(&[("type", "cifs"), ("device", "//nas/share"), ("o", o)]);
        let login = "username=me,password=a b,vers=3.0,file_mode=0644,noperm,ro";
        let words = "source=//nas/share username=me password=a b vers=3.0 file_mode=0644 noperm addr=192.0.2.7";
        assert_eq!(cifs(login), words, "ro is the mount's");
        assert_eq!(cifs("addr=nas"), "source=//nas/share addr=192.0.2.7");
        assert_eq!(cifs("ip=10.0.0.9"), "source=//nas/share ip=10.0.0.9");
        assert_eq!(told(&[("type", "tmpfs"), ("o", "size=1m")]), "source=tmpfs size=1m");
    }

    #[test]
    fn secrets_are_left_out_for_those_who_look() {
        let shown = |key: &str, value: &str| {
            let options = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            without_secrets(&options).remove(key).unwrap()
        };
        let login = "username=me,password=a=b, PassWD=x,pass2=y,vers=3.0,credentials=/root/smb,ro,key_serial=7";
        let hidden = "username=me,password=***, PassWD=***,pass2=***,vers=3.0,credentials=***,ro,key_serial=***";
        assert_eq!(shown("o", login), hidden);
        assert_eq!(shown("o", "name=admin,secretfile=/etc/ceph/secret"), "name=admin,secretfile=***");
        assert_eq!(shown("o", "user=me%topsecret,domain=X"), "user=me%***,domain=X");
        for plain in ["size=2m,uid=1000,mode=750", "bind,ro", "", "addr=10.0.0.1,sec=krb5,nolock"] {
            assert_eq!(shown("o", plain), plain);
        }
        assert_eq!(shown("device", "//me:topsecret@nas/share"), "//me:***@nas/share");
        assert_eq!(shown("device", "https://me:a@b@dav.example.net"), "https://me:***@dav.example.net");
        for plain in ["//nas/share", "nas:/export", "[2001:db8::1]:/x", "/dev/sdb1", "//me@nas/a:b@c", ":/srv"] {
            assert_eq!(shown("device", plain), plain);
        }
        assert_eq!(shown("size", "10g"), "10g");
    }

    #[test]
    fn bad_ones_are_all_told() {
        assert_eq!(parse(&[("colour", "red"), ("size", "1")]), Err(vec!["colour".into(), "size".into()]));
        assert_eq!(parse(&[("size", "1g"), ("type", "tmpfs")]), Err(vec!["size".into()]));
        assert_eq!(parse(&[("size", "1g"), ("backing", "zfs")]), Err(vec!["backing".into()]));
        assert_eq!(parse(&[("backing", "loop")]), Err(vec!["backing".into()]));
        assert_eq!(parse(&[("device", "/x")]), Err(vec!["type".into()]));
        assert_eq!(parse(&[("type", "nfs")]), Err(vec!["device".into()]));
        let bind = [("type", "none"), ("o", "bind,noexec"), ("device", "/a/../etc")];
        assert_eq!(parse(&bind), Err(vec!["device".into(), "o".into()]));
        assert_eq!(parse(&[("type", "none"), ("device", "/a")]), Err(vec!["type".into()]));
        for bad in ["", "x", "-1", "1e9", "99999999999999999999", "17t"] {
            assert_eq!(parse(&[("size", bad)]), Err(vec!["size".into()]), "{bad}");
        }
    }

    /// xorshift64: the same sequence in every run.
    fn random(state: &mut u64, below: u64) -> u64 {
        for (left, by) in [(true, 13), (false, 7), (true, 17)] {
            *state ^= if left { *state << by } else { *state >> by };
        }
        *state % below
    }

    #[test]
    fn sizes_are_what_is_written() {
        let mut seed = 0x9e37_79b9_7f4a_7c15;
        let mut next = |below: u64| random(&mut seed, below);
        for _ in 0..20_000 {
            let (digits, n) = (1 + next(19), next(u64::MAX));
            let n = n % 10_u64.pow(digits as u32);
            let (unit, factor) =
                [("", 1), ("k", 1 << 10), ("M", 1 << 20), ("gb", 1 << 30), ("T", 1u64 << 40)][next(5) as usize];
            let text = format!("{n}{unit}");
            assert_eq!(bytes(&text), n.checked_mul(factor), "{text}");
            let fits = n.checked_mul(factor).filter(|b| (LEAST_BYTES..=MOST_BYTES).contains(b));
            assert_eq!(parse(&[("size", &text)]).ok(), fits.map(|bytes| Backing::Disk { bytes }), "{text}");
        }
    }

    #[test]
    fn whatever_is_asked_for_is_answered_within_bounds() {
        let mut seed = 0x2545_f491_4f6c_dd1d;
        let mut next = |below: u64| random(&mut seed, below);
        let parts = [
            "tmpfs", "none", "bind", "rbind", "nfs", "/", "..", "/srv", ",", "=", "ro", "addr", "size", "8m", "1",
            "\n", "é", ":", " ",
        ];
        for _ in 0..50_000 {
            let mut options = BTreeMap::new();
            for _ in 0..next(4) {
                let key = ["type", "device", "o", "size", "other", "backing"][next(6) as usize];
                let value: String = (0..next(7)).map(|_| parts[next(parts.len() as u64) as usize]).collect();
                options.insert(key.to_owned(), value);
            }
            let control = options.values().any(|v| v.chars().any(char::is_control));
            match Backing::parse(&options) {
                Err(wrong) => assert!(!wrong.is_empty(), "{options:?}"),
                Ok(_) if control || options.contains_key("other") => panic!("{options:?}"),
                Ok(Backing::Folder) => assert!(options.values().all(String::is_empty), "{options:?}"),
                Ok(Backing::Quota { .. }) => panic!("{options:?}"),
                Ok(Backing::Disk { bytes }) => assert!((LEAST_BYTES..=MOST_BYTES).contains(&bytes), "{options:?}"),
                Ok(Backing::Bind { path, .. }) => {
                    assert!(path.starts_with('/') && !path.split('/').any(|p| p == ".."), "{options:?}");
                }
                Ok(Backing::Mount(f)) => assert!(f.fs_type != "none" && !f.device.is_empty(), "{options:?}"),
            }
        }
    }
}
