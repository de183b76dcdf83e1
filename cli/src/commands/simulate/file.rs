//! The scenario's file: TOML, read into what the simulation takes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use rota_core::pool::{Affinity, Bucket, Item, Kind, Labels, Member, Spec};
use rota_core::simulation::{Act, Change, Scenario, Timing};
use rota_protocol::http::{PoolChange, PoolCreate};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::args::duration;

/// Most members or items that one line of a scenario makes.
const COUNT_MAX: u32 = 100_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    pool: BTreeMap<String, Value>,
    #[serde(default)]
    timing: TimingTable,
    #[serde(default, rename = "event")]
    events: Vec<Event>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimingTable {
    session_timeout: Option<Span>,
    look: Option<Span>,
    stop: Option<Span>,
    copy: Option<Span>,
}

/// A duration such as `500ms`.
#[derive(Debug, Clone, Copy, Default)]
struct Span(Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        duration(&text).map(Span).map_err(serde::de::Error::custom)
    }
}

impl Span {
    fn ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

/// What happens at one time.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Event {
    at: Span,
    join: Vec<Join>,
    die: Vec<String>,
    leave: Vec<String>,
    drain: Vec<String>,
    undrain: Vec<String>,
    cordon: Vec<String>,
    uncordon: Vec<String>,
    /// Who takes whose place: the one that goes, and the one that comes.
    replace: BTreeMap<String, String>,
    weight: BTreeMap<String, u32>,
    capacity: BTreeMap<String, u32>,
    pool: Option<PoolChange>,
    load: BTreeMap<String, u64>,
    add: Vec<Add>,
    remove: Vec<String>,
}

/// Members that join. With a count, `{}` in the name stands for numbers from `first` on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Join {
    name: String,
    #[serde(default = "one")]
    count: u32,
    #[serde(default = "one")]
    first: u32,
    #[serde(default = "one")]
    weight: u32,
    /// Where they stand, one after the other, and then from the first again.
    #[serde(default)]
    zones: Vec<String>,
    #[serde(default)]
    labels: Labels,
    capacity: Option<u32>,
    #[serde(default)]
    cordoned: bool,
}

/// Items that there are from now on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    name: String,
    #[serde(default = "one")]
    count: u32,
    #[serde(default = "one")]
    first: u32,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default)]
    require: Labels,
    #[serde(default)]
    prefer: Labels,
}

fn one() -> u32 {
    1
}

/// A scenario, and what each of its events says.
pub(super) struct Told {
    pub(super) scenario: Scenario,
    pub(super) words: Vec<String>,
}

/// Reads a scenario.
pub(super) fn read(text: &str) -> anyhow::Result<Told> {
    let file: File = toml::from_str(text)?;
    let mut pool: serde_json::Map<String, Value> = file.pool.into_iter().collect();
    pool.entry("name").or_insert_with(|| "simulated".into());
    pool.entry("kind").or_insert_with(|| "hashed".into());
    let create = PoolCreate::try_from(pool).context("[pool]")?;
    let mut spec = create.spec().context("[pool]")?;
    spec.check().context("[pool]")?;
    let (timing, default) = (file.timing, Timing::default());
    let timing = Timing {
        session_timeout_ms: timing.session_timeout.map_or(default.session_timeout_ms, Span::ms),
        look_ms: timing.look.map_or(default.look_ms, Span::ms),
        stop_ms: timing.stop.map_or(default.stop_ms, Span::ms),
        copy_ms: timing.copy.map_or(default.copy_ms, Span::ms),
    };
    let first = spec.clone();
    if file.events.is_empty() {
        bail!("nothing happens: the scenario has no [[event]]");
    }
    let (mut events, mut words) = (Vec::new(), Vec::new());
    for event in file.events {
        let at_ms = event.at.ms();
        if events.last().is_some_and(|(last, _)| *last >= at_ms) {
            bail!("an [[event]] at {:?} stands behind a later one: put them in order", event.at.0);
        }
        let (acts, said) = acts(event, &mut spec).with_context(|| format!("[[event]] at {at_ms} ms"))?;
        events.push((at_ms, acts));
        words.push(said);
    }
    Ok(Told { scenario: Scenario { spec: first, timing, events }, words })
}

fn names(name: &str, count: u32, first: u32) -> anyhow::Result<Vec<String>> {
    if count == 0 || count > COUNT_MAX {
        bail!("{name:?}: count is {count}: it must be from 1 to {COUNT_MAX}");
    }
    if count > 1 && !name.contains("{}") {
        bail!("{name:?}: a name for {count} needs {{}} where the number goes");
    }
    Ok((first..first.saturating_add(count)).map(|number| name.replace("{}", &number.to_string())).collect())
}

fn acts(event: Event, spec: &mut Spec) -> anyhow::Result<(Vec<Act>, String)> {
    let (mut acts, mut said) = (Vec::new(), Vec::new());
    if let Some(change) = event.pool {
        let next = change.applied(spec)?;
        spec.check_change(&next)?;
        *spec = next;
        acts.push(Act::Spec(spec.clone()));
        said.push("the pool changes".to_owned());
    }
    for add in event.add {
        if spec.kind != Kind::Named {
            bail!("items are added to a hashed pool: only one of kind \"named\" has items");
        }
        let affinity = Affinity { require: add.require, prefer: add.prefer };
        let item = Item { weight: add.weight, affinity, ..Item::default() };
        item.check()?;
        let names = names(&add.name, add.count, add.first)?;
        said.push(format!("{} items", names.len()));
        acts.extend(names.into_iter().map(|name| Act::AddItem(name, item.clone())));
    }
    for join in event.join {
        let names = names(&join.name, join.count, join.first)?;
        said.push(some("join", &names));
        for (at, name) in names.into_iter().enumerate() {
            let zone = if join.zones.is_empty() { "" } else { &join.zones[at % join.zones.len()] };
            let member = Member {
                weight: join.weight,
                zone: zone.to_owned(),
                labels: join.labels.clone(),
                capacity: join.capacity,
                cordoned: join.cordoned,
                ..Member::default()
            };
            acts.push(Act::Join(name, member));
        }
    }
    let mut each = |verb: &str, names: Vec<String>, act: &dyn Fn(String) -> Act| {
        if !names.is_empty() {
            said.push(some(verb, &names));
            acts.extend(names.into_iter().map(act));
        }
    };
    let change = |change: fn() -> Change| move |member: String| Act::Change { member, change: change() };
    each("die", event.die, &Act::Die);
    each("leave", event.leave, &Act::Leave);
    each("drain", event.drain, &change(|| Change::Draining(true)));
    each("undrain", event.undrain, &change(|| Change::Draining(false)));
    each("cordon", event.cordon, &change(|| Change::Cordoned(true)));
    each("uncordon", event.uncordon, &change(|| Change::Cordoned(false)));
    each("remove", event.remove, &Act::RemoveItem);
    for (member, by) in event.replace {
        said.push(format!("{by} replaces {member}"));
        acts.push(Act::Change { member, change: Change::Successor(by) });
    }
    for (member, weight) in event.weight {
        said.push(format!("{member} weighs {weight}"));
        acts.push(Act::Change { member, change: Change::Weight(weight) });
    }
    for (member, capacity) in event.capacity {
        said.push(format!("{member} takes {capacity}"));
        acts.push(Act::Change { member, change: Change::Capacity(Some(capacity)) });
    }
    if !event.load.is_empty() {
        said.push("loads change".to_owned());
        acts.extend(event.load.into_iter().map(|(bucket, load)| Act::Load(Bucket::new(&bucket), load)));
    }
    Ok((acts, said.join("; ")))
}

fn some(verb: &str, names: &[String]) -> String {
    match names {
        [one] => format!("{one} {verb}s"),
        [first, .., last] if names.len() > 3 => format!("{first} … {last} ({}) {verb}", names.len()),
        names => format!("{} {verb}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_is_read_whole() {
        let told = read(
            r#"
            [pool]
            buckets = 12
            replicas = 2
            [timing]
            stop = "250ms"
            [[event]]
            join = [{ name = "w{}", count = 4, zones = ["a", "b"] }]
            [[event]]
            at = "1m"
            die = ["w3"]
            weight = { w1 = 2 }
            "#,
        )
        .unwrap();
        assert_eq!((told.scenario.spec.replicas, told.scenario.timing.stop_ms), (2, 250));
        assert_eq!(told.words, ["w1 … w4 (4) join", "w3 dies; w1 weighs 2"]);
        assert_eq!(told.scenario.events[1].0, 60_000);
        let zones = told.scenario.events[0].1.iter().map(|act| match act {
            Act::Join(_, member) => member.zone.clone(),
            other => panic!("{other:?}"),
        });
        assert_eq!(zones.collect::<Vec<_>>(), ["a", "b", "a", "b"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let fault = |text: &str| format!("{:#}", read(text).err().unwrap());
        assert!(fault("").contains("no [[event]]"));
        assert!(fault("[pool]\nbuckts = 3\n[[event]]").contains("buckts"));
        assert!(fault("[pool]\nreplicas = 9\n[[event]]").contains("1 to 7"));
        assert!(fault("[[event]]\nat = \"soon\"").contains("soon"));
        assert!(fault("[[event]]\nat = \"2s\"\n[[event]]\nat = \"1s\"").contains("order"));
        assert!(fault("[[event]]\njoin = [{ name = \"w\", count = 2 }]").contains("{}"));
        assert!(fault("[[event]]\nadd = [{ name = \"i\" }]").contains("named"));
        assert!(fault("[[event]]\nexplode = true").contains("explode"));
    }
}
