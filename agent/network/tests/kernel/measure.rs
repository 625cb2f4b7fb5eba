//! How long networks take. A measurement, no test.

use super::*;

/// `cargo test --release -p berth-network --test kernel -- --ignored --nocapture measure`
#[test]
#[ignore = "a measurement"]
fn measure() {
    on_a_host(|| {
        const RUNS: usize = 200;
        let networks = Networks::open(config(20)).unwrap();
        for (what, ports) in [("no port", vec![]), ("one port", vec![port(0, 80, Protocol::Tcp)])] {
            let (mut attach, mut detach) = (Vec::new(), Vec::new());
            for _ in 0..RUNS {
                let id = id();
                let start = Instant::now();
                let attached = networks.attach(&id, &ports).unwrap();
                attach.push(start.elapsed());
                // A start's pace: the maker of namespaces has a moment.
                thread::sleep(Duration::from_millis(10));
                let start = Instant::now();
                networks.detach(&id, &attached.attachments).unwrap();
                detach.push(start.elapsed());
            }
            attach.sort();
            detach.sort();
            println!(
                "{what}: attach median {:?} p95 {:?}, detach median {:?} p95 {:?}",
                attach[RUNS / 2],
                attach[RUNS * 95 / 100],
                detach[RUNS / 2],
                detach[RUNS * 95 / 100]
            );
        }
        let mut none = Vec::new();
        for _ in 0..RUNS {
            let start = Instant::now();
            let namespace = networks.loopback_only().unwrap();
            none.push(start.elapsed());
            thread::sleep(Duration::from_millis(5));
            drop(namespace);
        }
        none.sort();
        println!("loopback only: median {:?} p95 {:?}", none[RUNS / 2], none[RUNS * 95 / 100]);
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        let id = id();
                        let attached = networks.attach(&id, &[]).unwrap();
                        networks.detach(&id, &attached.attachments).unwrap();
                    }
                });
            }
        });
        println!("8 callers: {:.0} attaches per second", 200.0 / start.elapsed().as_secs_f64());
    });
}
