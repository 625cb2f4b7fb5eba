//! The store on a real file: batches, both durabilities, a killed writer, newer and damaged files.

use super::*;
use crate::testing::{TempDir, container_record, image_record};
use berth_model::Phase;
use berth_model::event::EventKind;
use std::io::BufRead;

const BOOT: &str = "boot-1";

fn event(cursor: u64) -> Write {
    Write::Event(Arc::new(Event {
        cursor,
        time: Timestamp(cursor as i64),
        kind: EventKind::Node,
        action: "x".to_owned(),
        subject: "node".to_owned(),
        attributes: Default::default(),
    }))
}

#[tokio::test]
async fn what_is_written_is_there_again() {
    let dir = TempDir::new("store-again");
    let path = dir.path().join("node.db");
    let (store, loaded) = Store::open(&path, BOOT, 100).unwrap();
    assert!(loaded.containers.is_empty() && loaded.clean);
    let mut record = container_record(1);
    let image = Arc::new(image_record(1));
    let tag: Reference = "localhost:5000/a:1".parse().unwrap();
    let request = RequestRow {
        caller: "me".to_owned(),
        id: "r".to_owned(),
        rpc: "Create".to_owned(),
        fingerprint: u64::MAX,
        result: "x".to_owned(),
        time: Timestamp::now(),
    };
    let writes = vec![
        Write::PutContainer(Arc::new(record.clone())),
        Write::PutContainer(Arc::new(container_record(2))),
        Write::PutImage { record: image.clone(), hidden: true },
        Write::PutTag(tag.clone(), image.id.clone()),
        event(7),
        Write::Request(request.clone()),
    ];
    store.write(writes, Durability::Durable).await.unwrap();
    record.phase = Phase::Running;
    store
        .write(
            vec![Write::PutContainer(Arc::new(record.clone())), Write::DeleteContainer(container_record(2).id)],
            Durability::Quick,
        )
        .await
        .unwrap();
    store.close().await.unwrap();
    assert!(matches!(store.write(vec![event(8)], Durability::Quick).await, Err(StoreError::Closed)));

    let (_store, loaded) = Store::open(&path, BOOT, 100).unwrap();
    assert!(loaded.clean);
    assert_eq!(loaded.containers, vec![record]);
    assert_eq!(loaded.images, vec![((*image).clone(), true)]);
    assert_eq!(loaded.tags, vec![(tag, image.id.clone())]);
    assert_eq!(loaded.events.len(), 1);
    assert_eq!(loaded.newest_cursor, 7);
    assert_eq!(loaded.requests, vec![request]);
}

#[tokio::test]
async fn many_writers_share_transactions_and_old_events_go() {
    let dir = TempDir::new("store-many");
    let path = dir.path().join("node.db");
    let (store, _) = Store::open(&path, BOOT, 50).unwrap();
    let mut tasks = Vec::new();
    for cursor in 1..=2000u64 {
        let store = store.clone();
        let durability = if cursor % 10 == 0 { Durability::Durable } else { Durability::Quick };
        tasks.push(tokio::spawn(async move { store.write(vec![event(cursor)], durability).await }));
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    store.close().await.unwrap();
    let (_store, loaded) = Store::open(&path, BOOT, 50).unwrap();
    assert_eq!(loaded.events.last().unwrap().cursor, 2000);
    assert!(loaded.events.len() < 50 + 2 * TRIM_EVERY as usize, "{} events are kept", loaded.events.len());
}

#[tokio::test]
async fn a_second_agent_is_kept_out() {
    let dir = TempDir::new("store-second");
    let path = dir.path().join("node.db");
    let (_store, _) = Store::open(&path, BOOT, 50).unwrap();
    assert!(matches!(Store::open(&path, BOOT, 50), Err(StoreError::Locked { .. })));
}

#[test]
fn a_newer_file_and_a_damaged_one_are_refused() {
    let dir = TempDir::new("store-bad");
    let newer = dir.path().join("newer.db");
    Connection::open(&newer).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = Store::open(&newer, BOOT, 1).err().unwrap();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");

    let noise = dir.path().join("noise.db");
    std::fs::write(&noise, vec![0x5a; 8192]).unwrap();
    let error = Store::open(&noise, BOOT, 1).err().unwrap().to_string();
    assert!(error.contains("noise.db") && error.contains("damaged"), "{error}");

    let row = dir.path().join("row.db");
    {
        let c = connect(&row).unwrap();
        c.execute("INSERT INTO containers (id, json) VALUES ('x', '{\"id\":')", []).unwrap();
    }
    let error = Store::open(&row, BOOT, 1).err().unwrap().to_string();
    assert!(error.contains("containers") && error.contains("damaged"), "{error}");
}

#[tokio::test]
async fn pages_that_rot_are_found_after_a_crash() {
    let dir = TempDir::new("store-rot");
    let path = dir.path().join("node.db");
    {
        let (store, _) = Store::open(&path, BOOT, 10_000).unwrap();
        let writes = (1..2000).map(event).collect();
        store.write(writes, Durability::Durable).await.unwrap();
        store.close().await.unwrap();
    }
    {
        let c = Connection::open(&path).unwrap();
        c.execute("UPDATE meta SET value = '0' WHERE key = 'clean'", []).unwrap();
    }
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xee);
    std::fs::write(&path, bytes).unwrap();
    let error = Store::open(&path, BOOT, 1).err().unwrap();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn a_crash_of_the_host_never_gives_a_cursor_twice() {
    let dir = TempDir::new("store-gap");
    let path = dir.path().join("node.db");
    let (store, _) = Store::open(&path, BOOT, 10).unwrap();
    store.write(vec![event(5)], Durability::Quick).await.unwrap();
    drop(store);
    let (store, loaded) = reopen(&path, BOOT).await;
    assert_eq!(loaded.newest_cursor, 5, "the same boot: nothing can be missing");
    drop(store);
    let (store, loaded) = reopen(&path, "boot-2").await;
    assert_eq!(loaded.newest_cursor, 5 + crate::events::CRASH_GAP);
    drop(store);
    let (_store, loaded) = reopen(&path, "boot-2").await;
    assert_eq!(loaded.newest_cursor, 5 + crate::events::CRASH_GAP, "it stays where it was");
}

/// The writer's thread lets go of the file a moment after the last handle.
async fn reopen(path: &Path, boot: &str) -> (Store, Loaded) {
    for _ in 0..500 {
        match Store::open(path, boot, 10) {
            Err(StoreError::Locked { .. }) => tokio::time::sleep(std::time::Duration::from_millis(2)).await,
            other => return other.unwrap(),
        }
    }
    panic!("the store stays locked");
}

/// Not a test of its own: what the next one kills. It says the number of every write that was acknowledged.
#[tokio::test]
#[ignore = "run by acknowledged_writes_survive_a_kill"]
async fn child_that_writes_until_it_is_killed() {
    let path = std::env::var_os("BERTH_NODE_STORE_TEST").expect("path of the database");
    let (store, _) = Store::open(Path::new(&path), BOOT, 1_000_000).unwrap();
    for cursor in 1.. {
        store.write(vec![event(cursor)], Durability::Quick).await.unwrap();
        println!("wrote {cursor}");
    }
}

#[test]
fn acknowledged_writes_survive_a_kill() {
    let dir = TempDir::new("store-kill");
    let path = dir.path().join("node.db");
    for round in 0..3 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "store::tests::child_that_writes_until_it_is_killed"])
            .env("BERTH_NODE_STORE_TEST", &path)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut last = 0u64;
        while last < 200 + round * 37 {
            let line = lines.next().expect("the child ended early").unwrap();
            if let Some(n) = line.split("wrote ").nth(1) {
                last = n.trim().parse().unwrap();
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some(n) = line.split("wrote ").nth(1)
                && let Ok(n) = n.trim().parse()
            {
                last = n;
            }
        }
        let (_store, loaded) = Store::open(&path, BOOT, 1_000_000).unwrap();
        assert!(!loaded.clean);
        assert!(loaded.newest_cursor >= last, "write {last} was acknowledged, {} is there", loaded.newest_cursor);
        std::fs::remove_file(&path).unwrap();
        let _ = std::fs::remove_file(wal_path(&path));
    }
}

/// A writer whose database takes no more pages, with a reserve beside it.
fn full_writer(dir: &TempDir, records: Vec<ContainerRecord>) -> Writer {
    let path = dir.path().join("node.db");
    let connection = connect(&path).unwrap();
    let mut reserve = Reserve::new(&path);
    reserve.keep();
    let (to_sync, _) = std::sync::mpsc::sync_channel(QUEUE);
    let mut writer = Writer {
        connection,
        to_sync,
        failing: Arc::default(),
        times: Arc::default(),
        event_keep: 100,
        untrimmed: 0,
        reserve,
        path,
        copied: None,
    };
    let writes = records.into_iter().map(|r| Write::PutContainer(Arc::new(r))).collect();
    writer.commit(vec![request(writes).0]);
    let pages: i64 = writer.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    writer.connection.pragma_update(None, "max_page_count", pages).unwrap();
    writer
}

fn request(writes: Vec<Write>) -> (Request, Ack) {
    let (done, ack) = oneshot::channel();
    (Request { writes, durability: Durability::Quick, done }, Ack(ack))
}

/// More than the pages that are there hold.
fn large(mut record: ContainerRecord, phase: Phase) -> Write {
    record.phase = phase;
    record.warnings = vec!["x".repeat(100_000)];
    Write::PutContainer(Arc::new(record))
}

#[tokio::test]
async fn the_reserve_is_for_what_gives_room_alone() {
    let dir = TempDir::new("store-reserve");
    let exited = ContainerRecord { phase: Phase::Exited, ..container_record(1) };
    let running = ContainerRecord { phase: Phase::Running, ..container_record(2) };
    let mut writer = full_writer(&dir, vec![exited.clone(), running.clone()]);
    let kept = || dir.path().join("node.db.reserve").exists();
    assert!(kept());
    // What takes room gets none of it by its company.
    let ((new, new_ack), (gone, gone_ack)) =
        (request(vec![large(container_record(3), Phase::Created)]), request(vec![Write::DeleteVolume("v".to_owned())]));
    writer.commit(vec![new, gone]);
    assert!(new_ack.safe().await.is_err());
    gone_ack.safe().await.unwrap();
    assert!(kept(), "given up for a new container");
    // Nor by what it was before.
    let (renamed, ack) = request(vec![large(exited, Phase::Exited)]);
    writer.commit(vec![renamed]);
    assert!(ack.safe().await.is_err() && kept(), "given up for a change of a stopped container");
    let (ended, _) = request(vec![large(running, Phase::Exited)]);
    writer.commit(vec![ended]);
    assert!(!kept(), "kept at a container's end");
}
