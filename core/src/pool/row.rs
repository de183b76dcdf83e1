//! Rows: who owns a bucket. A row's node changes exactly when the grant does,
//! so its `mzxid` is the grant's fence and its `version` counts the grants.

use serde::{Deserialize, Serialize};

use crate::Zxid;

/// A bucket's entry in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Row {
    /// The owners in order, the first of which is the primary. At most one yet.
    pub owners: Vec<Owner>,
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
        Self { owners: vec![owner] }
    }

    /// The first owner.
    #[must_use]
    pub fn primary(&self) -> Option<&Owner> {
        self.owners.first()
    }
}
