use super::*;
use serde_json::json;
use std::fs;
use std::os::unix::fs::MetadataExt;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let dir = std::env::temp_dir().join(format!("berth-cdi-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Folder(dir)
    }

    fn put(&self, name: &str, text: &str) -> &Self {
        fs::write(self.0.join(name), text).unwrap();
        self
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What whoever runs the tests has made is believed here, as root's is elsewhere.
fn read(folders: &[PathBuf]) -> Registry {
    Registry::read_of(folders, me())
}

fn me() -> u32 {
    fs::metadata("/proc/self").unwrap().uid()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn file(kind: &str, device: &str, edits: serde_json::Value) -> String {
    json!({"cdiVersion": "0.6.0", "kind": kind, "devices": [{"name": device, "containerEdits": edits}],
        "containerEdits": {"env": ["ALL=1"]}})
    .to_string()
}

#[test]
fn edits_of_a_kind_come_once_and_those_of_devices_each() {
    let folder = Folder::new("edits");
    folder.put(
        "v.yaml",
        "cdiVersion: \"0.5.0\"\nkind: vendor.com/gpu\nannotations: {a: b}\ndevices:\n- name: \"0\"\n  containerEdits:\n    deviceNodes:\n    - path: /dev/gpu0\n      \
         hostPath: /dev/zero\n      permissions: rw\n    env: [ONE=1]\n- name: all\n  containerEdits:\n    deviceNodes:\n    - {path: /dev/gpu0, hostPath: /dev/zero, \
         permissions: rw}\n    - {path: /dev/gpu1, hostPath: /dev/full}\ncontainerEdits:\n  env: [ALL=1]\n  mounts:\n  - hostPath: /usr/lib/a.so\n    containerPath: \
         /usr/lib/a.so\n    options: [ro, nosuid, nodev, bind]\n",
    );
    let registry = read(std::slice::from_ref(&folder.0));
    assert_eq!(registry.broken, Vec::<String>::new());
    assert_eq!(registry.names(), ["vendor.com/gpu=0", "vendor.com/gpu=all"]);
    let edits = registry.edits(&[name("vendor.com/gpu=0"), name("vendor.com/gpu=all")], false).unwrap();
    assert_eq!(edits.env, ["ALL=1", "ONE=1"]);
    assert_eq!(edits.mounts.len(), 1);
    let nodes: Vec<&str> = edits.device_nodes.iter().map(|n| n.path.as_str()).collect();
    assert_eq!(nodes, ["/dev/gpu0", "/dev/gpu1"]);
}

#[test]
fn later_folders_go_first_and_equals_are_refused() {
    let (etc, run) = (Folder::new("etc"), Folder::new("run"));
    etc.put("a.json", &file("v.com/x", "d", json!({"env": ["FROM=etc"]})));
    run.put("a.json", &file("v.com/x", "d", json!({"env": ["FROM=run"]})));
    let folders = [etc.0.clone(), run.0.clone()];
    assert_eq!(read(&folders).edits(&[name("v.com/x=d")], false).unwrap().env, ["ALL=1", "FROM=run"]);
    run.put("b.json", &file("v.com/x", "d", json!({})));
    let twice = read(&folders).edits(&[name("v.com/x=d")], false).unwrap_err().to_string();
    assert!(twice.contains("a.json") && twice.contains("b.json"), "{twice}");
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    let cases = [
        (json!({"hooks": [{"hookName": "createContainer", "path": "/bin/hook", "args": ["hook"]}]}), "--runtime"),
        (json!({"intelRdt": {"closID": "x"}}), "intelRdt"),
        (json!({"netDevices": [{"hostInterfaceName": "eth1", "name": "net0"}]}), "netDevices"),
        (json!({"mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "tmpfs"}]}), "tmpfs"),
        (json!({"mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["noexec"]}]}), "noexec"),
        (json!({"mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["nodev"]}]}), "nodev"),
    ];
    for (n, (edits, word)) in cases.into_iter().enumerate() {
        let folder = Folder::new(&format!("unsupported{n}"));
        folder.put("a.json", &file("v.com/x", "d", edits));
        let registry = read(std::slice::from_ref(&folder.0));
        let error = registry.edits(&[name("v.com/x=d")], false).expect_err(word).to_string();
        assert!(error.contains(word) && error.contains("a.json"), "{error}");
    }
}

#[test]
fn hooks_are_for_who_runs_them() {
    let folder = Folder::new("hooks");
    let hook = |at: &str| json!({"hooks": [{"hookName": at, "path": "/bin/hook", "env": ["A=b"], "timeout": 3}]});
    folder.put("a.json", &file("v.com/x", "d", hook("createContainer")));
    let registry = read(std::slice::from_ref(&folder.0));
    let hooks = registry.edits(&[name("v.com/x=d")], true).unwrap().hooks;
    assert_eq!((&*hooks[0].path, &*hooks[0].env, hooks[0].timeout), ("/bin/hook", &["A=b".to_owned()][..], Some(3)));
    for (text, word) in [
        (hook("later").to_string(), "hooks[0].hookName"),
        (hook("poststop").to_string().replace("/bin", "bin"), "hooks[0].path"),
        (hook("poststop").to_string().replace(":3", ":0"), "hooks[0].timeout"),
    ] {
        let spec = file("v.com/x", "d", serde_json::from_str(&text).unwrap());
        assert!(parse(&spec, false).unwrap_err().contains(word), "{text}");
    }
}

#[test]
fn broken_files_are_named_and_keep_nobody_from_the_others() {
    let folder = Folder::new("broken");
    let wrong = [
        ("json.json", "{", "EOF"),
        ("version.json", r#"{"cdiVersion":"9.0.0","kind":"a/b","devices":[]}"#, "cdiVersion"),
        ("kind.json", r#"{"cdiVersion":"0.6.0","kind":"ab","devices":[]}"#, "kind"),
        ("field.json", r#"{"cdiVersion":"0.6.0","kind":"a/b","devices":[],"more":1}"#, "more"),
        (
            "path.yaml",
            "cdiVersion: 0.6.0\nkind: a/b\ndevices: [{name: c, containerEdits: {deviceNodes: [{path: ../x}]}}]\n",
            "path",
        ),
        (
            "env.json",
            r#"{"cdiVersion":"0.6.0","kind":"a/b","devices":[{"name":"c","containerEdits":{"env":["X"]}}]}"#,
            "env",
        ),
        ("bomb.yaml", "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b]\n", "bomb"),
    ];
    for (name, text, _) in wrong {
        folder.put(name, text);
    }
    folder.put("good.json", &file("v.com/x", "d", json!({}))).put("not.txt", "{");
    let registry = read(std::slice::from_ref(&folder.0));
    assert_eq!(registry.broken.len(), wrong.len(), "{:?}", registry.broken);
    for (name, _, word) in wrong {
        assert!(registry.broken.iter().any(|b| b.contains(name) && b.contains(word)), "{name}: {:?}", registry.broken);
    }
    assert_eq!(registry.edits(&[name("v.com/x=d")], false).unwrap().env, ["ALL=1"]);
    let unknown = registry.edits(&[name("v.com/x=e")], false).unwrap_err().to_string();
    assert!(unknown.contains("v.com/x=d") && unknown.contains("json.json"), "{unknown}");
}

#[test]
fn files_that_others_may_write_are_not_believed() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("mode");
    folder.put("a.json", &file("v.com/x", "d", json!({})));
    fs::set_permissions(folder.0.join("a.json"), fs::Permissions::from_mode(0o666)).unwrap();
    let registry = read(std::slice::from_ref(&folder.0));
    assert!(
        registry.edits(&[name("v.com/x=d")], false).is_err() && registry.broken[0].contains("chmod"),
        "{:?}",
        registry.broken
    );
}

#[test]
fn what_belongs_to_others_is_not_believed() {
    let folder = Folder::new("owner");
    folder.put("a.json", &file("v.com/x", "d", json!({})));
    let of = |owner| {
        let registry = Registry::read_of(std::slice::from_ref(&folder.0), owner);
        (registry.names(), registry.broken)
    };
    assert_eq!(of(me()), (vec!["v.com/x=d".to_owned()], Vec::new()));
    // The folder: who owns that puts files there.
    let (names, broken) = of(me() + 1);
    assert!(names.is_empty() && broken[0].contains(&format!("{}: belongs to user", folder.0.display())), "{broken:?}");
    // A file: only root gives one away.
    if std::os::unix::fs::chown(folder.0.join("a.json"), Some(me() + 1), None).is_ok() {
        let (names, broken) = of(me());
        assert!(names.is_empty() && broken[0].contains("a.json: belongs to user"), "{broken:?}");
    }
}

#[test]
fn folders_that_others_may_write_are_not_believed() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("open");
    folder.put("a.json", &file("v.com/x", "d", json!({})));
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o777)).unwrap();
    let registry = read(std::slice::from_ref(&folder.0));
    assert!(registry.names().is_empty() && registry.broken[0].contains("chmod go-w"), "{:?}", registry.broken);
}

#[test]
fn a_pipe_keeps_nobody_waiting() {
    let folder = Folder::new("pipe");
    folder.put("good.json", &file("v.com/x", "d", json!({})));
    let fd = sysfs::open(&folder.0, Open::RDONLY | Open::DIRECTORY, 0).unwrap();
    sysfs::mknodat(fd.as_fd(), "a.json", Kind::Fifo, 0o600, 0, 0).unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    let folders = vec![folder.0.clone()];
    std::thread::spawn(move || send.send(read(&folders)));
    let registry = receive.recv_timeout(std::time::Duration::from_secs(10)).expect("it waits for the pipe");
    assert!(registry.broken[0].contains("a.json: is no file"), "{:?}", registry.broken);
    assert_eq!(registry.names(), ["v.com/x=d"]);
}
