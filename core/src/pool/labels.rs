//! Labels: what is known of a member, and what work asks of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Member;

/// Keys and values.
pub type Labels = BTreeMap<String, String>;

/// Which members may have a bucket. The zone counts as a label `zone`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Affinity {
    /// Only members with all of these labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub require: Labels,
    /// Of those, only members with all of these labels too, as long as these can take
    /// all that ask for it.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub prefer: Labels,
}

impl Affinity {
    /// What a pool asks for and what one of its items does: both, and where they
    /// contradict each other what the item says.
    #[must_use]
    pub fn of_item(&self, item: &Affinity) -> Self {
        let both = |pool: &Labels, item: &Labels| pool.iter().chain(item).map(clone_pair).collect();
        Self { require: both(&self.require, &item.require), prefer: both(&self.prefer, &item.prefer) }
    }
}

fn clone_pair((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

impl Member {
    /// Whether the member has all of the labels.
    #[must_use]
    pub fn has_labels(&self, labels: &Labels) -> bool {
        labels.iter().all(|(key, value)| match self.labels.get(key) {
            Some(own) => own == value,
            None => key == "zone" && self.zone == *value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn all_must_be_there_and_the_zone_is_one() {
        let member = Member {
            zone: "a".to_owned(),
            labels: labels(&[("exit", "b"), ("ssd", "yes")]),
            ..Member::default()
        };
        assert!(member.has_labels(&labels(&[])));
        assert!(member.has_labels(&labels(&[("exit", "b"), ("zone", "a")])));
        assert!(!member.has_labels(&labels(&[("exit", "b"), ("ssd", "no")])));
        assert!(!member.has_labels(&labels(&[("zone", "b")])));
        assert!(!member.has_labels(&labels(&[("rack", "")])));
    }

    #[test]
    fn an_item_adds_to_what_its_pool_asks_for() {
        let pool = Affinity { require: labels(&[("exit", "a"), ("ssd", "yes")]), prefer: Labels::new() };
        let item = Affinity { require: labels(&[("exit", "b")]), prefer: labels(&[("zone", "z")]) };
        let both = pool.of_item(&item);
        assert_eq!(both.require, labels(&[("exit", "b"), ("ssd", "yes")]));
        assert_eq!(both.prefer, labels(&[("zone", "z")]));
    }
}
