//! Debian's PostgreSQL on a volume: what was committed is there, whatever becomes of the container, the database and the agent.

use crate::harness::{Node, image, until};
use std::process::Stdio;

const DATA: &str = "pgdata:/var/lib/postgresql/data";

fn run(node: &Node) {
    node.ok(&["run", "-d", "--name", "db", "--network", "back", "--shm-size", "64m", "-v", DATA, &image("postgres")]);
    ready(node);
}

fn ready(node: &Node) {
    until("the database answers", || node.ctl(&["exec", "db", "psql", "-qAtc", "select 1"]).code == 0);
}

fn sql(node: &Node, text: &str) -> String {
    node.ok(&["exec", "db", "psql", "-qAtc", text])
}

#[test]
fn rows_outlive_container_database_and_agent() {
    let mut node = Node::start("database");
    let bridge = format!("com.docker.network.bridge.name={}u", node.slot.bridge());
    node.ok(&["network", "create", "--opt", &bridge, "back"]);
    run(&node);
    // The volume came from the image, with the owner that the image's folder has.
    assert_eq!(node.ok(&["exec", "db", "stat", "-c", "%U %a", "/var/lib/postgresql/data"]), "postgres 700");
    sql(
        &node,
        "create table t (n int primary key, text text); insert into t select n, repeat('x', 200) from generate_series(1, 5000) n",
    );
    // By name, from another container of its network.
    let client =
        ["run", "--rm", "--network", "back", &image("postgres"), "psql", "-h", "db", "-qAtc", "select count(*) from t"];
    assert_eq!(node.ok(&client), "5000");
    node.ok(&["rm", "-f", "db"]);
    run(&node);
    assert_eq!(sql(&node, "select count(*), sum(n) from t"), "5000|12502500");

    // The agent dies in the middle of a transaction, which neither notices.
    let mut writer = node
        .ctl_command(&[
            "exec",
            "-d",
            "db",
            "psql",
            "-qc",
            "begin; insert into t select n, '' from generate_series(5001, 6000) n; select pg_sleep(2); commit",
        ])
        .stdout(Stdio::null())
        .spawn()
        .expect("ctl");
    assert!(writer.wait().expect("wait").success());
    node.kill_agent();
    node.spawn();
    until("the transaction ends", || sql(&node, "select count(*) from t") == "6000");

    // The database dies behind a commit: it recovers from its own log on the volume.
    for round in 0..3 {
        sql(
            &node,
            &format!(
                "insert into t select n, 'round {round}' from generate_series({0} + 1, {0} + 500) n",
                6000 + round * 500
            ),
        );
        node.ok(&["kill", "db"]);
        until("it has ended", || node.inspect("db")["State"]["Status"] == "exited");
        node.ok(&["start", "db"]);
        ready(&node);
        assert_eq!(sql(&node, "select count(*) from t"), (6500 + round * 500).to_string());
        let log = node.ctl(&["logs", "db"]);
        assert!(log.stderr.contains("not properly shut down; automatic recovery in progress"), "{}", log.stderr);
    }
    // Both at once, and a new container on what they left.
    sql(&node, "insert into t values (100000, 'the last')");
    node.kill_agent();
    let pid = node_pid(&node);
    crate::harness::agent::signal(pid, "KILL");
    node.spawn();
    node.ok(&["rm", "-f", "db"]);
    run(&node);
    assert_eq!(sql(&node, "select count(*), max(n) from t"), "7501|100000");
    node.ok(&["rm", "-f", "db"]);
    until("nobody has it", || node.ctl(&["volume", "rm", "pgdata"]).code == 0);
    node.ok(&["network", "rm", "back"]);
    node.finish();
}

/// The database's first process, found without the agent: the server whose working folder is the volume's.
fn node_pid(node: &Node) -> u32 {
    let volume = node.data().join("volumes/pgdata");
    let file = volume.join("_data/postmaster.pid");
    assert!(file.exists(), "{}", file.display());
    let parent = format!("/{}/", node.slot.cgroup_parent());
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let read = |pid: u32, name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let mut servers = pids.filter(|pid| {
        read(*pid, "cgroup").contains(&parent) && read(*pid, "cmdline").replace('\0', " ").starts_with("postgres -D")
    });
    servers.next().expect("a server")
}
