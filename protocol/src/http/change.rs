//! Planned events over HTTP: changes of members, and what would come of them.

use std::collections::BTreeMap;

use rota_core::pool::{Labels, Member};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::pool::present;
use super::{JoinPool, PoolChange};

/// Changes members, all at once. What is left out stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MembersChange {
    /// Which, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    /// Which, by labels: those that have all of these, besides those that are named.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Empty them: they get no bucket and give back those that they have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<bool>,
    /// Give them no more buckets than they have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordoned: Option<bool>,
    /// While they are emptied: the member that is to get what they have; null for whoever.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub successor: Option<Option<String>>,
    /// Their share of the work, relative to the other members' weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Most buckets that they take; null for as many as are their share.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub capacity: Option<Option<u32>>,
}

impl MembersChange {
    /// What it takes for `by` to take `member`'s place.
    #[must_use]
    pub fn replacing(member: &str, by: &str) -> [Self; 2] {
        let emptied = Self {
            members: vec![member.to_owned()],
            draining: Some(true),
            successor: Some(Some(by.to_owned())),
            ..Self::default()
        };
        let takes = Self {
            members: vec![by.to_owned()],
            draining: Some(false),
            cordoned: Some(false),
            ..Self::default()
        };
        [emptied, takes]
    }

    /// Whether a member is meant.
    #[must_use]
    pub fn selects(&self, name: &str, member: &Member) -> bool {
        let by_labels = !self.labels.is_empty() && member.has_labels(&self.labels);
        by_labels || self.members.iter().any(|named| named == name)
    }

    /// What becomes of a member.
    #[must_use]
    pub fn applied(&self, member: &Member) -> Member {
        Member {
            draining: self.draining.unwrap_or(member.draining),
            cordoned: self.cordoned.unwrap_or(member.cordoned),
            successor: self.successor.clone().unwrap_or_else(|| member.successor.clone()),
            weight: self.weight.unwrap_or(member.weight),
            capacity: self.capacity.unwrap_or(member.capacity),
            ..member.clone()
        }
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let (members, labels) = (self.members.clone(), self.labels.clone());
        *self == Self { members, labels, ..Self::default() }
    }
}

/// Changes that are not made, only planned: what would come of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanPreview {
    /// Another spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolChange>,
    /// Other members.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub change: Vec<MembersChange>,
    /// Members that would join. Buckets are granted to them as to any other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub join: Vec<JoinPool>,
    /// Members that would be gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<String>,
}

/// What there would be.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Previewed {
    /// The plan that would stand.
    #[serde(flatten)]
    pub plan: super::PlanBody,
    /// How many buckets each member would own in the end.
    pub shares: BTreeMap<String, u32>,
    /// Of how many it would be the primary.
    pub primaries: BTreeMap<String, u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_takes_a_capacity_away_and_nothing_leaves_it() {
        let member = Member { capacity: Some(3), ..Member::default() };
        let change = |json: &str| serde_json::from_str::<MembersChange>(json).unwrap();
        assert_eq!(change(r#"{"capacity":null}"#).applied(&member).capacity, None);
        assert_eq!(change(r#"{"capacity":0}"#).applied(&member).capacity, Some(0));
        assert_eq!(change("{}").applied(&member), member);
        assert!(change(r#"{"members":["a"]}"#).is_empty() && !change(r#"{"capacity":null}"#).is_empty());
    }

    #[test]
    fn members_are_meant_by_name_or_labels_and_nobody_by_neither() {
        let member = Member { zone: "a".to_owned(), ..Member::default() };
        let change = |json: &str| serde_json::from_str::<MembersChange>(json).unwrap();
        assert!(change(r#"{"members":["x"]}"#).selects("x", &member));
        assert!(change(r#"{"members":["y"],"labels":{"zone":"a"}}"#).selects("x", &member));
        assert!(!change(r#"{"labels":{"zone":"b"}}"#).selects("x", &member));
        assert!(!change("{}").selects("x", &member));
    }
}
