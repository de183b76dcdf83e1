//! The same scripts, played to Rota and to real servers of ZooKeeper, answer alike:
//! every reply, every field of every Stat, every error, every event and its place.

use std::fs;

use rota_tests::zk::{Release, Scenario, Target, ZooKeeper, compare, random_script, scenarios};
use rota_tests::{Cluster, Rng, Settings};

/// How many steps by chance.
const RANDOM_STEPS: usize = 10_000;
/// After so many the tree begins anew, so that a difference is near its cause.
const RANDOM_STEPS_TOGETHER: usize = 500;

/// How often a scenario is begun, if a connection breaks.
const TRIES: u32 = 3;
/// So many differences are enough to begin with.
const DIFFERENCES_MAX: usize = 25;

fn written() -> Vec<Scenario> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().flat_map(|file| scenarios(&fs::read_to_string(file).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rota_answers_as_zookeeper_3_9_does() {
    lockstep(Release::V3_9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rota_answers_as_zookeeper_3_8_does() {
    lockstep(Release::V3_8).await;
}

async fn lockstep(release: Release) {
    let mut all = written();
    assert!(all.len() >= 150, "{} scenarios", all.len());
    all.retain(|scenario| scenario.only.is_none_or(|only| only == release));
    let mut chance = Rng::seeded(&format!("zookeeper_differential {release:?}"));
    for _ in 0..RANDOM_STEPS / RANDOM_STEPS_TOGETHER {
        all.push(random_script(release, &mut chance, RANDOM_STEPS_TOGETHER));
    }
    if let Ok(only) = std::env::var("ROTA_SCENARIO") {
        all.retain(|scenario| scenario.name.contains(&only));
    }
    let flags = ["--super-digest", "super:D/InIHSb7yEEbrWz8b9l71RjZJU="].map(str::to_owned).to_vec();
    let (cluster, zookeeper) = tokio::join!(
        Cluster::start_with(3, Settings { flags, ..Settings::default() }),
        ZooKeeper::start(release)
    );
    let rota = Target {
        name: "rota".into(),
        addresses: cluster.ids().iter().map(|id| cluster.zookeeper(*id)).collect(),
    };
    let real = Target { name: "zookeeper".into(), addresses: zookeeper.addresses().to_vec() };
    let mut differences = Vec::new();
    let mut number = 0;
    for scenario in &all {
        if differences.len() >= DIFFERENCES_MAX {
            differences.push("and perhaps more".to_owned());
            break;
        }
        let mut tries = 0;
        loop {
            number += 1;
            tries += 1;
            match compare(&rota, &real, number, scenario).await {
                Ok(None) => break,
                // A busy machine can cost either of them its leader for a moment.
                Err(error) if tries < TRIES => println!("{}: {error:#}: once more", scenario.name),
                Ok(Some(difference)) => break differences.push(difference),
                Err(error) => break differences.push(format!("{}: {error:#}\n", scenario.name)),
            }
        }
    }
    println!("{} scenarios, {RANDOM_STEPS} steps by chance among them", all.len());
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}
