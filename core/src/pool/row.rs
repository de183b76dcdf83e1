//! Rows: who owns a bucket, in order, and how one row becomes the next.
//!
//! A row's node changes when an owner does. A grant's fence is the `mzxid` of the
//! write that made the grant: an owner that says none was granted by the row's
//! last write. So whoever stays while others change keeps its fence, and a row of
//! one owner says none at all.
//!
//! What becomes of a row:
//!
//! | who | happens | the row then | fences that are new |
//! |---|---|---|---|
//! | preparing | dies | without it | |
//! | preparing | is ready | it is the last of the owners | its own |
//! | backup | dies or lets go | without it | |
//! | primary | dies or lets go | without it; the next owner leads | the next owner's |
//! | primary | steps down | it is the last of the owners; the next leads | both |
//!
//! Deaths are written by the controller ([`crate::assign`]), which alone adds
//! owners; the rest is written in the member's own name, and nothing else is:
//! see [`OwnerAction`].

use serde::{Deserialize, Serialize};

use crate::Zxid;

/// A bucket's entry in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Row {
    /// The owners in order, the first of which is the primary.
    pub owners: Vec<Owner>,
    /// Those who copy the bucket from its primary, to own it next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preparing: Vec<Owner>,
    /// It has owners, but fewer than its pool wants.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub degraded: bool,
}

/// One owner of a bucket: a member, as it joined at one time. The same name
/// joined anew is another owner, and needs a new grant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Owner {
    /// The member's name.
    pub member: String,
    /// The `czxid` of the member's node.
    pub joined: Zxid,
    /// The fence of its grant, if an earlier write than the row's last made it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fence: Zxid,
}

/// What a member does with a row that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerAction {
    /// An owner lets go: it has stopped working on the bucket.
    Release,
    /// The primary goes on as a backup: it has stopped leading.
    StepDown,
    /// It was preparing, and has all that it takes.
    Ready,
}

/// What a member is to a bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", schema(as = BucketRole))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It leads: of all owners it alone does the work.
    #[default]
    Primary,
    /// It is an owner, ready to lead.
    Backup,
    /// It copies the bucket, to own it next.
    Preparing,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(fence: &Zxid) -> bool {
    *fence == 0
}

impl Owner {
    /// A member as an owner that is granted now.
    #[must_use]
    pub fn new(member: &str, joined: Zxid) -> Self {
        Self { member: member.to_owned(), joined, fence: 0 }
    }

    /// Whether that is the same member, which joined at the same time.
    #[must_use]
    pub fn is_same(&self, other: &Owner) -> bool {
        self.member == other.member && self.joined == other.joined
    }

    fn with_new_grant(mut self) -> Self {
        self.fence = 0;
        self
    }
}

impl Row {
    /// A row that nobody owns.
    #[must_use]
    pub fn vacant() -> Self {
        Self::default()
    }

    /// A row with one owner.
    #[must_use]
    pub fn owned_by(owner: Owner) -> Self {
        Self { owners: vec![owner], ..Self::default() }
    }

    /// The first owner.
    #[must_use]
    pub fn primary(&self) -> Option<&Owner> {
        self.owners.first()
    }

    /// The row with the fences that its node's `mzxid` stands for.
    #[must_use]
    pub fn resolve_fences(mut self, mzxid: Zxid) -> Self {
        let named = self.owners.iter_mut().chain(&mut self.preparing);
        named.filter(|owner| owner.fence == 0).for_each(|owner| owner.fence = mzxid);
        self
    }

    /// The row as it is written into its node after one with the fences of `before`: a new
    /// primary is granted anew.
    #[must_use]
    pub fn transition_from(mut self, before: &Row, replicas: usize) -> Self {
        if let Some(first) = self.owners.first_mut()
            && before.primary().is_none_or(|primary| !primary.is_same(first))
        {
            first.fence = 0;
        }
        self.degraded = !self.owners.is_empty() && self.owners.len() < replicas;
        self
    }

    /// Whether it names a member, as an owner or preparing, whenever that joined.
    #[must_use]
    pub fn mentions(&self, member: &str) -> bool {
        self.owners.iter().chain(&self.preparing).any(|owner| owner.member == member)
    }

    /// What a member is to the bucket, and by which grant.
    #[must_use]
    pub fn role_of(&self, member: &str, joined: Zxid) -> Option<(Role, &Owner)> {
        let is_it = |owner: &&Owner| owner.member == member && owner.joined == joined;
        let at = self.owners.iter().position(|owner| is_it(&owner));
        match at {
            Some(0) => Some((Role::Primary, &self.owners[0])),
            Some(at) => Some((Role::Backup, &self.owners[at])),
            None => self.preparing.iter().find(is_it).map(|owner| (Role::Preparing, owner)),
        }
    }

    /// The row that follows from what a member does; `None` if it cannot do that. The row
    /// must have its fences.
    #[must_use]
    pub fn apply_action(&self, who: &Owner, action: OwnerAction, replicas: usize) -> Option<Row> {
        let (role, _) = self.role_of(&who.member, who.joined)?;
        let mut next = self.clone();
        next.owners.retain(|owner| !owner.is_same(who));
        next.preparing.retain(|owner| !owner.is_same(who));
        match (action, role) {
            (OwnerAction::Release, Role::Primary | Role::Backup | Role::Preparing) => {}
            (OwnerAction::StepDown, Role::Primary) if !next.owners.is_empty() => {
                next.owners.push(who.clone().with_new_grant());
            }
            (OwnerAction::Ready, Role::Preparing) => next.owners.push(who.clone().with_new_grant()),
            (OwnerAction::StepDown, _) | (OwnerAction::Ready, Role::Primary | Role::Backup) => return None,
        }
        Some(next.transition_from(self, replicas))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(owners: &[(&str, Zxid)], preparing: &[(&str, Zxid)]) -> Row {
        let named = |all: &[(&str, Zxid)]| {
            all.iter().map(|(name, fence)| Owner { fence: *fence, ..Owner::new(name, 1) }).collect()
        };
        Row { owners: named(owners), preparing: named(preparing), degraded: false }
    }

    #[test]
    fn one_owner_says_no_fence_and_has_that_of_its_row() {
        let row = Row::owned_by(Owner::new("a", 3));
        assert_eq!(serde_json::to_string(&row).unwrap(), r#"{"owners":[{"member":"a","joined":3}]}"#);
        assert_eq!(row.resolve_fences(9).primary().unwrap().fence, 9);
        assert_eq!(serde_json::to_string(&Row::vacant()).unwrap(), r#"{"owners":[]}"#);
    }

    #[test]
    fn who_stays_keeps_its_fence_and_who_leads_anew_gets_another() {
        let before = row(&[("a", 5), ("b", 6), ("c", 7)], &[]);
        let done = |who: &str, action| before.apply_action(&Owner::new(who, 1), action, 3);
        let degraded = |row: Row| Some(Row { degraded: true, ..row });
        assert_eq!(done("b", OwnerAction::Release), degraded(row(&[("a", 5), ("c", 7)], &[])));
        assert_eq!(done("a", OwnerAction::Release), degraded(row(&[("b", 0), ("c", 7)], &[])));
        assert_eq!(done("a", OwnerAction::StepDown), Some(row(&[("b", 0), ("c", 7), ("a", 0)], &[])));
        assert_eq!(done("b", OwnerAction::StepDown), None);
        assert_eq!(done("d", OwnerAction::Release), None);
        assert_eq!(before.apply_action(&Owner::new("a", 2), OwnerAction::Release, 3), None);
    }

    #[test]
    fn whoever_is_ready_owns_it_behind_the_others() {
        let before = row(&[("a", 5)], &[("b", 6), ("c", 7)]);
        let done = |who: &str, action| before.apply_action(&Owner::new(who, 1), action, 2);
        assert_eq!(done("b", OwnerAction::Ready), Some(row(&[("a", 5), ("b", 0)], &[("c", 7)])));
        assert_eq!(done("a", OwnerAction::Ready), None);
        assert_eq!(done("a", OwnerAction::StepDown), None);
        assert_eq!(
            done("b", OwnerAction::Release),
            Some(Row { degraded: true, ..row(&[("a", 5)], &[("c", 7)]) })
        );
        let alone = row(&[], &[("b", 6)]);
        let leads = alone.apply_action(&Owner::new("b", 1), OwnerAction::Ready, 1);
        assert_eq!(leads, Some(row(&[("b", 0)], &[])));
    }
}
