use super::*;
use crate::gc::policy::{ContainerRule, ImageRule, Keep, LabelFilter, Watermarks};
use crate::testing::digest;
use berth_model::pattern::LabelPattern;

const DAY: i64 = 86_400 * 1_000_000_000;

/// xorshift64*: the seed is in every failure message.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn time(&mut self) -> Timestamp {
        Timestamp(self.below(100) as i64 * DAY)
    }

    fn labels(&mut self) -> BTreeMap<String, String> {
        let key = ["keep", "tier", "app"][self.below(3) as usize];
        let value = ["a", "b"][self.below(2) as usize];
        if self.one_in(2) { BTreeMap::new() } else { [(key.to_owned(), value.to_owned())].into() }
    }
}

/// Layers are shared by images, images by containers; some are held by creations, pulls and names.
fn picture(r: &mut Random) -> Picture {
    let layers: Vec<LayerFact> = (0..r.below(12))
        .map(|n| LayerFact {
            diff_id: digest(100 + n as u8),
            bytes: 1 + r.below(1000),
            doomed: (!r.one_in(3)).then(|| r.time()),
            counted_on: r.one_in(4),
        })
        .collect();
    let images: Vec<ImageFact> = (0..r.below(8))
        .map(|n| ImageFact {
            id: digest(n as u8),
            tags: (0..r.below(3)).map(|t| format!("image{n}:{t}").parse().unwrap()).collect(),
            layers: layers.iter().filter(|_| r.one_in(3)).map(|l| (l.diff_id.clone(), l.bytes)).collect(),
            labels: r.labels(),
            made: r.time(),
            used: r.time(),
            uses: u32::from(r.one_in(4)),
            hidden: r.one_in(5),
        })
        .collect();
    let mut containers = Vec::new();
    if !images.is_empty() {
        for n in 0..r.below(8) {
            let image = &images[r.below(images.len() as u64) as usize];
            let phases =
                [Phase::Creating, Phase::Created, Phase::Starting, Phase::Running, Phase::Exited, Phase::Removing];
            let created = r.time();
            containers.push(ContainerFact {
                id: ContainerId::from_bytes([n as u8; 32]),
                image: image.id.clone(),
                layers: image.layers.iter().map(|(l, _)| l.clone()).collect(),
                phase: phases[r.below(6) as usize],
                held: r.one_in(4),
                created,
                ended: r.one_in(2).then(|| Timestamp(created.nanos() + DAY)),
                labels: r.labels(),
            });
        }
    }
    let disk_total = 10_000;
    Picture { now: Timestamp(101 * DAY), containers, images, layers, disk_free: r.below(disk_total), disk_total }
}

fn policy(r: &mut Random) -> Policy {
    let basis = |r: &mut Random| if r.one_in(2) { Basis::Made } else { Basis::Used };
    let labels = |r: &mut Random| LabelFilter {
        with: if r.one_in(4) { vec![LabelPattern::parse("tier")] } else { Vec::new() },
        without: if r.one_in(4) { vec![LabelPattern::parse("app=a")] } else { Vec::new() },
    };
    Policy {
        containers: (!r.one_in(3)).then(|| ContainerRule {
            basis: basis(r),
            before: (!r.one_in(3)).then(|| r.time()),
            labels: labels(r),
        }),
        images: (!r.one_in(3)).then(|| ImageRule {
            nameless_only: r.one_in(2),
            basis: basis(r),
            before: (!r.one_in(3)).then(|| r.time()),
            labels: labels(r),
        }),
        pressure: r.one_in(2).then_some(Watermarks { high_percent: 60, low_percent: 30 }),
        layers: !r.one_in(3),
        keep: Keep {
            labels: if r.one_in(2) { vec![LabelPattern::parse("keep")] } else { Vec::new() },
            references: if r.one_in(2) { vec!["image1:*".to_owned()] } else { Vec::new() },
        },
    }
}

#[test]
fn nothing_that_is_referred_to_goes() {
    let mut went = [0; 4];
    for seed in 1..20_000u64 {
        let mut r = Random(seed);
        let (picture, policy) = (picture(&mut r), policy(&mut r));
        let victims = plan(&picture, &policy);
        let gone = |thing: Thing| victims.iter().any(|v| v.thing == thing);
        let left: Vec<&ContainerFact> =
            picture.containers.iter().filter(|c| !gone(Thing::Container(c.id.clone()))).collect();
        for c in &picture.containers {
            if gone(Thing::Container(c.id.clone())) {
                went[0] += 1;
                assert!(matches!(c.phase, Phase::Created | Phase::Exited), "seed {seed}: {c:?}");
                assert!(!c.held && policy.containers.is_some(), "seed {seed}: {c:?}");
                assert!(policy.keep.labels.is_empty() || !c.labels.contains_key("keep"), "seed {seed}: {c:?}");
            }
        }
        let mut left_images = Vec::new();
        for i in &picture.images {
            if !gone(Thing::Image(i.id.clone())) {
                left_images.push(i);
                continue;
            }
            went[1] += 1;
            assert!(!left.iter().any(|c| c.image == i.id), "seed {seed}: a container uses {i:?}");
            assert!(i.uses == 0 && !i.hidden, "seed {seed}: {i:?}");
            assert!(!policy.keeps(i), "seed {seed}: {i:?}");
            let nameless_only = policy.images.as_ref().is_none_or(|rule| rule.nameless_only);
            if policy.pressure.is_none() && nameless_only {
                assert!(i.tags.is_empty(), "seed {seed}: a name leads to {i:?}");
            }
        }
        for l in &picture.layers {
            if gone(Thing::Layer(l.diff_id.clone())) {
                went[2] += 1;
                let has = |i: &&ImageFact| i.layers.iter().any(|(d, _)| *d == l.diff_id);
                assert!(!picture.images.iter().any(|i| has(&i)), "seed {seed}: an image refers to {l:?}");
                assert!(!left.iter().any(|c| c.layers.contains(&l.diff_id)), "seed {seed}: {l:?}");
                assert!(!l.counted_on && policy.layers, "seed {seed}: a pull counts on {l:?}");
            }
        }
        // What images are said to give back is what no image and no container that stays refers to.
        let layers = |images: &[&ImageFact]| -> HashSet<Digest> {
            images.iter().flat_map(|i| i.layers.iter().map(|(l, _)| l.clone())).collect()
        };
        let mut kept = layers(&left_images);
        kept.extend(left.iter().flat_map(|c| c.layers.iter().cloned()));
        let all = layers(&picture.images.iter().collect::<Vec<_>>());
        let size = |d: &Digest| picture.layers.iter().find(|l| l.diff_id == *d).map_or(0, |l| l.bytes);
        let free: u64 = all.difference(&kept).map(size).sum();
        let said: u64 = victims.iter().filter(|v| matches!(v.thing, Thing::Image(_))).map(|v| v.bytes).sum();
        // Hidden images without a container are a moment from their end; they keep their layers until then.
        assert!(said <= free, "seed {seed}: {said} of {free}");
        went[3] += usize::from(said > 0);
    }
    assert!(went.iter().all(|n| *n > 500), "the states are too tame: {went:?}");
}

fn image(n: u8, tag: &str, used_days: i64, layers: &[(u8, u64)]) -> ImageFact {
    ImageFact {
        id: digest(n),
        tags: if tag.is_empty() { Vec::new() } else { vec![tag.parse().unwrap()] },
        layers: layers.iter().map(|(l, b)| (digest(*l), *b)).collect(),
        labels: BTreeMap::new(),
        made: Timestamp(0),
        used: Timestamp(used_days * DAY),
        uses: 0,
        hidden: false,
    }
}

fn gone(victims: &[Victim]) -> Vec<Digest> {
    victims
        .iter()
        .filter_map(|v| match &v.thing {
            Thing::Image(id) => Some(id.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn above_the_high_mark_the_longest_unused_go_first() {
    let images =
        vec![image(1, "new", 9, &[(11, 300)]), image(2, "old", 1, &[(12, 300)]), image(3, "mid", 5, &[(13, 300)])];
    let full = Picture { now: Timestamp(10 * DAY), images, disk_free: 100, disk_total: 1000, ..Picture::default() };
    let pressure = Some(Watermarks { high_percent: 80, low_percent: 50 });
    let policy = Policy { pressure, ..Policy::default() };
    assert_eq!(gone(&plan(&full, &policy)), [digest(2), digest(3)]);
    let keep = Keep { references: vec!["old".to_owned()], ..Keep::default() };
    assert_eq!(gone(&plan(&full, &Policy { keep, ..policy.clone() })), [digest(3), digest(1)]);
    assert_eq!(plan(&Picture { disk_free: 300, ..full }, &policy), [], "below the high mark");
}

#[test]
fn shared_layers_are_given_back_with_the_last_image() {
    let images = vec![image(1, "a", 1, &[(11, 100), (12, 10)]), image(2, "b", 2, &[(11, 100), (13, 20)])];
    let picture = Picture { now: Timestamp(10 * DAY), images, ..Picture::default() };
    let all = Policy { images: Some(ImageRule::default()), ..Policy::default() };
    let victims = plan(&picture, &all);
    assert_eq!(victims.iter().map(|v| v.bytes).collect::<Vec<_>>(), [10, 120]);
    assert_eq!(victims[0].why, "unused for 9 days");
    let nameless =
        Policy { images: Some(ImageRule { nameless_only: true, ..Default::default() }), ..Policy::default() };
    assert_eq!(plan(&picture, &nameless), []);
}

#[test]
fn an_image_counts_as_used_until_its_last_container_goes() {
    let container = ContainerFact {
        id: ContainerId::from_bytes([1; 32]),
        image: digest(1),
        layers: vec![digest(11)],
        phase: Phase::Exited,
        held: false,
        created: Timestamp(0),
        ended: Some(Timestamp(DAY)),
        labels: BTreeMap::new(),
    };
    let picture = Picture {
        now: Timestamp(10 * DAY),
        containers: vec![container],
        images: vec![image(1, "a", 0, &[(11, 100)])],
        ..Picture::default()
    };
    let before = Some(Timestamp(5 * DAY));
    let policy = Policy {
        containers: Some(ContainerRule { basis: Basis::Used, before, ..Default::default() }),
        images: Some(ImageRule { basis: Basis::Used, before, ..Default::default() }),
        ..Policy::default()
    };
    let victims = plan(&picture, &policy);
    assert_eq!(victims.len(), 1, "{victims:?}");
    assert_eq!(victims[0].why, "stopped 9 days ago");
    // Without an age, the image goes with its container at once.
    let now = Policy { images: Some(ImageRule::default()), ..policy };
    assert_eq!(gone(&plan(&picture, &now)), [digest(1)]);
}
