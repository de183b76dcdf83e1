//! Scripts by chance: several sessions at work on few nodes, so that they meet.

use super::peer::Release;
use super::script::Scenario;
use crate::rng::Rng;

const NAMES: [&str; 3] = ["a", "b", "c"];
const SESSIONS: [&str; 4] = ["a", "b", "c", "d"];
const ACLS: [&str; 4] =
    ["world:anyone:rwcda", "world:anyone:rcda", "digest:u:hash:rwcda,world:anyone:r", "world:anyone:rwcd"];

/// A script of so many steps, in which `release` answers as every later one does.
pub fn random_script(release: Release, chance: &mut Rng, steps: usize) -> Scenario {
    let mut script = Scenario { name: format!("{steps} random steps"), steps: Vec::new(), only: None };
    while script.steps.len() < steps {
        let step = step(release, chance);
        script.steps.push(step);
    }
    script
}

fn pick<'a>(chance: &mut Rng, from: &[&'a str]) -> &'a str {
    from[usize::try_from(chance.below(from.len() as u64)).unwrap_or(0)]
}

/// A path of up to three names.
fn path(chance: &mut Rng) -> String {
    let depth = 1 + chance.below(3);
    (0..depth).map(|_| format!("/{}", pick(chance, &NAMES))).collect()
}

fn version(chance: &mut Rng) -> String {
    match chance.below(4) {
        0 => format!(" v={}", chance.below(4)),
        _ => String::new(),
    }
}

fn data(chance: &mut Rng) -> String {
    match chance.below(8) {
        0 => " none".to_owned(),
        1 => " data=".to_owned(),
        _ => format!(" data={}", chance.below(1000)),
    }
}

fn create(chance: &mut Rng) -> String {
    let op = pick(chance, &["create", "create2", "create", "create2", "container", "ttl"]);
    let flags = match op {
        "container" => String::new(),
        "ttl" => format!(" flags={} ttl={}", 5 + chance.below(2), 1_000_000 + chance.below(10)),
        _ => format!(" flags={}", [0, 0, 0, 1, 2, 3, 7][usize::try_from(chance.below(7)).unwrap_or(0)]),
    };
    let acl = match chance.below(8) {
        0 => format!(" acl={}", pick(chance, &ACLS)),
        _ => String::new(),
    };
    format!("{op} {}{}{flags}{acl}", path(chance), data(chance))
}

fn change(chance: &mut Rng) -> String {
    match chance.below(4) {
        0 => format!("check {}{}", path(chance), version(chance)),
        _ => change_alone(chance),
    }
}

/// Several at once: their answers come in order, each as if it came alone.
fn pipe(chance: &mut Rng) -> String {
    let ask = |chance: &mut Rng| match chance.below(6) {
        0 => "sync /".to_owned(),
        1 => format!("get {}", path(chance)),
        2 => format!("ls2 {}", path(chance)),
        _ => change_alone(chance),
    };
    let count = 2 + chance.below(5);
    let asked: Vec<String> = (0..count).map(|_| ask(chance)).collect();
    format!("pipe {}", asked.join(" ; "))
}

fn change_alone(chance: &mut Rng) -> String {
    match chance.below(3) {
        0 => create(chance),
        1 => format!("delete {}{}", path(chance), version(chance)),
        _ => format!("set {}{}{}", path(chance), data(chance), version(chance)),
    }
}

fn step(release: Release, chance: &mut Rng) -> String {
    let who = pick(chance, &SESSIONS);
    // Before 3.9 a session's persistent watches and its others on one path replace
    // each other: a session has either these or those, and of one kind.
    let lasting = match who {
        "c" => Some(0),
        "d" => Some(1),
        _ => None,
    };
    let watch = |chance: &mut Rng| match lasting {
        None if chance.below(3) == 0 => " watch",
        _ => "",
    };
    let what = match chance.below(100) {
        0..8 => pipe(chance),
        8..30 => create(chance),
        30..42 => format!("delete {}{}", path(chance), version(chance)),
        42..54 => format!("set {}{}{}", path(chance), data(chance), version(chance)),
        54..62 => format!("get {}{}", path(chance), watch(chance)),
        62..70 => format!("exists {}{}", path(chance), watch(chance)),
        70..76 => format!("ls2 {}{}", path(chance), watch(chance)),
        76..78 => format!("ls {}{}", path(chance), watch(chance)),
        78..86 => {
            let count = 1 + chance.below(4);
            let ops: Vec<String> = (0..count).map(|_| change(chance)).collect();
            let multi = format!("multi {}", ops.join(" ; "));
            match release {
                // It answers without the Stat, and a flag that is unknown spoils one part only.
                Release::V3_8 => multi.replace("create2", "create").replace(" flags=7", ""),
                Release::V3_9 => multi,
            }
        }
        86..88 => {
            format!("mread get {}{} ; ls {}{}", path(chance), watch(chance), path(chance), watch(chance))
        }
        88..90 => format!("getacl {}", path(chance)),
        90..92 => format!("setacl {} acl={}{}", path(chance), pick(chance, &ACLS), version(chance)),
        92..95 => match lasting {
            Some(mode) => format!("addwatch {} mode={mode}", path(chance)),
            None => format!("removewatch {} type={}", path(chance), 1 + chance.below(3)),
        },
        95..96 => "ephemerals /".to_owned(),
        96..97 => format!("count {}", path(chance)),
        97..98 => format!("resume server={}", chance.below(3)),
        // Not `checkwatch`: before 3.9 it finds other sessions' watches.
        98..99 => format!("count {}", path(chance)),
        _ => "sync /".to_owned(),
    };
    format!("{who} {what}")
}
